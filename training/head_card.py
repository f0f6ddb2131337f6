"""The model card of a classifier of heads: what it is shown, what it was made of, how well it does, where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.attributes import SMALL, UNSURE, Verdict, spread
from training.heads import ABOVE, HEAD_SHARE, SIDE
from training.settings import Settings

_LIMITS = """\
## Limits

- Who stoops, lies or is cut by the picture's edge has the head elsewhere: the crop shows none, and the scores mean nothing.
- The labels of heads of found persons follow from the boxes labelled in them: one that was not labelled counts as none. A share of the
  errors is theirs.
- Night, infrared, fisheye and views straight from above were not in the data in any number.
- Nobody is recognised and nobody is told from anybody else. Let a person decide before a score has consequences for another.
"""
_HEAD = """\
# {name} {version}

Judges heads: {labels}, each by itself, a score of 0 to 1. Input {size} px, letterboxed. Licence of the weights: Apache-2.0.

The first {blocks} blocks of MobileNetV2 (Google's SSDLite COCO weights, Apache-2.0, slimmed), then one depthwise convolution over the
whole map.
"""
_GEOMETRY = f"""\
## What it is shown

A square that follows from a person's box. With `root = sqrt(width * height)` of the box in pixels of the frame: side {SIDE} root,
centred on the box from left to right, upper edge {ABOVE} root above the box's (`crop` in the manifest). What lies outside the frame
is left out, the rest letterboxed to the input. A head, chin to crown with helmet, is about {HEAD_SHARE} of the side: labelled heads
were enlarged to that in training, and all crops moved and scaled at random.
"""
_ACCURACY = f"""\
## Accuracy

Accuracy at 0.5 and average precision; in brackets the 95 % bootstrap interval over images. *AP without*: of finding heads that lack it,
which is what an alarm is made of. *Unsure*: share with a score of {UNSURE[0]} to {UNSURE[1]}, best left undecided; *sure*: the accuracy of
the others. *Heads of found persons* is how the agent works: persons found by a detector, heads cut out by the rule above. Frames of one
video are alike: the interval of one man's says nothing of other people.

| file | data: attribute | accuracy | AP | AP without | unsure | sure | heads | with | images |
|---|---|---|---|---|---|---|---|---|---|
"""
_SPEED = """\
## Speed

One thread, one crop, this machine; `reference` is YOLOX-nano's architecture on a picture of 416 px in the same run.

| file | ms | against reference |
|---|---|---|
"""


def head_card(
    settings: Settings,
    measured: Mapping[str, Mapping[str, Verdict]],
    latency: Mapping[str, float],
    curves: Sequence[str] = (),
) -> str:
    """Markdown. Every figure in it comes from the run."""
    sources = dict.fromkeys((s.origin or s.path.name, s.licence or "not stated") for s in settings.train)
    parts = [
        _HEAD.format(
            name=settings.name,
            version=settings.version,
            labels=", ".join(settings.labels),
            size=settings.size,
            blocks=len(settings.network.hidden or ()),
        ),
        _GEOMETRY,
        "## Data\n\n| trained on | licence |\n|---|---|\n"
        + "".join(f"| {o} | {licence} |\n" for o, licence in sources),
        _table(measured),
        _small_table(measured),
        _integers(measured),
    ]
    if latency:
        reference = latency.get("reference", 0.0)
        rows = "".join(
            f"| {name} | {ms:.2f} | {f'{ms / reference:.3f}' if reference else ''} |\n" for name, ms in latency.items()
        )
        parts.append(_SPEED + rows)
    parts += [f"![{name}]({name})\n" for name in curves]
    return "\n".join([part for part in parts if part] + [_LIMITS + settings.notes])


def _table(measured: Mapping[str, Mapping[str, Verdict]]) -> str:
    if not measured:
        return ""
    rows = "".join(
        f"| {kind} | {name} | {v.accuracy:.3f} ({spread(v.accuracy_interval)}) | {_ap(v.ap, v.ap_interval)} | {_ap(v.ap_without)} "
        f"| {v.unsure:.3f} | {v.accuracy_sure:.3f} | {v.heads} | {v.positives} | {v.images} |\n"
        for kind, sets in measured.items()
        for name, v in sets.items()
    )
    return _ACCURACY + rows


def _ap(value: float, interval: tuple[float, float] | None = None) -> str:
    if value < 0:
        return "–"
    return f"{value:.3f}" + (f" ({spread(interval)})" if interval else "")


def _small_table(measured: Mapping[str, Mapping[str, Verdict]]) -> str:
    first = next(iter(measured.values()), {})
    rows = "".join(
        f"| {name} | {v.small.accuracy:.3f} ({spread(v.small.accuracy_interval)}) | {_ap(v.small.ap)} | {_ap(v.small.ap_without)} "
        f"| {v.small.heads} | {v.small.positives} |\n"
        for name, v in first.items()
        if v.small is not None
    )
    if not rows:
        return ""
    return (
        f"### Small heads\n\nLess than {SMALL:.0f} px from chin to crown, {next(iter(measured))}.\n\n"
        f"| data: attribute | accuracy | AP | AP without | heads | with |\n|---|---|---|---|---|---|\n{rows}"
    )


def _integers(measured: Mapping[str, Mapping[str, Verdict]]) -> str:
    exact = measured.get("fp32.onnx", {})
    rows = "".join(
        f"| {kind} | {name} | {v.accuracy - exact[name].accuracy:+.4f} | {v.ap - exact[name].ap:+.4f} |\n"
        for kind, sets in measured.items()
        if kind.startswith("int8")
        for name, v in sets.items()
        if name in exact
    )
    if not rows:
        return ""
    return f"### What integers cost\n\nAgainst fp32.onnx.\n\n| file | data: attribute | accuracy | AP |\n|---|---|---|---|\n{rows}"
