"""Heads from boxes: where a person's head is looked for, and what is known of it. Needs numpy only.

A classifier is shown a square around a head. At run time that square follows from the person's box alone, so it does
here: ``person_square`` is the one place where the geometry stands, and its two numbers go to the model's manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.adapters import F32, DataError, Sample, read_yolo
from training.data import read_source
from training.settings import Attributes, Heads, Source

I8 = NDArray[np.int8]
PERSONS = "persons"
"""Folder beside ``images`` and ``labels`` where ``training persons`` puts what it found."""
SIDE, ABOVE = 0.6, 0.13
"""The square's side and its overhang above the person's box, in square roots of the box's area."""
HEAD_SHARE = 0.63
"""Of the square's side: a head from chin to crown, helmet included. In median 0.38 roots on 382 helmets at work."""
UNKNOWN = -1
_PLAUSIBLE = (0.25, 1.1)
"""A labelled head's longer side over the square's, for it to be this person's."""
_MIDDLE = 0.35
"""Of the side: whose middle is farther from the square's is likely another person's."""
_TOUCHES = 0.1


def person_square(persons: F32) -> F32:
    """The square to look for the head in, for persons (N,4) xyxy in pixels; it may reach beyond the picture.

    With ``root = sqrt(width * height)``: side ``0.6 * root``, centred on the box from left to right, its upper edge
    ``0.13 * root`` above the box's. The root and not the height, because of a person who sits or whose legs are hidden more
    of the box is head: the head's share of the height goes from 0.21 (upright) to 0.4, that of the root stays.
    """
    root = np.sqrt((persons[:, 2:] - persons[:, :2]).clip(1e-6).prod(axis=1))
    left, top = persons[:, ::2].mean(axis=1) - root * SIDE / 2, persons[:, 1] - root * ABOVE
    return np.stack((left, top, left + root * SIDE, top + root * SIDE), axis=1).astype(np.float32)


def head_square(heads: F32) -> F32:
    """The square that ``person_square`` would have given for labelled heads (N,4) xyxy in pixels, chin to crown."""
    half = (heads[:, 2:] - heads[:, :2]).max(axis=1) / HEAD_SHARE / 2
    x, y = heads[:, ::2].mean(axis=1), heads[:, 1::2].mean(axis=1)
    return np.stack((x - half, y - half, x + half, y + half), axis=1).astype(np.float32)


@dataclass(frozen=True)
class Labelled:
    """A sample of a data set and, where asked for, the persons found on it (M,4) xyxy in fractions."""

    sample: Sample
    persons: F32 | None


def read_heads(source: Source) -> list[Labelled]:
    """A source's samples for a classifier. Raises DataError, also where the persons have yet to be found."""
    samples = read_source(source)
    if not _settings(source).found_persons:
        return [Labelled(sample, None) for sample in samples]
    if not (source.path / PERSONS).is_dir():
        raise DataError(
            f"{source.path}: no folder {PERSONS!r} in it; find them first: python -m training persons {source.path} --from WEIGHTS"
        )
    found = {s.image: s.boxes for s in read_yolo(source.path, source.prefixes, PERSONS)}
    return [Labelled(sample, found[sample.image]) for sample in samples]


def _settings(source: Source) -> Heads:
    assert source.heads is not None
    return source.heads


def squares(labelled: Labelled, heads: Heads, labels: Sequence[str], size: tuple[int, int]) -> tuple[F32, I8]:
    """Squares (N,4) in pixels of the image of ``size`` = (width, height), and their attributes (N,A): 1, 0 or ``UNKNOWN``.

    Heads of which nothing is known are left out.
    """
    scale = np.array([*size, *size], np.float32)
    boxes, classes = labelled.sample.boxes * scale, labelled.sample.classes
    if labelled.persons is None:
        found = head_square(boxes) if heads.boxes == "head" else person_square(boxes)
        known = [_row(heads.attributes.get(int(c), {}), labels) for c in classes]
    else:
        persons = labelled.persons * scale
        found = person_square(persons)
        owner = _owners(boxes, found)
        known = []
        for i, (square, person) in enumerate(zip(found, persons, strict=True)):
            mine = np.flatnonzero(owner == i)
            if len(mine) == 1:
                known.append(_row(heads.attributes.get(int(classes[mine[0]]), {}), labels))
            else:  # two at once, or another's beside it: nobody knows which it is
                bare = not len(mine) and person[1] > 1 and not _near(boxes, square, person).any()
                known.append(_row(heads.without if bare else {}, labels))
    attributes = np.array(known, np.int8).reshape(-1, len(labels))
    some = (attributes != UNKNOWN).any(axis=1)
    return found[some], attributes[some]


def _row(attributes: Attributes, labels: Sequence[str]) -> list[int]:
    return [attributes.get(label, UNKNOWN) for label in labels]


def _owners(boxes: F32, found: F32) -> NDArray[np.intp]:
    """For each labelled head the square it lies in, the one whose middle is nearest; -1 where it lies in none."""
    if not len(boxes) or not len(found):
        return np.full(len(boxes), -1, np.intp)
    centres, sides = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2, found[None, :, 2] - found[None, :, 0]
    away = (centres - (found[None, :, :2] + found[None, :, 2:]) / 2) / sides[..., None]
    share = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)[:, None] / sides
    fits = (np.abs(away) < _MIDDLE).all(axis=-1) & (share > _PLAUSIBLE[0]) & (share < _PLAUSIBLE[1])
    distance = np.where(fits, np.linalg.norm(away, axis=-1), np.inf)
    return np.where(fits.any(axis=1), distance.argmin(axis=1), -1)


def _near(boxes: F32, square: F32, person: F32) -> NDArray[np.bool_]:
    """Labelled heads that reach into the square or whose middle lies in the person: whoever stoops has it elsewhere."""
    low, high = np.maximum(boxes[:, :2], square[:2]), np.minimum(boxes[:, 2:], square[2:])
    covered = (high - low).clip(0).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).clip(1e-6).prod(axis=1)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((middle > person[:2]) & (middle < person[2:])).all(axis=1)
    return (covered > _TOUCHES) | inside
