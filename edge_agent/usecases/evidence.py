"""Whether something is being done, from frames that show it, show that it is not, or show nothing.

The time for which it was seen adds up, over gaps: ``GRACE_S`` in which it was seen not to be (a missed detection),
``BLIND_S`` in which nothing was seen (somebody passing in front). What did not hold for long enough is forgotten when
it was seen to be over. Longer time in which nothing could be seen is neither: it is kept apart, as the time for which
it *may* have been done.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Truth: TypeAlias = int
"""Kleene's three values, in an order in which *and* is the minimum, *or* the maximum and *not* is ``TRUE - x``."""
FALSE: Final = 0
UNKNOWN: Final = 1
TRUE: Final = 2

GRACE_S: Final = 2.0
BLIND_S: Final = 5.0
TOLERANCE_S: Final = 1e-6
"""0.1 added up ten times is not 1."""


class Evidence:
    """One deed. Times are seconds on the camera's clock. Not thread-safe; fed in frame order, at any rate."""

    __slots__ = (
        "_dark",
        "_doubt_s",
        "_for_s",
        "_gap",
        "_gap_false",
        "_maybe_s",
        "_t",
        "_true_s",
        "began",
        "held_s",
        "last",
        "value",
    )

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._t: float | None = None
        self._gap = self._gap_false = 0.0
        """Since it was last seen: time, and time in which it was seen not to be."""
        self._dark = 0.0
        """Unseen without a break."""
        self._maybe_s = 0.0
        self._true_s = self._doubt_s = 0.0
        """While it was going on: time in which it was seen, and in which it was not."""
        self.value: Truth = FALSE
        self.began: float | None = None
        self.last = 0.0
        """When it was last seen."""
        self.held_s = 0.0
        """For how long it was seen, all in all."""

    def update(self, value: Truth, t: float) -> None:
        """What the frame at ``t`` shows."""
        dt = 0.0 if self._t is None else t - self._t
        self._t, self.value = t, value
        if dt > GRACE_S:  # nobody looked
            self._dark += dt
            self._gap += dt
            dt = 0.0
        if value == TRUE:
            self._see(dt, t)
        elif value == UNKNOWN:
            self._dark += dt
            self._gap += dt
        else:
            self._miss(dt)

    @property
    def confirmed(self) -> bool:
        """It was seen for long enough to be believed."""
        return self.began is not None and self.held_s >= self._for_s - TOLERANCE_S

    @property
    def over(self) -> bool:
        """It has been seen not to be, for longer than a gap; or it has not begun."""
        return self.began is None or self._gap_false > GRACE_S

    @property
    def most_s(self) -> float:
        """For how long it may have been done at most, unseen time included."""
        return self.held_s + self._maybe_s + (self._dark if self._dark > GRACE_S else 0.0)

    @property
    def confidence(self) -> float:
        """Share of the time it was going on, gaps included, in which it was really seen; 0 to 1."""
        both = self._true_s + self._doubt_s
        return self._true_s / both if both > 0 else float(self.began is not None)

    def forget_unseen(self) -> None:
        """It cannot have been done yet: what was unseen so far does not count."""
        self._maybe_s = self._dark = 0.0

    def join(self, later: Evidence) -> None:
        """Go on with ``later``: the same deed, seen meanwhile under another name."""
        if later.began is None:
            return
        if self.began is None:
            self.began = later.began
        elif self._gap_false <= GRACE_S and later.began - self.last <= BLIND_S:
            self.held_s += later.began - self.last
            self._doubt_s += later.began - self.last
            self._dark = 0.0
        self._light()
        self.held_s += later.held_s
        self._true_s += later._true_s
        self._doubt_s += later._doubt_s
        self._t, self.value, self.last = later._t, later.value, later.last
        self._gap, self._gap_false, self._dark = later._gap, later._gap_false, later._dark

    def _see(self, dt: float, t: float) -> None:
        if self.began is None:
            self.began, self._true_s = t, 0.0
        elif self._gap_false <= GRACE_S and self._gap + dt <= BLIND_S:
            self.held_s += self._gap + dt
            self._true_s += dt
            self._doubt_s += self._gap
            self._dark = 0.0
        self._light()
        self._gap = self._gap_false = 0.0
        self.last = t

    def _miss(self, dt: float) -> None:
        self._light()
        self._gap += dt
        self._gap_false += dt
        if self.began is not None and self._gap_false > GRACE_S and not self.confirmed:
            self.began, self.held_s, self._true_s, self._doubt_s = None, 0.0, 0.0, 0.0

    def _light(self) -> None:
        """The unseen time is over. A short one hides nothing."""
        if self._dark > GRACE_S:
            self._maybe_s += self._dark
        self._dark = 0.0
