"""One camera's way: frame -> detections -> tracks -> ground -> use cases. The seams the stages meet at stand here."""

from __future__ import annotations

from typing import Protocol

from edge_agent.types import Detections, Frame, Ground, Observation, Output, Pairs, Tracks


class Tracker(Protocol):
    """Multi-object tracking of one camera. Not thread-safe: called from one thread at a time, in frame order."""

    def update(self, detections: Detections, t: float) -> Tracks:
        """Advance to time ``t`` (seconds, never going back) with that frame's detections; owns what it returns no more."""


class GroundProjector(Protocol):
    """Puts tracks of one camera on the floor. Stateful (smoothing), not thread-safe, called in frame order."""

    def update(self, tracks: Tracks, t: float, size: tuple[int, int]) -> tuple[Ground, Pairs]:
        """Positions of all tracks and every pair nearer than 5 m; ``size`` is (width, height) of the source frame."""


class UseCase(Protocol):
    """Turns observations of one camera into events and metrics. Not thread-safe, called in frame order.

    ``update`` never blocks and raises nothing but programming errors. ``close`` ends every open episode at the time of
    the last observation (``reason``: ``end_of_file``, ``shutdown``, ``camera_lost``) and flushes the metrics begun.
    """

    name: str

    @property
    def open_episodes(self) -> int:
        """Episodes that were started and have not ended."""

    def update(self, seen: Observation) -> list[Output]:
        """The changes of state this frame brings, oldest first."""

    def close(self, reason: str) -> list[Output]:
        """End what is open."""


class Detector(Protocol):
    """Finds objects in one frame. ``detect`` may be called from several threads at once."""

    labels: tuple[str, ...]

    def detect(self, frame: Frame) -> Detections:
        """Boxes in source pixels, down to the configured score, after NMS. Raises InferenceError."""
