"""Values that travel between the stages: immutable, validated once at construction, arrays as struct-of-arrays.

Coordinates: boxes are ``xyxy`` float32 pixels of the *source* frame, x to the right, y down. Ground positions are
metres in the site's plane. ``t`` is seconds on the camera's own clock (0 at its first frame; container time for a
file, monotonic for a live source) and is the only clock for durations; ``utc`` is POSIX seconds, for stamps.
Arrays are owned by the value and must not be written to after construction; nobody copies them.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
U8: TypeAlias = NDArray[np.uint8]
Bools: TypeAlias = NDArray[np.bool_]
CameraState: TypeAlias = Literal["starting", "delivering", "stalled", "reconnecting", "failed", "ended"]
Phase: TypeAlias = Literal["started", "updated", "ended"]
Quality: TypeAlias = Literal["good", "stale", "failed"]
CodeKind: TypeAlias = Literal["qr", "marker"]
TokenState: TypeAlias = Literal["valid", "expired", "early", "spent", "no_clock", "bad"]
Stage: TypeAlias = Literal["decode", "preprocess", "inference", "postprocess", "track", "ground", "use_cases", "outbox"]
"""A frame's way; ``postprocess`` is the network's outputs to boxes and their suppression."""
DEVICE = "_device"
"""Stands where a camera id stands in an event about the box itself (a camera id cannot begin with an underscore)."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture. ``image`` is (height, width, 3) uint8 BGR; ``index`` counts source frames from 0, dropped ones too."""

    camera: str
    index: int
    t: float
    utc: float
    image: U8
    captured: float = field(default_factory=time.monotonic)
    """Monotonic seconds when it was read, for latency."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True, slots=True)
class ModelTag:
    """Which model: its name and version, and the SHA-256 (hex) of the file that runs."""

    name: str
    version: str
    sha256: str

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N boxes of one frame. ``boxes`` (N,4) float32 xyxy; ``scores`` (N,) float32 in [0,1]; ``classes`` (N,) int32 into ``labels``.

    ``model`` found them; None where that is not known.
    """

    boxes: F32
    scores: F32
    classes: I32
    labels: tuple[str, ...]
    model: ModelTag | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.classes.shape != (n,):
            raise ValueError(
                f"boxes {self.boxes.shape}, scores {self.scores.shape}, classes {self.classes.shape} do not belong together"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, mask: Bools | NDArray[np.intp]) -> Detections:
        """The detections of a boolean mask or of indices, in that order."""
        return Detections(self.boxes[mask], self.scores[mask], self.classes[mask], self.labels, self.model)


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """N confirmed tracks present in one frame, rows ordered by id.

    ``ids`` (N,) int64, never reused within a run of one camera; ``boxes`` (N,4) float32 xyxy (filtered); ``scores`` (N,)
    float32 of the last detection; ``classes`` (N,) int32 into ``labels``; ``predicted`` (N,) bool: not seen in this
    frame, position from the motion model. ``measured`` (N,4) float32 xyxy, where the tracker gives them: the detections as
    they are (predicted rows: any), for whoever filters again in other coordinates.
    """

    ids: I64
    boxes: F32
    scores: F32
    classes: I32
    predicted: Bools
    labels: tuple[str, ...]
    measured: F32 | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.measured is not None and self.measured.shape != (n, 4):
            raise ValueError(f"{n} ids, measured boxes {self.measured.shape}: do not belong together")
        if self.boxes.shape != (n, 4) or not len(self.scores) == len(self.classes) == len(self.predicted) == n:
            raise ValueError(f"{n} ids, boxes {self.boxes.shape}, {len(self.scores)} scores: do not belong together")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Where the tracks of a frame stand, rows as in ``Tracks``.

    ``xy`` (N,2) float64 metres, NaN where it cannot be known; ``cov`` (N,2,2) float64 m²; ``estimated`` (N,) bool: the
    feet were hidden and the position comes from head point and person height. ``calibrated`` False: no ground plane
    is configured, ``xy`` is a rough camera-centred estimate from person height that serves for distances only.
    """

    xy: F64
    cov: F64
    estimated: Bools
    calibrated: bool


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """M pairs of tracks near each other: ``a`` < ``b`` (M,) int64 track ids, ``distance_m`` and ``sigma_m`` (M,) float64."""

    a: I64
    b: I64
    distance_m: F64
    sigma_m: F64

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True, slots=True)
class SensorValue:
    """The latest of a sensor, and how old that is; both None where nothing ever came.

    Only ``good`` is to be relied on. ``stale``: it is too old, and nothing came since; ``failed``: too old, as reading it
    fails. ``reason`` says why.
    """

    value: bool | float | None
    unit: str
    age_s: float | None
    quality: Quality = "good"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What a classifier says of one object in one frame: ``box`` xyxy, pixels of the source frame; scores in [0,1] by label."""

    box: tuple[float, float, float, float]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Token:
    """A signed token, as it was when it was read. ``issued`` and ``expires`` are POSIX seconds.

    ``bad``: no key of ours signed it, and nothing else is known of it; ``early``: issued later than now; ``no_clock``: this
    box does not know the time. Only ``valid`` is to be relied on, and where it is ``once``, only after it was spent.
    """

    state: TokenState
    ident: str = ""
    purpose: str = ""
    holder: str = ""
    once: bool = False
    issued: int = 0
    expires: int = 0


@dataclass(frozen=True, slots=True)
class Code:
    """A code that a camera read. What it says is not here: ``name`` stands for it, the same for the same text.

    ``box`` is xyxy, pixels of the source frame; ``angle_deg`` where its upper edge points to in the picture, 0 up and 90
    right; ``t`` the frame in which it was read.
    """

    kind: CodeKind
    name: str
    box: tuple[float, float, float, float]
    angle_deg: float
    t: float
    token: Token | None = None
    groups: tuple[str, ...] = ()
    """Those of ``codes.names`` that it belongs to."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """All that a use case may look at for one frame. ``size`` is (width, height) of the source frame in pixels.

    ``sensors`` holds, by their id, those that ever had something to say; ``codes`` what was read since the frame before;
    ``attributes`` what classifiers say in this frame.
    """

    camera: str
    index: int
    t: float
    utc: float
    size: tuple[int, int]
    tracks: Tracks
    ground: Ground
    pairs: Pairs
    sensors: Mapping[str, SensorValue] = field(default_factory=dict)
    codes: Sequence[Code] = ()
    attributes: Sequence[Look] = ()


NewId: TypeAlias = Callable[[float], str]
"""Makes an id that is unique for ever, from a UTC time in POSIX seconds."""


def uuid7_factory(rng: random.Random | None = None) -> NewId:
    """A maker of UUIDv7 (RFC 9562 §5.7). With ``rng`` the ids are reproducible (replay, tests); without it they are random.

    The returned callable is thread-safe when ``rng`` is None.
    """

    def new_id(utc: float) -> str:
        noise = rng.getrandbits(74) if rng is not None else int.from_bytes(os.urandom(10), "big") >> 6
        value = (int(max(utc, 0.0) * 1000) & (2**48 - 1)) << 80
        value |= 0x7 << 76 | (noise >> 62) << 64 | 0b10 << 62 | noise & (2**62 - 1)
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    return new_id


def event_type(use_case: str, what: str, phase: Phase | None) -> str:
    """The CloudEvents ``type``."""
    return ".".join(filter(None, ("edge_agent", use_case, what, phase)))


def data_schema(use_case: str, what: str) -> str:
    """The CloudEvents ``dataschema``; its number goes up when a field goes or changes its meaning, not for a new one."""
    return f"urn:edge-agent:event:{use_case}.{what}:1"


@dataclass(frozen=True, slots=True)
class Event:
    """A change of state. Becomes one CloudEvent; ``sequence``, ``bootid`` and ``clockok`` are added when it is committed.

    ``episode`` joins started, updated and ended (the CloudEvents ``subject``); a single fact (``phase`` None) has its
    own id there. ``utc`` is when the fact began or ended. ``data`` is JSON with units in the names. ``model`` saw what it
    rests on; None where no model did.
    """

    id: str
    camera: str
    use_case: str
    what: str
    phase: Phase | None
    episode: str
    utc: float
    data: Mapping[str, Any]
    model: ModelTag | None = None

    @property
    def type(self) -> str:
        """The CloudEvents ``type``."""
        return event_type(self.use_case, self.what, self.phase)

    @property
    def topic(self) -> str:
        """Topic below the device's root: ``events/<camera>/<use_case>``, for the box itself ``events/_device/<what>``."""
        return f"events/{self.camera}/{self.what if self.camera == DEVICE else self.use_case}"


@dataclass(frozen=True, slots=True)
class Metric:
    """An aggregate over ``[utc, utc + interval_s)``; ``observed_s`` is the part of it in which the camera delivered."""

    camera: str
    use_case: str
    utc: float
    interval_s: float
    observed_s: float
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        """Topic below the device's root."""
        return f"metrics/{self.camera}/{self.use_case}"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The stored copy of a heartbeat, for sinks that cannot be told directly; ``data`` is what MQTT gets, its ``time`` in it."""

    data: Mapping[str, Any]

    topic: ClassVar[str] = "heartbeat"


@dataclass(frozen=True, slots=True)
class Telemetry:
    """A sensor's value as it was read at ``utc``; or, with None, that there is no good one any more since then."""

    sensor: str
    utc: float
    value: bool | float | None
    unit: str
    quality: Quality

    @property
    def topic(self) -> str:
        """Topic below the device's root."""
        return f"telemetry/{self.sensor}"


Output: TypeAlias = Event | Metric
Stored: TypeAlias = Output | Telemetry | Heartbeat
"""What the outbox takes."""


def rfc3339(utc: float) -> str:
    """POSIX seconds as RFC 3339 UTC with milliseconds: ``2026-01-31T12:00:00.250Z``."""
    return datetime.fromtimestamp(utc, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> float:
    """POSIX seconds of an RFC 3339 time with a zone. Raises ValueError."""
    parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if parsed.tzinfo is None:
        raise ValueError(f"{text!r} needs a time zone, for example 2026-01-31T12:00:00Z")
    return parsed.timestamp()


class Beat(Protocol):
    """A worker's sign of life. *Stuck* is being between ``begin`` and ``end`` for longer than the deadline; waiting outside is healthy.

    Both calls are cheap (a time stamp) and made by the worker's own thread only.
    """

    def begin(self) -> None:
        """One unit of work starts."""

    def end(self) -> None:
        """It is done."""


class StageClock:
    """Is told where each frame's time goes. This one does not listen: ``bench`` brings one that does.

    All is called by the thread that did the work, so an implementation is called from many at once, and must be quick.
    """

    def start(self) -> None:
        """A stage begins in this thread."""

    def lap(self, stage: Stage) -> None:
        """What this thread did since its last call was ``stage``; the next one begins."""

    def done(self, frame: Frame, outputs: Sequence[Output]) -> None:
        """The frame went all the way; ``outputs`` were handed to the outbox."""


NO_CLOCK = StageClock()


class FrameSlot(Protocol):
    """Hands frames from one capture thread to the detection workers. Thread-safe."""

    dropped: int
    """Frames that nobody took before the next came."""

    def put(self, frame: Frame) -> bool:
        """Offer a frame. False once the slot is closed. A live slot never blocks; a file's blocks while it is full."""

    def take(self) -> Frame | None:
        """The next frame, or None at once where there is none."""

    def close(self) -> None:
        """No more frames come; those inside may still be taken."""

    @property
    def exhausted(self) -> bool:
        """Closed and empty."""


@dataclass(frozen=True, slots=True)
class CameraChange:
    """A camera came to another state (``what`` = ``camera_state``) or its view changed health (``what`` = ``camera_view``)."""

    camera: str
    what: Literal["camera_state", "camera_view"]
    value: str
    """A CameraState, or for a view ``ok``, ``black``, ``frozen``, ``covered``."""
    reason: str
    utc: float
    previous: str = ""
