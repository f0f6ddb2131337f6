"""The typed configuration: what ``config.yaml`` may say. Reading the file is in ``config_file``.

Every model is frozen and refuses unknown keys. Lengths are metres, times seconds, angles degrees; zones are fractions
of the frame (0,0 top left, 1,1 bottom right), so that a change of resolution changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from edge_agent.config_acting import DispenserConfig, GuestConfig, TouchlessConfig
from edge_agent.config_actuators import ActuatorsConfig
from edge_agent.config_aggregates import AttentionConfig, AttributesConfig
from edge_agent.config_base import Slug, Strict
from edge_agent.config_classifiers import ClassifierConfig, PpeConfig
from edge_agent.config_codes import CodesConfig
from edge_agent.config_commands import CommandsConfig
from edge_agent.config_mqtt import MqttConfig
from edge_agent.config_ota import OtaConfig
from edge_agent.config_samples import SamplesConfig
from edge_agent.config_sensors import SensorConfig
from edge_agent.config_sinks import InfluxDbConfig, WebhookConfig
from edge_agent.config_sop import SopConfig
from edge_agent.config_use_case import UseCaseSection
from edge_agent.config_zones import IntrusionConfig, LineCountConfig, LoiteringConfig, OccupancyConfig
from edge_agent.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(gt=0, le=100_000)]
"""Of a picture, in pixels."""
Point = tuple[float, float]


class GroundPoint(Strict):
    """One measured correspondence between the picture and the floor."""

    pixel: Point = Field(description="[u, v] pixels in an image of `image_size`")
    ground_m: Point = Field(description="[x, y] metres in the site's plane")


class LensConfig(Strict):
    """Radial distortion, Brown's model in normalised coordinates: r_d = r_u (1 + k1 r_u² + k2 r_u⁴)."""

    k1: float = Field(0.0, ge=-1, le=1, description="first radial coefficient; radius 1 is half the image diagonal")
    k2: float = Field(0.0, ge=-1, le=1, description="second radial coefficient")


def _lens_kind(value: object) -> str:
    return "<mapping>" if isinstance(value, dict | LensConfig) else "<auto>"


# Discriminated, so that a wrong value is told once, against the form that was meant.
Lens = Annotated[
    Annotated[LensConfig, Tag("<mapping>")] | Annotated[Literal["auto"], Tag("<auto>")], Discriminator(_lens_kind)
]


class GroundConfig(Strict):
    """The ground plane of one camera."""

    image_size: tuple[Side, Side] = Field(description="[width, height] of the picture the pixels were measured in")
    points: list[GroundPoint] = Field(min_length=4, max_length=1000, description="at least four, spread over the floor")
    lens: Lens = Field("auto", description="`auto` estimates k1 from the points where they carry enough evidence")
    max_error_m: float = Field(0.5, gt=0, description="refuse the points when their RMS reprojection error is larger")
    zones: dict[Slug, Annotated[list[Point], Field(min_length=3, max_length=200)]] = Field(
        default_factory=dict, description="named polygons in metres of the site's plane"
    )
    lines: dict[Slug, Annotated[list[Point], Field(min_length=2, max_length=20)]] = Field(
        default_factory=dict, description="named lines in metres of the site's plane"
    )


class CameraConfig(Strict):
    """One camera or file."""

    id: Slug = Field(description="name in topics and URLs; unique")
    source: str = Field(
        min_length=1,
        max_length=2000,
        description="RTSP/HTTP URL, /dev/video*, camera index, video file or folder of images; ${ENV} is filled in",
        json_schema_extra={"type": ["string", "integer"]},
    )
    fps: float | None = Field(None, gt=0, le=1000, description="a file's true frame rate, where its container lies")
    start: datetime | None = Field(None, description="a file's UTC time of the first frame; default: now")
    max_fps: float | None = Field(None, gt=0, le=1000, description="process at most this many frames per second")
    zones: dict[Slug, Annotated[list[tuple[Fraction, Fraction]], Field(min_length=3, max_length=200)]] = Field(
        default_factory=dict, description="named polygons in fractions of the frame"
    )
    lines: dict[Slug, Annotated[list[tuple[Fraction, Fraction]], Field(min_length=2, max_length=20)]] = Field(
        default_factory=dict, description="named lines in fractions of the frame, to be crossed"
    )
    ground: GroundConfig | None = Field(
        None, description="pixel to metre correspondences; without them distances are estimates"
    )
    person_height_m: float = Field(
        1.7, gt=0.5, lt=2.5, description="mean height, where feet are hidden or no ground plane is set"
    )

    @field_validator("start")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("needs a time zone, for example 2026-01-31T12:00:00Z")
        return value


class OnnxRuntimeConfig(Strict):
    """ONNX Runtime."""

    providers: list[str] = Field(
        ["CPUExecutionProvider"],
        min_length=1,
        max_length=8,
        description="execution providers; the first one must really be there",
    )
    threads: int = Field(1, ge=1, le=64, description="cores that one inference uses; the workers use the others")


class TfliteConfig(Strict):
    """LiteRT (TensorFlow Lite): Coral, NXP, any delegate, or the plain CPU."""

    delegate: str | None = Field(
        None,
        max_length=500,
        description="library of an accelerator: libvx_delegate.so, …; a model compiled for the Edge TPU takes libedgetpu.so.1",
    )
    delegate_options: dict[str, str] = Field(default_factory=dict, max_length=32, description="for that library")
    devices: list[Annotated[str, StringConstraints(pattern=r"^(usb|pci)?(:[0-9]{1,2})?$", min_length=1)]] = Field(
        default_factory=list,
        max_length=16,
        description="Edge TPUs to use: usb, pci, :0, usb:1, …; default: all there are",
    )
    threads: int = Field(1, ge=1, le=64, description="cores that one inference on the CPU uses")


class OpenVinoConfig(Strict):
    """OpenVINO: Intel CPUs, GPUs and NPUs."""

    device: str = Field("AUTO", pattern=r"^[A-Z][A-Za-z0-9_.:,-]{0,63}$", description="CPU, GPU, GPU.1, NPU, AUTO")
    hint: Literal["latency", "throughput"] = Field("throughput", description="what to tune for")


class TensorRtConfig(Strict):
    """TensorRT: NVIDIA Jetson and GPUs. The engine is built on the box, from ONNX."""

    precision: Literal["fp32", "fp16", "int8"] = Field("fp16", description="what the engine calculates in")
    device: int = Field(0, ge=0, le=64, description="number of the GPU")
    max_batch: int = Field(1, ge=1, le=64, description="largest batch the engine is built for")
    workspace_mb: int = Field(512, ge=16, le=65536, description="memory the builder may use")
    cuda_graph: bool = Field(False, description="record the launches once and replay them")
    calibration_images: Path | None = Field(
        None, description="folder of pictures to calibrate the fp32 file with for int8; default: the model's int8 file"
    )
    memory: Literal["auto", "cuda-bindings", "pycuda"] = Field("auto", description="package that handles device memory")


class DetectConfig(Strict):
    """How the detector runs."""

    backend: Literal["auto", "onnxruntime", "tflite", "openvino", "tensorrt"] = Field(
        "auto", description="what runs the model; auto: the best that hardware, packages and model files allow"
    )
    precision: Literal["auto", "fp32", "int8"] = Field(
        "auto",
        description="which of a model's files; auto: the fastest that is right here; tensorrt goes by its own key",
    )
    workers: int | None = Field(
        None, ge=1, le=64, description="inference threads; default: as many as the backend gains from"
    )
    score_threshold: float = Field(
        0.05, gt=0, lt=1, description="lowest score kept; the tracker uses low ones to hold on to people"
    )
    nms_iou: float = Field(0.6, gt=0, lt=1, description="boxes of one class that overlap more are one")
    max_detections: int = Field(300, ge=1, le=3000, description="in one frame, the best ones")
    onnxruntime: OnnxRuntimeConfig = OnnxRuntimeConfig()
    tflite: TfliteConfig = TfliteConfig()
    openvino: OpenVinoConfig = OpenVinoConfig()
    tensorrt: TensorRtConfig = TensorRtConfig()


class TrackConfig(Strict):
    """The tracker."""

    high_score: float = Field(0.5, gt=0, lt=1, description="a detection at or above starts and confirms tracks")
    low_score: float = Field(0.2, gt=0, lt=1, description="a detection at or above keeps an existing track alive")
    max_lost_s: float = Field(2.0, gt=0, le=60, description="a track unseen for longer ends")
    max_predicted_s: float = Field(
        0.6, ge=0, le=10, description="an unseen track is still reported, as predicted, for this long"
    )

    @model_validator(mode="after")
    def _order(self) -> TrackConfig:
        if self.low_score > self.high_score:
            raise ValueError(f"low_score {self.low_score} must not be above high_score {self.high_score}")
        return self


class GroupExemption(Strict):
    """People who arrive and move together are not told off."""

    enabled: bool = Field(False, description="whether groups are exempt; they are counted either way")
    min_together_s: float = Field(10.0, gt=0, description="side by side for this long before they count as a group")
    max_speed_difference_mps: float = Field(0.4, gt=0, description="their speeds differ by less than this")


class SocialDistancingConfig(UseCaseSection):
    """People nearer than a distance for longer than a time."""

    cameras: list[Slug] | None = Field(None, description="default: all")
    zone: Slug | None = Field(None, description="only people standing in this zone count; default: everywhere")
    label: str = Field("person", description="label of the model that counts as a person")
    distance_m: float = Field(2.0, gt=0, le=50, description="a pair nearer than this is too near")
    min_duration_s: float = Field(1.5, ge=0, le=3600, description="a violation begins after it held for this long")
    leave_distance_m: float | None = Field(
        None, gt=0, description="a pair ends when farther apart; default: distance_m × 1.15"
    )
    leave_duration_s: float = Field(1.5, ge=0, le=3600, description="… for this long")
    update_at_s: list[Annotated[float, Field(gt=0)]] = Field(
        default=[10.0, 30.0, 60.0], max_length=100, description="ages at which an open violation is told again"
    )
    max_events_per_minute: int = Field(
        60, ge=1, le=6000, description="a rate cap for each camera; what is held back is counted"
    )
    groups: GroupExemption = GroupExemption()

    @model_validator(mode="after")
    def _leave(self) -> SocialDistancingConfig:
        if self.leave_distance_m is not None and self.leave_distance_m < self.distance_m:
            raise ValueError(f"leave_distance_m {self.leave_distance_m} must not be below distance_m {self.distance_m}")
        return self

    def runs_on(self, camera: str) -> bool:
        """Whether it is one of its cameras."""
        return self.cameras is None or camera in self.cameras

    def wanted_labels(self) -> Iterator[tuple[str, str]]:
        """Who counts."""
        yield "label", self.label


class UseCasesConfig(Strict):
    """What is looked for. A use case that is not named does not run."""

    social_distancing: SocialDistancingConfig | None = Field(
        None, description="people too near each other for too long"
    )
    sop: SopConfig | None = Field(
        None, description="standard operating procedures: is each done step by step, in order?"
    )
    occupancy: OccupancyConfig | None = Field(None, description="how many are there, and is that too many?")
    line_count: LineCountConfig | None = Field(None, description="who crosses a line, and which way?")
    intrusion: IntrusionConfig | None = Field(None, description="is somebody where, or when, nobody may be?")
    loitering: LoiteringConfig | None = Field(None, description="does somebody stay for too long?")

    ppe: PpeConfig | None = Field(None, description="is protective equipment worn where it has to be?")
    touchless: TouchlessConfig | None = Field(None, description="doors, lamps and lifts without a touch")
    dispenser: DispenserConfig | None = Field(None, description="things handed out against tokens")
    guest: GuestConfig | None = Field(None, description="guests who show a token to be known")
    attributes: AttributesConfig | None = Field(None, description="what do people have with them? of groups only")
    attention: AttentionConfig | None = Field(
        None, description="what share of the people face a direction? of groups only; off unless enabled"
    )

    def at_work(self) -> Iterator[tuple[str, UseCaseSection]]:
        """Name and section of each that is named and enabled."""
        for name in type(self).model_fields:
            section = getattr(self, name)
            if section is not None and section.enabled:
                yield name, section


class PriorityLimits(Strict):
    """What one sink may leave waiting of one kind of message, within the bounds of the whole."""

    max_mb: float | None = Field(
        None, gt=0, description="of content, in megabytes; default: outbox.max_mb alone bounds it"
    )
    max_rows: int | None = Field(None, ge=1, description="messages; default: outbox.max_mb alone bounds them")
    max_age_days: float | None = Field(None, gt=0, description="default: outbox.max_age_days")


class OutboxConfig(Strict):
    """The durable store-and-forward. What a bound drops is counted and announced."""

    max_mb: float = Field(
        256.0, gt=0, description="budget on disk; when full the least important and oldest goes first"
    )
    max_age_days: float = Field(30.0, gt=0, description="what is older is dropped, and announced")
    events: PriorityLimits = PriorityLimits()
    metrics: PriorityLimits = PriorityLimits(max_mb=64.0)
    telemetry: PriorityLimits = PriorityLimits(max_mb=32.0, max_age_days=7.0)
    sink_max_mb: dict[Slug, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        max_length=16,
        description="what a sink may leave waiting, in megabytes of content, by its name; default: max_mb alone bounds it",
    )
    queue: int = Field(10_000, ge=100, le=1_000_000, description="messages waiting in memory for the writer")
    commit_ms: int = Field(
        50, ge=0, le=10_000, description="longest time a message waits for others to share its commit"
    )


class HttpConfig(Strict):
    """The local REST API."""

    enabled: bool = Field(True, description="whether to serve it")
    host: str = Field(
        "127.0.0.1", min_length=1, max_length=253, description="address to listen on; beyond loopback a token is needed"
    )
    port: int = Field(8080, ge=0, le=65535, description="0 takes any free port")
    token_file: Path | None = Field(
        None, description="a file holding a bearer token; needed beyond loopback; or set EDGE_AGENT_HTTP_TOKEN"
    )


class LoggingConfig(Strict):
    """Log lines go to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least severe line that is written"
    )
    format: Literal["text", "json"] = Field("text", description="for people or for a log collector")


class PrivacyConfig(Strict):
    """No pixel is stored or leaves the box unless it is switched on here."""

    images: bool = Field(False, description="allow snapshots")
    pixelate: bool = Field(True, description="pixelate persons in them")
    retention_days: float = Field(
        30.0, gt=0, le=3650, description="nothing that is stored here is kept for longer, delivered or not"
    )


class Config(Strict):
    """The whole file."""

    site: Slug = Field("site", description="name in topics and in the source of events")
    device: Slug | None = Field(None, description="name of this box; default: from the machine id")
    state_dir: Path = Field(
        Path(".state"),
        description="outbox, open episodes, models; relative to this file; "
        "default for a file in /etc/edge-agent: /var/lib/edge-agent",
    )
    models_dir: Path = Field(
        Path("models"),
        description="read-only seed of models; relative to this file; "
        "default for a file in /etc/edge-agent: /opt/edge-agent/current/models",
    )
    model: str = Field(
        "auto",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?$",
        description="NAME or NAME@VERSION; auto: person-s on a GPU or NPU, person-n on CPUs, Coral and other delegates",
    )
    cameras: list[CameraConfig] = Field(min_length=1, max_length=64, description="cameras and files, 1 to 64")
    detect: DetectConfig = DetectConfig()
    track: TrackConfig = TrackConfig()
    classifiers: list[ClassifierConfig] = Field(
        default_factory=list,
        max_length=8,
        description="second models that judge crops of what was found; default: none",
    )
    use_cases: UseCasesConfig = UseCasesConfig()
    sensors: list[SensorConfig] = Field(
        default_factory=list, max_length=64, description="other sensors to read, publish and offer to use cases"
    )
    actuators: ActuatorsConfig | None = Field(None, description="devices that use cases may command; default: none")
    codes: CodesConfig | None = Field(None, description="QR codes and markers to read; default: none")
    mqtt: MqttConfig = MqttConfig()
    commands: CommandsConfig = CommandsConfig()
    influxdb: InfluxDbConfig = InfluxDbConfig()
    webhook: WebhookConfig = WebhookConfig()
    outbox: OutboxConfig = OutboxConfig()
    ota: OtaConfig = OtaConfig()
    http: HttpConfig = HttpConfig()
    logging: LoggingConfig = LoggingConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    samples: SamplesConfig = SamplesConfig()

    @model_validator(mode="after")
    def _names(self) -> Config:
        for what, ids in (("camera", [c.id for c in self.cameras]), ("sensor", [s.id for s in self.sensors])):
            for ident in ids:
                if ids.count(ident) > 1:
                    raise ValueError(f"{what} id {ident!r} is used twice")
        return self

    def overridden(self, *, source: str | None = None, model: str | None = None, backend: str | None = None) -> Config:
        """With what a command line says for one run, None leaving the file's; ``source`` is that of the first camera."""
        changes: dict[str, Any] = {}
        if model is not None:
            changes["model"] = model
        if source is not None:
            first, *others = self.cameras
            changes["cameras"] = [first.model_copy(update={"source": source}), *others]
        if backend is not None:
            changes["detect"] = self.detect.model_copy(update={"backend": backend})
        return self.model_copy(update=changes)

    def digest(self) -> str:
        """SHA-256 (hex) of the effective whole, without secrets: credentials in a camera's URL are left out."""
        return hashlib.sha256(redact(json.dumps(self.model_dump(mode="json"), sort_keys=True)).encode()).hexdigest()


_USERINFO = re.compile(r"(?<=://)[^\s\"]*@")
_SECRET_QUERY = re.compile(
    r"(?i)([?&;](?:[a-z0-9_-]*(?:pass|pwd|token|secret|key|auth|user|login|sig)[a-z0-9_-]*)=)[^&;#\s\"]*"
)


def redact(text: str) -> str:
    """``text`` without the credentials of the URLs in it; rather too much is hidden than too little."""
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub("***@", text))


def given_secret(variable: str) -> str:
    """What the environment variable says, or the credential of that name that systemd gave (systemd.exec(5)); "" for neither."""
    if value := os.environ.get(variable):
        return value
    if not (folder := os.environ.get("CREDENTIALS_DIRECTORY")):
        return ""
    try:
        with (Path(folder) / variable).open(encoding="utf-8") as lines:
            return lines.readline(4098).strip()
    except (OSError, ValueError):
        return ""


def read_secret(file: Path | None, variable: str) -> str | None:
    """A secret from the environment variable, a credential of systemd's, or the file (its first line); None where none is set.

    Raises ConfigError where the file cannot be read or is empty. The value is for use, never for a message.
    """
    if value := given_secret(variable):
        return value
    if file is None:
        return None
    try:
        with file.open(encoding="utf-8") as lines:
            value = lines.readline(4098).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError([f"{file}: cannot read the secret in it: {reason}"]) from None
    if not value:
        raise ConfigError([f"{file}: is empty; put the secret in its first line"])
    if len(value) > 4096:
        raise ConfigError([f"{file}: its first line is no secret: it has more than 4096 characters"])
    return value


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(),
        "title": "edge-agent config.yaml",
    }
