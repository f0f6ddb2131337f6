"""Which frames are kept for training: those that the model finds hard, as many as a day allows, persons made unrecognisable.

A camera's thread only looks at scores and flags, and not even that within the pause after a sample; pictures are made and written by a
thread of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edge_agent.config import Config, TrackConfig
from edge_agent.errors import EdgeAgentError
from edge_agent.model_beside import same_boxes
from edge_agent.pipeline import FrameResult
from edge_agent.sample_store import MAX_BOXES, Box, Reason, Sample, SampleStore, utc_day
from edge_agent.snapshot import pixelate
from edge_agent.types import F32, Beat, Detections, Frame, Tracks

log = logging.getLogger(__name__)

DAY_S = 86_400.0
PEAK = 4
"""A day's samples may come within a fourth of it: where something happens, and not spread over the night."""
LOW_DISK_MB = 200
"""Left free beside what the outbox may come to need."""
TIDY_S = 60.0
DEADLINE_S = 30.0
QUALITY = 90
EXTRA_BYTES = 16_384
"""For the JSON file."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A frame to keep."""

    frame: Frame
    reason: Reason
    detections: Detections
    tracks: Tracks | None = None
    other: Detections | None = None


class Sampler:
    """``seen`` and ``compared`` are called by the threads that work on frames, ``work`` by one of its own.

    ``config`` gives the configuration of the moment: what it says of privacy holds at once.
    """

    def __init__(self, config: Callable[[], Config], clock: Callable[[], float] = time.monotonic) -> None:
        self._config, self._clock = config, clock
        self.store = SampleStore(config().state_dir / "samples")
        settings = config()
        self._pause_s = DAY_S / settings.samples.per_day / PEAK * len(settings.cameras)
        self._next: dict[str, float] = {}
        self._waiting: _Found | None = None
        self._news = threading.Event()
        self._tidied, self._trouble = float("-inf"), ""
        self.on = settings.samples.enabled and settings.privacy.images
        """Whether any are kept. Where not, those that are there still grow old."""
        if settings.samples.enabled and not self.on:
            log.warning("samples: none are kept, as privacy.images is false")

    # ---- the threads of the frames

    def seen(self, result: FrameResult) -> None:
        """A frame went all the way."""
        if self._resting(result.frame.camera):
            return
        reason = hard(result, self._config().track)
        if reason is not None:
            self._keep(_Found(result.frame, reason, result.detections, result.tracks))

    def compared(self, frame: Frame, found: Detections, other: Detections | EdgeAgentError, _: float) -> None:
        """Another model has looked at a frame too; see ``model_beside.Told``."""
        if isinstance(other, EdgeAgentError) or self._resting(frame.camera):
            return
        if len(alone(found, other, self._config().track)) or len(alone(other, found, self._config().track)):
            self._keep(_Found(frame, "shadow", found, other=other))

    def _resting(self, camera: str) -> bool:
        return self._waiting is not None or self._clock() < self._next.get(camera, 0.0)

    def _keep(self, found: _Found) -> None:
        self._next[found.frame.camera] = self._clock() + self._pause_s
        self._waiting = found
        self._news.set()

    # ---- its own thread

    def work(self, beat: Beat, stop: threading.Event) -> None:
        """Until ``stop``."""
        while not stop.is_set():
            self._news.wait(0.5)
            self._news.clear()
            beat.begin()
            try:
                self._turn()
            except OSError as error:
                if str(error) != self._trouble:
                    log.error("samples: %s; none are kept until that is over", error)
                self._trouble = str(error)
            finally:
                self._waiting = None
                beat.end()

    def _turn(self) -> None:
        found, now = self._waiting, self._clock()
        if found is None and now - self._tidied < TIDY_S:
            return
        config, day, self._tidied = self._config(), utc_day(), now
        picture = None
        if found is not None and self.store.taken(day) < config.samples.per_day:
            self.store.take(day)
            picture = picture_of(found, config)
        room = self.store.tidy(
            max_bytes=config.samples.max_mb * 1e6,
            keep_free=(config.outbox.max_mb + LOW_DISK_MB) * 1e6,
            oldest_utc=time.time() - config.privacy.retention_days * DAY_S,
            extra=0 if picture is None else len(picture[1]) + EXTRA_BYTES,
        )
        if picture is not None and room:
            self.store.add(*picture)
            self._trouble = ""
        elif picture is not None:
            raise OSError(f"{self.store.folder}: what is free on this disk is left to the outbox")


def hard(result: FrameResult, config: TrackConfig) -> Reason | None:
    """Why a frame is worth a look, if it is: a known object was not seen in it, or one is seen of which the model is unsure."""
    if result.tracks.predicted.any():
        return "lost"
    scores = result.detections.scores
    # Fainter ones are in every frame, and are mostly nothing.
    doubt = (scores < config.high_score) & (scores >= (config.low_score + config.high_score) / 2)
    return "uncertain" if doubt.any() else None


def alone(a: Detections, b: Detections, config: TrackConfig) -> list[int]:
    """Rows of ``a`` of which it is sure and that ``b`` does not see at all, of labels that ``b`` knows."""
    matched = {i for i, _ in same_boxes(a, b.select(b.scores >= config.low_score))}
    sure = np.flatnonzero(a.scores >= config.high_score).tolist()
    return [row for row in sure if row not in matched and a.labels[a.classes[row]] in b.labels]


def picture_of(found: _Found, config: Config) -> tuple[Sample, bytes]:
    """The sample and its JPEG. What was found is pixelated, however unsure, unless privacy says otherwise."""
    import cv2

    image, hide = found.frame.image, config.privacy.pixelate
    if hide:
        image = image.copy()
        for boxes in _all_boxes(found):
            pixelate(image, boxes)
    ok, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not ok:
        raise OSError(f"a picture of shape {image.shape} cannot be encoded")
    frame, model, other = found.frame, found.detections.model, found.other
    sample = Sample(
        camera=frame.camera,
        frame=frame.index,
        kept=time.time(),
        utc=frame.utc,
        size=frame.size,
        reason=found.reason,
        model=model.label if model is not None else "",
        shadow=other.model.label if other is not None and other.model is not None else "",
        pixelated=hide,
        sure=config.track.high_score,
        boxes=tuple(_boxes(found, config.track))[:MAX_BOXES],
    )
    return sample, jpeg.tobytes()


def _all_boxes(found: _Found) -> Iterator[F32]:
    yield found.detections.boxes
    if found.tracks is not None:
        yield found.tracks.boxes
    if found.other is not None:
        yield found.other.boxes


def _boxes(found: _Found, config: TrackConfig) -> Iterator[Box]:
    detections = found.detections
    for row in np.flatnonzero(detections.scores >= config.low_score).tolist():
        yield _box(detections, row)
    if (tracks := found.tracks) is not None:
        for row in np.flatnonzero(tracks.predicted).tolist():
            corners = [round(x, 2) for x in tracks.boxes[row].tolist()]
            label = tracks.labels[tracks.classes[row]]
            yield Box(box=tuple(corners), label=label, score=round(float(tracks.scores[row]), 4), by="track")
    if (other := found.other) is not None:
        for row in alone(other, detections, config):
            yield _box(other, row).model_copy(update={"by": "shadow"})


def _box(detections: Detections, row: int) -> Box:
    corners = [round(x, 2) for x in detections.boxes[row].tolist()]
    label = detections.labels[detections.classes[row]]
    return Box(box=tuple(corners), label=label, score=round(float(detections.scores[row]), 4))


def build_sampler(config: Callable[[], Config]) -> Sampler | None:
    """None where no samples are to be kept, and none are there."""
    settings = config()
    there = (settings.state_dir / "samples").is_dir()
    return Sampler(config) if settings.samples.enabled or there else None
