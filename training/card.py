"""The model card: what it is for, what it was made of, how well it does, where it fails (Mitchell et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.latency import Timing
from training.latency import table as speed_table
from training.metrics import Point, Scores
from training.settings import Settings, Source

if TYPE_CHECKING:
    from training.golden_set import Outcome

_USE = """\
Made to find and count people or things from fixed cameras. Not made to tell who somebody is, and not to protect life or limb: it misses
some and sees some that are not there, as the figures below say.
"""

_LIMITS = """\
## Limits

- Objects less than about 12 pixels high on the network's own scale are mostly missed; see AP small.
- Dense crowds: of persons who overlap by more than the suppression's IoU only one is found.
- Night, infrared, fisheye and views straight from above were not in the data in any number.
- No face is recognised and nobody is told from anybody else: the output is boxes.

## Bias

The data of the models that come with this program is mostly from photo sharing sites and shows more daylight, more adults and more of
North America and Europe than a camera of yours may see. Detection rates by skin tone, age, clothing or wheelchair use were **not**
measured: the data has no labels for it. Measure on your own site before you rely on counts, and fine-tune where it falls short.
"""


@dataclass(frozen=True)
class History:
    """How the weights came about: images seen until then, seconds of computing, and how many images each training set has."""

    seen: int | None
    seconds: float | None
    images: tuple[int, ...] = ()


def model_card(
    settings: Settings,
    measured: Mapping[str, Mapping[str, Scores]],
    timings: Sequence[Timing] = (),
    curves: Sequence[str] = (),
    *,
    golden: Outcome | None = None,
    history: History | None = None,
) -> str:
    """Markdown. Everything in it comes from the run."""
    head = (
        f"# {settings.name} {settings.version}\n\nFinds: {', '.join(settings.labels)}. Input {settings.size} px, letterboxed. "
        f"Licence of the weights: Apache-2.0.\n\n{_USE}"
    )
    parts = [head, _ingredients(settings, history, golden), _training(settings, history)]
    if measured:
        parts += [_scores_table(measured), _points_table(measured)]
    parts += [f"![{name}]({name})\n" for name in curves]
    if golden is not None:
        parts.append(_golden(golden))
    if timings:
        parts.append(
            "## Speed\n\nOn the machine that exported it, batch 1. `against reference`: by the time that YOLOX-nano's architecture takes "
            f"in ONNX Runtime with as many threads, in turns in the same run.\n\n{speed_table(timings)}"
        )
    return "\n".join([*parts, _LIMITS])


def _ingredients(settings: Settings, history: History | None, golden: Outcome | None) -> str:
    n = settings.network
    counts = history.images if history and len(history.images) == len(settings.train) else ("",) * len(settings.train)
    trunk = f"trunk: MobileNetV2 of Google's SSDLite COCO weights{', slimmed' if n.hidden else ''}"
    rows = [(trunk, "", "Apache-2.0"), (f"neck and head: FPN/PAN of {n.width} channels, anchor-free", "", "Apache-2.0")]
    if settings.start_from:
        rows.append((f"start: {settings.start_from.name}", "", "Apache-2.0"))
    if settings.teacher:
        rows.append((f"teacher: {settings.teacher.name}, trained by the same program", "", "Apache-2.0"))
    rows += [
        (f"trained on: {_origin(s)}", str(count), _licence(s)) for s, count in zip(settings.train, counts, strict=True)
    ]
    rows += [(f"measured on: {s.title}, {_origin(s)}", "", _licence(s)) for s in settings.validate_on]
    if golden is not None and golden.min_ap50 is not None:
        rows.append((f"golden pictures in this folder: {golden.origin}", str(golden.images), golden.licence))
    listed = "".join(f"| {what} | {count} | {licence} |\n" for what, count, licence in rows)
    return (
        "## Ingredients\n\nNo training picture is in the model or beside it.\n\n"
        f"| what | images | licence |\n|---|---|---|\n{listed}"
    )


def _origin(source: Source) -> str:
    return source.origin or source.path.name


def _licence(source: Source) -> str:
    return source.licence or "not stated"


def _training(settings: Settings, history: History | None) -> str:
    s, a = settings.schedule, settings.augment
    sizes = ", ".join(map(str, s.sizes))
    still = [f"the first {s.frozen_blocks} blocks of the trunk"] if s.frozen_blocks else []
    still += ["all batch norm"] if s.frozen_norms else []
    lines = [
        f"{s.images} images planned, in batches of {s.batch} at {sizes} px; seed {settings.seed}.",
        f"AdamW, learning rate {s.lr:g} (trunk: {s.trunk_lr:g} of it), weight decay {s.weight_decay:g}.",
        f"Warm-up over {s.warmup} images, constant, then down to nothing over the last {s.decay:.0%}.",
        f"What counts is a running average of the weights ({s.ema:g}).",
        f"Kept as it was: {' and '.join(still) or 'nothing'}.",
        f"Pictures were changed: mosaic of four {a.mosaic:.0%}, scale {a.scale[0]:g} to {a.scale[1]:g}, colours {a.colour:.0%}.",
        f"Also: blur, noise, low light or JPEG {a.degrade:.0%}, grey {a.grey:.0%}.",
    ]
    if history and history.seen is not None and history.seconds is not None:
        lines.insert(
            1,
            f"These weights are from after {history.seen} images, {history.seconds / 3600:.2f} hours of computing on a CPU.",
        )
    else:
        lines.insert(1, "These weights come from an exported file, which does not say how long they were trained.")
    return "## Training\n\n" + "".join(f"- {line}\n" for line in lines)


def _scores_table(measured: Mapping[str, Mapping[str, Scores]]) -> str:
    rows = [
        f"| {kind} | {name} | {s.ap:.3f} | {s.ap50:.3f} ({s.interval[0]:.3f}–{s.interval[1]:.3f}) | {s.ap_small:.3f} "
        f"| {s.ap_medium:.3f} | {s.ap_large:.3f} | {s.recall:.3f} | {s.images} | {s.objects} |\n"
        for kind, sets in measured.items()
        for name, s in sets.items()
    ]
    return (
        "## Accuracy\n\nCOCO's average precision (AP: mean over IoU 0.5 to 0.95; AP50: at 0.5) and average recall (AR: the share found "
        "with any score, mean over the same IoUs); -1: nothing of that size to find. In brackets the 95 % bootstrap interval over "
        "images. The trunk may have seen some of COCO's validation images: figures on them flatter. So do, a little, those on "
        "the first data set: the weights that did best on it were kept.\n\n"
        "| file | data | AP | AP50 | AP small | AP medium | AP large | AR | images | objects |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n" + "".join(rows)
    )


def _points_table(measured: Mapping[str, Mapping[str, Scores]]) -> str:
    rows = [
        f"| {kind} | {name} | {' | '.join(map(_point, s.points))} |\n"
        for kind, sets in measured.items()
        for name, s in sets.items()
        if s.points
    ]
    if not rows:
        return ""
    points = next(s.points for sets in measured.values() for s in sets.values() if s.points)
    asked = " | ".join(f"{p.precision:.0%} right" for p in points)
    return (
        "## In use\n\nA score threshold is chosen for a use. Recall at IoU 0.5, and the score from which on it holds, where at least so "
        "many of the boxes are right:\n\n"
        f"| file | data | {asked} |\n|---|---|{'---|' * len(points)}\n" + "".join(rows)
    )


def _point(point: Point) -> str:
    return f"{point.recall:.3f} from score {point.score:.2f}" if point.recall else "never"


def _golden(golden: Outcome) -> str:
    what = f"{golden.images} pictures with {golden.objects} objects"
    if golden.min_ap50 is None:
        found = ", ".join(f"{name} {ap50:.3f}" for name, ap50 in golden.ap50.items())
        return (
            f"## Golden pictures\n\nNone: on {what} ({golden.origin}) the FP32 file is not good enough for them to tell anything "
            f"(AP50: {found}).\n"
        )
    rows = "".join(f"| {name} | {ap50:.3f} |\n" for name, ap50 in golden.ap50.items())
    return (
        f"## Golden pictures\n\nBy {what} `edge-agent model verify` tells whether the model sees on an accelerator: AP50 must be "
        f"{golden.min_ap50:.3f} or more. They say that it works, not how good it is.\n\n| file | AP50 |\n|---|---|\n{rows}"
    )
