"""The model card of a classifier of heads: what it is shown, what it was made of, how well it does, where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.attributes import SMALL, UNSURE, Verdict, spread
from training.card import History
from training.heads import ABOVE, HEAD_SHARE, SIDE
from training.latency import Timing
from training.settings import Heads, Settings, Source

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

On the machine that exported it, one crop. `against reference`: by the time that YOLOX-nano's architecture takes for a picture of 416 px
in ONNX Runtime with as many threads, in turns in the same run.

| file | runtime | threads | ms | against reference |
|---|---|---|---|---|
"""


def head_card(
    settings: Settings,
    measured: Mapping[str, Mapping[str, Verdict]],
    timings: Sequence[Timing] = (),
    curves: Sequence[str] = (),
    *,
    history: History | None = None,
) -> str:
    """Markdown. Every figure in it comes from the run."""
    parts = [
        _HEAD.format(
            name=settings.name,
            version=settings.version,
            labels=", ".join(settings.labels),
            size=settings.size,
            blocks=len(settings.network.hidden or ()),
        ),
        _GEOMETRY,
        _data(settings, history),
        _table(measured),
        _small_table(measured),
        _integers(measured),
    ]
    if timings:
        parts.append(_SPEED + "".join(map(_speed, timings)))
    parts += [f"![{name}]({name})\n" for name in curves]
    return "\n".join([part for part in parts if part] + [_LIMITS + settings.notes])


def _data(settings: Settings, history: History | None) -> str:
    counts = history.images if history and len(history.images) == len(settings.train) else ("",) * len(settings.train)
    rows = "".join(
        f"| {source.origin or source.path.name}: {_heads(source)} | {count} | {source.licence or 'not stated'} |\n"
        for source, count in zip(settings.train, counts, strict=True)
    )
    how = f"{settings.schedule.images} crops planned, in batches of {settings.schedule.batch}; seed {settings.seed}."
    if history and history.seen is not None and history.seconds is not None:
        how += (
            f" These weights are from after {history.seen}, {history.seconds / 60:.0f} minutes of computing on a CPU."
        )
    return (
        "## Ingredients\n\nNo training picture is in the model or beside it. Beside the trunk's weights (Apache-2.0):\n\n"
        f"| trained on | images | licence |\n|---|---|---|\n{rows}\n{how}\n"
    )


def _heads(source: Source) -> str:
    heads = source.heads or Heads()
    kind = (
        "of found persons"
        if heads.found_persons
        else f"of labelled {heads.boxes}s".replace("of labelled heads", "as labelled")
    )
    told = sorted({name for attributes in (*heads.attributes.values(), heads.without) for name in attributes})
    return f"heads {kind}{', in grey' if heads.grey else ''} ({', '.join(told)})"


def _speed(timing: Timing) -> str:
    return f"| {timing.file} | {timing.runtime} | {timing.threads} | {timing.ms:.2f} | {timing.ratio:.3f} |\n"


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
