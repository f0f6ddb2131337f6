"""One camera from the capture thread to the outbox: the objects of it, made from the configuration."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from edge_agent.actuators.desk import ActuatorDesk
from edge_agent.capture.worker import CaptureWorker, make_slot
from edge_agent.chains import build_chain
from edge_agent.codes.build import Codes
from edge_agent.config import CameraConfig, Config
from edge_agent.detect.second_stage import SecondStage
from edge_agent.outbox import Outbox
from edge_agent.pipeline import CameraLane, FrameResult, no_codes
from edge_agent.record import RecordWriter
from edge_agent.run_options import RunOptions
from edge_agent.sampling import Sampler
from edge_agent.sensors.sensors import Sensors
from edge_agent.types import CameraChange, NewId, StageClock

CAMERA_GAP_S = 5.0
"""Seconds without a frame after which the episodes of a live camera end; more where pairs may be apart for longer."""


class Surroundings(Protocol):
    """What of the agent a camera has to do with."""

    config: Config
    options: RunOptions
    stop: threading.Event
    clock: StageClock
    new_id: NewId
    outbox: Outbox
    sensors: Sensors
    codes: Codes | None
    desk: ActuatorDesk | None
    sampler: Sampler | None

    def camera_changed(self, change: CameraChange) -> None:
        """A camera's state or view changed; from any thread."""


class CameraUnit:
    """All objects of one camera."""

    def __init__(self, agent: Surroundings, config: CameraConfig, ready: threading.Condition) -> None:
        self.config = config
        self.slot = make_slot(config, agent.options.realtime, ready, agent.stop)
        self.capture = CaptureWorker(
            config,
            self.slot,
            agent.camera_changed,
            agent.stop,
            realtime=agent.options.realtime,
            max_frames=agent.options.max_frames,
            loop=agent.options.loop,
            clock=agent.clock,
        )
        self.last: FrameResult | None = None
        self.recorder: RecordWriter | None = None
        sampler = agent.sampler
        self._sample = sampler.seen if sampler is not None and sampler.on else None
        keep = agent.options.record is not None or agent.config.privacy.images
        on_result = self._result if keep else None
        self._keep_image = agent.config.privacy.images
        read = None
        if agent.codes is not None:
            read = agent.codes.of(config, inline=not (self.capture.live or agent.options.realtime))
        self.chain = build_chain(
            agent.config,
            config,
            new_id=agent.new_id,
            emit=agent.outbox.put,
            on_result=on_result,
            sensors=agent.sensors.latest,
            looks=SecondStage(agent.config, config, agent.config.state_dir / "cache"),
            codes=read or no_codes,
            # A film opens no door.
            actuators=agent.desk if self.capture.live or agent.options.realtime else None,
            clock=agent.clock,
        )
        self.lane = CameraLane(self.slot, self.chain)

        distancing = agent.config.use_cases.social_distancing
        self._gap_s = max(CAMERA_GAP_S, distancing.leave_duration_s if distancing is not None else 0.0)

    def look(self) -> None:
        """A camera that is gone brings no frame that could end what it saw: say so when it has been silent for long."""
        last = self.chain.stats.last_done
        silent_s = 0.0 if last is None else time.monotonic() - last
        if self.capture.live and self.chain.open_episodes and silent_s > self._gap_s:
            self.lane.silent()

    def _result(self, result: FrameResult) -> None:
        if self.recorder is not None:
            self.recorder.write(result)
        if self._keep_image:
            self.last = result
        if self._sample is not None:
            self._sample(result)
