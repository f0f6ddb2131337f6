"""One camera's way: frame -> detections -> tracks -> ground -> use cases. The seams the stages meet at stand here."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from edge_agent.errors import InferenceError
from edge_agent.payload import EndReason
from edge_agent.types import (
    NO_CLOCK,
    Beat,
    Code,
    Detections,
    Event,
    Frame,
    FrameSlot,
    Ground,
    Look,
    ModelTag,
    Observation,
    Output,
    Pairs,
    SensorValue,
    StageClock,
    Tracks,
)

log = logging.getLogger(__name__)


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
    the last observation (``reason``: ``end_of_file``, ``shutdown``) and flushes the metrics begun.
    """

    name: str

    @property
    def open_episodes(self) -> int:
        """Episodes that were started and have not ended."""

    def update(self, seen: Observation) -> list[Output]:
        """The changes of state this frame brings, oldest first."""

    def close(self, reason: EndReason) -> list[Output]:
        """End what is open."""


class Detector(Protocol):
    """Finds objects in one frame. ``detect`` may be called from several threads at once."""

    @property
    def concurrency(self) -> int:
        """How many threads calling at once gain speed, at least 1. May change when another model or device takes over."""

    def detect(self, frame: Frame) -> Detections:
        """Boxes in source pixels, down to the configured score, after NMS. Raises InferenceError."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """What became of one frame: for the record, the panel and snapshots. ``frame`` still holds the image."""

    frame: Frame
    detections: Detections
    tracks: Tracks
    ground: Ground
    pairs: Pairs
    sensors: Mapping[str, SensorValue] = field(default_factory=dict)
    codes: Sequence[Code] = ()
    attributes: Sequence[Look] = ()


def no_looks(_: Frame, __: Tracks) -> Sequence[Look]:
    """Of a camera without a classifier."""
    return ()


@dataclass(slots=True)
class ChainStats:
    """Counters of one camera's chain; written by one thread at a time, read by any without a lock."""

    frames: int = 0
    failed: int = 0
    fps: float = 0.0
    latency_s: float = 0.0
    people: int = 0
    people_max: int = 0
    first_done: float | None = None
    last_done: float | None = None
    last_error: str = ""
    _window: list[float] = field(default_factory=list)

    def done(self, now: float, captured: float, people: int) -> None:
        """Count a processed frame; ``now`` and ``captured`` are monotonic seconds."""
        self.frames += 1
        self.first_done = self.first_done or now
        self.last_done = now
        self.latency_s += 0.1 * (now - captured - self.latency_s) if self.frames > 1 else now - captured
        self.people, self.people_max = people, max(people, self.people_max)
        window = self._window
        window.append(now)
        if len(window) > 1 and (now - window[0] >= 2.0 or len(window) >= 256):
            self.fps = (len(window) - 1) / (now - window[0]) if now > window[0] else 0.0
            del window[:-1]

    def recent_fps(self, now: float) -> float:
        """Processed frames per second; 0 once none came for five seconds."""
        return 0.0 if self.last_done is None or now - self.last_done > 5.0 else self.fps


def no_codes(_: Frame) -> Sequence[Code]:
    """Of a camera that reads none."""
    return ()


class CameraChain:
    """One camera after detection: tracker, ground, use cases. Not thread-safe; fed in frame order.

    ``label`` names the people that ``stats`` counts. ``sensors`` gives their latest values, ``codes`` what was read since
    its last call; both are called for each frame. ``looks`` judges crops of the tracks by classifiers, before the use cases.
    """

    def __init__(
        self,
        camera: str,
        *,
        tracker: Tracker,
        ground: GroundProjector,
        use_cases: Sequence[UseCase],
        emit: Callable[[Sequence[Output]], None],
        on_result: Callable[[FrameResult], None] | None = None,
        sensors: Callable[[], Mapping[str, SensorValue]] = dict,
        looks: Callable[[Frame, Tracks], Sequence[Look]] = no_looks,
        codes: Callable[[Frame], Sequence[Code]] = no_codes,
        label: str = "person",
        clock: StageClock = NO_CLOCK,
    ) -> None:
        self.camera = camera
        self.stats = ChainStats()
        self._tracker, self._ground, self._use_cases = tracker, ground, use_cases
        self._emit, self._on_result, self._sensors, self._codes = emit, on_result, sensors, codes
        self._looks = looks
        self._label = label
        self._clock = clock
        self._model: ModelTag | None = None

    @property
    def open_episodes(self) -> int:
        """Started and not ended, over all use cases."""
        return sum(use_case.open_episodes for use_case in self._use_cases)

    def process(self, frame: Frame, detections: Detections) -> None:
        """Work off one frame."""
        clock = self._clock
        clock.start()
        self._model = detections.model
        tracks = self._tracker.update(detections, frame.t)
        clock.lap("track")
        ground, pairs = self._ground.update(tracks, frame.t, frame.size)
        clock.lap("ground")
        looks = self._looks(frame, tracks)
        sensors, codes = self._sensors(), self._codes(frame)
        about = (frame.camera, frame.index, frame.t, frame.utc, frame.size)
        seen = Observation(*about, tracks, ground, pairs, sensors, codes, looks)
        outputs = [output for use_case in self._use_cases for output in use_case.update(seen)]
        clock.lap("use_cases")
        self._tell(outputs)
        clock.lap("outbox")
        people = sum(tracks.labels[label] == self._label for label in tracks.classes.tolist())
        self.stats.done(time.monotonic(), frame.captured, people)
        if self._on_result is not None:
            self._on_result(FrameResult(frame, detections, tracks, ground, pairs, sensors, codes, looks))
        clock.done(frame, outputs)

    def close(self, reason: EndReason) -> None:
        """End open episodes, see ``UseCase.close``."""
        self._tell([output for use_case in self._use_cases for output in use_case.close(reason)])

    def _tell(self, outputs: list[Output]) -> None:
        """Each event with the model whose frames it rests on."""
        if outputs:
            self._emit([replace(out, model=self._model) if isinstance(out, Event) else out for out in outputs])


class CameraLane:
    """Feeds a camera's chain in frame order, whatever order the frames come back in from the detection workers.

    Whoever brings the frame that is due works off all that are ready; the others only leave theirs, so there is no
    further thread and no queue to bound.
    """

    def __init__(self, slot: FrameSlot, chain: CameraChain) -> None:
        self.slot = slot
        self.chain = chain
        self.due = 0
        """Number of the next ticket to work off: so many went through. Read by others without a lock."""
        self._lock = threading.Lock()
        self._ready: dict[int, tuple[Frame, Detections | None]] = {}
        self._busy = False

    def submit(self, ticket: int, frame: Frame, detections: Detections | None) -> None:
        """Hand in the frame that was taken as number ``ticket``; None where detection failed."""
        with self._lock:
            self._ready[ticket] = (frame, detections)
            if self._busy:
                return
            self._busy = True
        self._work_off()

    def silent(self) -> None:
        """End the open episodes: no frame has come for so long that nobody knows whether they last. From any thread."""
        with self._lock:
            if self._busy:
                return
            self._busy = True
        try:
            self.chain.stats.people = 0
            self.chain.close("camera_gap")
        finally:
            self._work_off()

    def close(self, reason: EndReason) -> bool:
        """End the open episodes; no frame is worked off afterwards.

        False, and nothing is done, while a frame is inside: then a worker hangs in it, and what is open is ended by the
        next start.
        """
        with self._lock:
            if self._busy:
                return False
            self._busy = True  # for good
        self.chain.close(reason)
        return True

    def _work_off(self) -> None:
        """All that is due. Who comes here has set ``_busy``."""
        try:
            while True:
                with self._lock:
                    item = self._ready.pop(self.due, None)
                    if item is None:
                        self._busy = False
                        return
                    self.due += 1
                if item[1] is None:
                    self.chain.stats.failed += 1
                else:
                    self.chain.process(item[0], item[1])
        except BaseException:
            with self._lock:
                self._busy = False
            raise


class DetectionPool:
    """Serves the cameras' slots round-robin with one detector and as many workers as call ``work``.

    ``ready`` is the condition that the slots notify when a frame comes or a slot closes.
    """

    MAX_FAILURES = 10
    """Frames in a row that may fail in the backend before the worker gives up."""

    def __init__(
        self, detector: Detector, lanes: Sequence[CameraLane], ready: threading.Condition, workers: int
    ) -> None:
        self._detector = detector
        self._lanes = lanes
        self._ready = ready
        self._tickets = [0] * len(lanes)
        self._next = 0
        # A slow frame must not let the others of its camera pile up behind it.
        self._limit = workers + 1
        self._failures = 0
        self._detecting = 0
        self._paused = False

    def work(self, beat: Beat) -> None:
        """Detect until every slot is exhausted. Raises InferenceError after MAX_FAILURES failures in a row."""
        while (job := self._take()) is not None:
            lane, ticket, frame = job
            beat.begin()
            detections: Detections | None = None
            try:
                detections = self._detect(lane, frame)
            finally:
                # Also on the way out of a crash: a ticket that never comes back would stop the camera for good.
                try:
                    lane.submit(ticket, frame, detections)
                finally:
                    beat.end()
                    # Who waits may do so for this ticket: its camera was ahead by the limit, or this was its last frame.
                    with self._ready:
                        self._detecting -= 1
                        self._ready.notify_all()

    @contextlib.contextmanager
    def pause(self, timeout_s: float = 30.0) -> Iterator[None]:
        """Take no frame meanwhile; begins when none is inside any more. Raises InferenceError where one does not come out."""
        with self._ready:
            self._paused = True
            empty = self._ready.wait_for(lambda: self._detecting == 0, timeout_s)
        try:
            if not empty:
                raise InferenceError(f"a frame is inside for more than {timeout_s:g} s")
            yield
        finally:
            with self._ready:
                self._paused = False
                self._ready.notify_all()

    def _detect(self, lane: CameraLane, frame: Frame) -> Detections | None:
        try:
            detections = self._detector.detect(frame)
        except InferenceError as error:
            self._failures += 1
            if lane.chain.stats.last_error != str(error):  # the counter tells of the others
                log.warning("camera %s: frame %d: %s", frame.camera, frame.index, error)
            lane.chain.stats.last_error = str(error)
            if self._failures >= self.MAX_FAILURES:
                raise
            return None
        self._failures = 0
        return detections

    def _take(self) -> tuple[CameraLane, int, Frame] | None:
        with self._ready:
            while True:
                # More threads than the device gains from would take fresh frames only to let them grow old.
                free = not self._paused and self._detecting < self._detector.concurrency
                n = len(self._lanes) if free else 0
                for step in range(n):
                    i = (self._next + step) % n
                    lane = self._lanes[i]
                    if self._tickets[i] - lane.due >= self._limit:
                        continue
                    frame = lane.slot.take()
                    if frame is not None:
                        self._next = (i + 1) % n
                        ticket = self._tickets[i]
                        self._tickets[i] += 1
                        self._detecting += 1
                        return lane, ticket, frame
                if all(lane.slot.exhausted for lane in self._lanes):
                    return None
                self._ready.wait()
