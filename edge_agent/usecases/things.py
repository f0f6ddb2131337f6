"""Who and what is in the scene, also while hidden: identities of people and objects over the gaps and slips of a tracker.

- A track that jumps farther than anybody walks, to where somebody else just was, goes on with that one.
- A new track near the place where somebody vanished goes on with that one, once it was seen for long enough to be no
  false box; after more than a moment only where it did not just come into the picture, so that whoever walks in is not
  taken for somebody who is hidden.
- Who walked out over the border of the frame has left. Who vanished within it is hidden, for ``HIDDEN_S`` at most.
- An object is remembered for a moment, or for as long as a person who came in front of it covers the place it was at.

Lengths are body heights, so the distance from the camera has no parameter. All rows are kept as arrays; what happens
in every frame has no loop over people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F64, I64, Bools, Observation, Tracks
from edge_agent.usecases.evidence import GRACE_S, TOLERANCE_S

Rows = NDArray[np.intp]
HIDDEN_S = 60.0
LEFT_S = 4.0
COVERED_S = 120.0
KNOWN_S = 1.5
"""Whoever was in view for less and vanishes was probably never there."""
_JUMP, _JUMP_PER_S = 0.25, 0.5
"""Body heights that a track may be off from where it should be; the second for each second since it was seen."""
_REACH, _REACH_PER_S, _REACH_MOST = 0.7, 1.0, 5.0
"""... and that a newcomer may be off from somebody who vanished."""
_MOMENT_S = 2.0
_SURE_S = 0.7
"""A newcomer seen for so long is believed."""
_BORDER = 0.015
"""Of the frame: a box that ends nearer to the border touches it."""
_OUTWARD, _FASTEST = 0.15, 4.0
"""Body heights per second."""
_PACE_TAU_S = 0.7
_SPEED_TAU_S = 1.0

_ROW = np.dtype(
    [
        ("id", "i8"),
        ("track", "i8"),
        ("label", "i4"),
        ("born", "f8"),
        ("seen", "f8"),
        ("left", "?"),
        ("new", "?"),
        ("walked_in", "?"),
        ("front", "?"),
        ("at", "f8", 2),
        ("xy", "f8", 2),
        ("speed", "f8", 2),
        ("pace", "f8", 2),
        ("box", "f8", 4),
    ]
)
"""``xy`` metres on the floor, ``speed`` its smoothed change per second; ``pace`` that of the box's centre, pixels. ``new``:
may yet turn out to be somebody who vanished; ``at`` where its first box was, ``walked_in`` whether at the border;
``front``: an object that was last seen before somebody's body, so that this body does not hide it."""


@dataclass(frozen=True, slots=True, eq=False)
class Things:
    """N people and objects at one moment: those seen in this frame and those remembered.

    ``ids`` (N,) are stable while a thing is remembered; ``labels`` (N,) codes of ``Memory.code``; ``boxes`` (N,4)
    pixels, the last seen; ``unseen_s`` (N,) seconds, 0 where seen now; ``left`` (N,): walked out of the picture;
    ``xy`` (N,2) metres on the floor or NaN; ``speed_mps`` (N,) or NaN; ``tracks`` (N,) the tracker's last id; ``new``
    (N,): may yet turn out to be somebody who had vanished.
    """

    ids: I64
    labels: NDArray[np.int32]
    boxes: F64
    unseen_s: F64
    left: Bools
    xy: F64
    speed_mps: F64
    tracks: I64
    new: Bools
    renamed: tuple[tuple[int, int], ...] = ()
    """Newcomers who turned out now to be somebody who had vanished: the id they had, and the one they go on with."""


class Memory:
    """The things of one camera. ``person`` labels those who hide and whose sizes are the measure. Not thread-safe."""

    def __init__(self, person: str = "person") -> None:
        self._codes: dict[str, int] = {person: 0}
        self._labels: tuple[str, ...] = ()
        self._map = np.zeros(0, np.int32)
        self._rows: NDArray[Any] = np.zeros(0, _ROW)
        self._next_id = 1

    def code(self, label: str) -> int:
        """The number that stands for a label; 0 for the person's."""
        return self._codes.setdefault(label, len(self._codes))

    def update(self, seen: Observation) -> Things:
        """Go on with the next frame."""
        tracks, t = seen.tracks, seen.t
        there = np.flatnonzero(~tracks.predicted)
        boxes = tracks.boxes[there].astype(np.float64)
        now = _Seen(tracks.ids[there], self._label_codes(tracks)[there], boxes, seen.size)
        self._see(self._recognise(now, t), now, seen.ground.xy[there], t)
        renamed = self._adopt(t)
        self._mark_left(t, seen.size)
        self._forget(t)
        kept = self._rows
        unseen = t - kept["seen"]
        speed = np.hypot(kept["speed"][:, 0], kept["speed"][:, 1])
        young = kept["seen"] - kept["born"] < _SPEED_TAU_S / 2
        return Things(
            ids=kept["id"],
            labels=kept["label"],
            boxes=kept["box"],
            unseen_s=unseen,
            left=kept["left"],
            xy=kept["xy"],
            speed_mps=np.where(young, np.nan, speed),
            tracks=kept["track"],
            new=kept["new"],
            renamed=renamed,
        )

    def _label_codes(self, tracks: Tracks) -> NDArray[np.int32]:
        if tracks.labels is not self._labels:
            self._labels = tracks.labels
            self._map = np.array([self.code(label) for label in tracks.labels] or [0], np.int32)
        return self._map[tracks.classes]

    # ---- who is who

    def _recognise(self, seen: _Seen, t: float) -> Rows:
        """The row of each track seen now; new rows are begun where there is none."""
        known = self._rows
        of_track: Mapping[int, int] = {track: row for row, track in enumerate(known["track"].tolist())}
        rows = np.array([of_track.get(ident, -1) for ident in seen.tracks.tolist()], np.intp)
        old = np.flatnonzero(rows >= 0)
        if len(old):
            at = rows[old]
            off = np.minimum(*self._off(at, seen.centres[old], t)) / seen.scale[old]
            astray = off > _JUMP + _JUMP_PER_S * (t - known["seen"][at])
            astray |= known["label"][at] != seen.labels[old]
            if astray.any():
                loose = self._usurping(rows, at[astray], seen, t)
                loose[old[astray]] = True
                self._exchange(rows, np.flatnonzero(loose), seen, t)
        fresh = np.flatnonzero(rows < 0)
        if len(fresh):
            rows[fresh] = len(known) + np.arange(len(fresh))
            self._begin(seen, fresh, t)
        return rows

    def _usurping(self, rows: Rows, missing: Rows, seen: _Seen, t: float) -> Bools:
        """Which tracks stand where one of the rows ``missing`` should be, and are not that one: they may be."""
        usurping = np.zeros(len(rows), bool)
        for row in missing.tolist():
            off = np.minimum(*self._off(np.full(len(rows), row), seen.centres, t)) / seen.scale
            usurping |= (off <= _JUMP) & (rows != row)
        return usurping

    def _exchange(self, rows: Rows, loose: Rows, seen: _Seen, t: float) -> None:
        """Give ``loose`` tracks to whoever is near and has no other track, nearest first.

        A track with nobody near keeps its own: who moves oddly is still more likely than who is nobody.
        """
        own = rows[loose]
        rows[loose] = -1
        options = []
        for row in np.setdiff1d(np.arange(len(self._rows)), rows).tolist():
            off = self._off(np.full(len(loose), row), seen.centres[loose], t)[1] / seen.scale[loose]
            gone = t - self._rows["seen"][row]
            same = seen.labels[loose] == self._rows["label"][row]
            near = np.flatnonzero((off <= _REACH + _REACH_PER_S * gone) & same & (gone <= _MOMENT_S))
            options += [(off[i], int(loose[i]), row) for i in near]
        for column, row in _nearest_first(options):
            rows[column] = row
        for column, row in zip(loose.tolist(), own.tolist(), strict=True):
            free = rows[column] < 0 <= row and row not in rows
            if free and self._rows["label"][row] == seen.labels[column]:
                rows[column] = row

    def _off(self, rows: Rows, centres: F64, t: float | F64) -> tuple[F64, F64]:
        """Pixels from where ``rows`` were last, and from where they would have come to by ``t``, walking on for a moment."""
        box = self._rows["box"][rows]
        last = (box[:, :2] + box[:, 2:]) / 2
        ahead = self._rows["pace"][rows] * np.clip(t - self._rows["seen"][rows], 0, 0.5)[:, None]
        apart = centres - last
        return np.hypot(apart[:, 0], apart[:, 1]), np.hypot(apart[:, 0] - ahead[:, 0], apart[:, 1] - ahead[:, 1])

    def _begin(self, seen: _Seen, columns: Rows, t: float) -> None:
        new = np.zeros(len(columns), _ROW)
        new["id"] = np.arange(self._next_id, self._next_id + len(new))
        new["label"], new["box"], new["walked_in"] = seen.labels[columns], seen.boxes[columns], seen.entering[columns]
        new["born"], new["seen"], new["new"], new["at"], new["xy"] = t, t, True, seen.centres[columns], np.nan
        self._next_id += len(new)
        self._rows = np.concatenate([self._rows, new])

    def _adopt(self, t: float) -> tuple[tuple[int, int], ...]:
        """Newcomers that are sure by now go on with somebody who vanished before, where one fits."""
        kept = self._rows
        young = np.flatnonzero(kept["new"] & (t - kept["born"] >= _SURE_S - TOLERANCE_S) & (kept["seen"] == t))
        if not len(young):
            return ()
        kept["new"][young] = False
        options = []
        for row in np.flatnonzero((kept["seen"] < t) & ~kept["new"]).tolist():
            gone = kept["born"][young] - kept["seen"][row]
            still, ahead = self._off(np.full(len(young), row), kept["at"][young], kept["born"][young])
            scale = np.maximum(kept["box"][young, 3] - kept["box"][young, 1], kept["box"][row, 3] - kept["box"][row, 1])
            fits = np.minimum(still, ahead) / scale <= np.minimum(_REACH + _REACH_PER_S * gone, _REACH_MOST)
            fits &= (kept["label"][young] == kept["label"][row]) & (gone > -_SURE_S / 2)
            fits &= (gone <= _MOMENT_S) | ~(kept["walked_in"][young] | kept["left"][row])
            # Where somebody was going decides between two who are both near enough.
            options += [(ahead[i] / scale[i], int(young[i]), row) for i in np.flatnonzero(fits)]
        replaced, renamed = [], []
        for newcomer, row in _nearest_first(options):
            renamed.append((int(kept["id"][newcomer]), int(kept["id"][row])))
            kept["id"][newcomer], kept["born"][newcomer] = kept["id"][row], kept["born"][row]
            replaced.append(row)
        if replaced:
            self._rows = np.delete(kept, replaced)
        return tuple(renamed)

    def _see(self, rows: Rows, seen: _Seen, xy: F64, t: float) -> None:
        idents, boxes = seen.tracks, seen.boxes
        kept = self._rows
        if (kept["track"][rows] != idents).any():
            kept["track"][np.isin(kept["track"], idents)] = 0  # a track belongs to one thing only
            kept["track"][rows] = idents
        dt = (t - kept["seen"][rows])[:, None]
        if dt.any():
            old, dt = kept["box"][rows], np.maximum(dt, 1e-9)
            step = (boxes[:, :2] + boxes[:, 2:] - old[:, :2] - old[:, 2:]) / 2
            step[(np.abs(step) > _FASTEST * dt * seen.scale[:, None]).any(axis=1)] = (
                0  # the tracker's slip, nobody's pace
            )
            kept["pace"][rows] += (1 - np.exp(-dt / _PACE_TAU_S)) * (step / dt - kept["pace"][rows])
            walked = (xy - kept["xy"][rows]) / dt
            speed = kept["speed"][rows]
            speed += (1 - np.exp(-dt / _SPEED_TAU_S)) * (np.where(np.isnan(walked), speed, walked) - speed)
            kept["speed"][rows] = speed
        kept["box"][rows], kept["xy"][rows], kept["seen"][rows], kept["left"][rows] = boxes, xy, t, False
        objects = seen.labels > 0
        if objects.any():
            kept["front"][rows[objects]] = _covered(boxes[objects], boxes[~objects])

    # ---- who is gone

    def _mark_left(self, t: float, size: tuple[int, int]) -> None:
        gone = np.flatnonzero((self._rows["seen"] < t) & (self._rows["label"] == 0) & ~self._rows["left"])
        if not len(gone):
            return
        box, pace = self._rows["box"][gone], self._rows["pace"][gone]
        height = box[:, 3] - box[:, 1]
        # A box that the border cuts no longer moves with the person; what it did before says where it was going.
        ahead = pace * np.minimum(t - self._rows["seen"][gone] + 0.3, 1.0)[:, None]
        fast, whole = _OUTWARD * height[:, None], np.array(size)
        outward = (box[:, :2] + ahead < _BORDER * whole) & (pace < -fast)
        outward |= (box[:, 2:] + ahead > (1 - _BORDER) * whole) & (pace > fast)
        self._rows["left"][gone] = outward[:, 0] | outward[:, 1]

    def _forget(self, t: float) -> None:
        kept = self._rows
        unseen = t - kept["seen"]
        if not unseen.any():
            return
        person = kept["label"] == 0
        patience = np.where(kept["left"], LEFT_S, HIDDEN_S)
        patience[~person | (kept["seen"] - kept["born"] < KNOWN_S)] = GRACE_S
        patience[kept["new"]] = _SURE_S
        late = (unseen > patience) & ~person & ~kept["front"] & ~kept["new"] & (unseen <= COVERED_S)
        if late.any():
            late[late] = _covered(kept["box"][late], kept["box"][person & (unseen == 0)])
        keep = (unseen <= patience) | late
        if not keep.all():
            self._rows = kept[keep]


class _Seen:
    """N tracks seen in one frame: ids, label codes, boxes (N,4) and their centres (N,2), pixels.

    ``scale`` (N,) is the body height near each: a person's own, for an object that of the people or at least its own
    size. ``entering`` (N,): it reaches the left, right or upper border; the lower one cuts many who stand there.
    """

    def __init__(self, tracks: I64, labels: NDArray[np.int32], boxes: F64, size: tuple[int, int]) -> None:
        self.tracks, self.labels, self.boxes = tracks, labels, boxes
        self.centres: F64 = (boxes[:, :2] + boxes[:, 2:]) / 2
        own = np.maximum(boxes[:, 3] - boxes[:, 1], 1.0)
        person = labels == 0
        if not person.all():
            bodies = float(own[person].mean()) if person.any() else 0.0
            own = np.where(person, own, np.maximum(np.maximum(own, boxes[:, 2] - boxes[:, 0]), 0.6 * bodies))
        self.scale: F64 = own
        edge = _BORDER * np.array(size)
        self.entering: Bools = (boxes[:, :2] < edge).any(axis=1) | (boxes[:, 2] > size[0] - edge[0])


def _nearest_first(options: list[tuple[float, int, int]]) -> Iterator[tuple[int, int]]:
    """Pairs of (distance, newcomer, known), each of both at most once."""
    newcomers: set[int] = set()
    known: set[int] = set()
    for _, newcomer, row in sorted(options):
        if newcomer not in newcomers and row not in known:
            newcomers.add(newcomer)
            known.add(row)
            yield newcomer, row


def _covered(boxes: F64, by: F64) -> Bools:
    """(N,) whether half of a box or more is covered by one of the others."""
    if not len(by):
        return np.zeros(len(boxes), bool)
    low = np.maximum(boxes[:, None, :2], by[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], by[None, :, 2:])
    both, own = np.maximum(high - low, 0), np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-9)
    covered: Bools = (both[..., 0] * both[..., 1] >= 0.5 * (own[:, 0] * own[:, 1])[:, None]).any(axis=1)
    return covered
