"""The model card: what it is for, what it was made of, how well it does, where it fails (Mitchell et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.metrics import Scores
from training.settings import Settings

_LIMITS = """\
## Limits

- Objects less than about 12 pixels high on the network's own scale are mostly missed; see AP small.
- Dense crowds: of persons who overlap by more than the suppression's IoU only one is found.
- Night, infrared, fisheye and views straight from above were not in the data in any number.
- No face is recognised and nobody is told from anybody else: the output is boxes.

## Bias

The pictures are mostly from photo sharing sites and show more daylight, more adults and more of North America and Europe than a camera
of yours may see. Detection rates by skin tone, age, clothing or wheelchair use were **not** measured: the data has no labels
for it. Measure on your own site before you rely on counts, and fine-tune where it falls short.
"""


def model_card(
    settings: Settings,
    measured: Mapping[str, Mapping[str, Scores]],
    latency: Mapping[str, float],
    curves: Sequence[str] = (),
) -> str:
    """Markdown. Everything in it comes from the run."""
    n = settings.network
    head = (
        f"# {settings.name} {settings.version}\n\nFinds: {', '.join(settings.labels)}. Input {settings.size} px, letterboxed. "
        "Licence of the weights: Apache-2.0.\n\n"
        f"MobileNetV2 trunk (Google's SSDLite COCO weights, Apache-2.0{', slimmed' if n.hidden else ''}), depthwise FPN/PAN neck "
        f"of {n.width} channels, anchor-free head.\n"
    )
    parts = [
        head,
        "## Data\n\n| trained on | licence |\n|---|---|\n"
        + "".join(f"| {s.origin or s.path.name} | {s.licence or 'not stated'} |\n" for s in settings.train),
        _scores_table(measured),
    ]
    if latency:
        reference = latency.get("reference")
        rows = "".join(
            f"| {name} | {ms:.1f} | {f'{ms / reference:.2f}' if reference else ''} |\n" for name, ms in latency.items()
        )
        parts.append(
            "## Speed\n\nOne thread, batch 1, this machine; `reference` is YOLOX-nano's architecture in the same run.\n\n"
            f"| file | ms | against reference |\n|---|---|---|\n{rows}"
        )
    parts += [f"![{name}]({name})\n" for name in curves]
    return "\n".join([*parts, _LIMITS])


def _scores_table(measured: Mapping[str, Mapping[str, Scores]]) -> str:
    rows = [
        f"| {kind} | {name} | {s.ap:.3f} | {s.ap50:.3f} ({s.interval[0]:.3f}–{s.interval[1]:.3f}) | {s.ap_small:.3f} "
        f"| {s.ap_medium:.3f} | {s.ap_large:.3f} | {s.recall:.3f} | {s.images} |\n"
        for kind, sets in measured.items()
        for name, s in sets.items()
    ]
    return (
        "## Accuracy\n\nCOCO's average precision; in brackets the 95 % bootstrap interval over images. The trunk may have seen some "
        "of COCO's validation images: figures on them flatter.\n\n"
        "| file | data | AP | AP50 | AP small | AP medium | AP large | recall | images |\n|---|---|---|---|---|---|---|---|---|\n"
        + "".join(rows)
    )
