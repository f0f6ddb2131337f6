"""The composition root: a configuration becomes running objects, in one place, and stops in one order. No logic."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from edge_agent import __version__, sampling
from edge_agent.actuators.desk import DEADLINE_S as DESK_DEADLINE_S
from edge_agent.actuators.desk import ActuatorDesk
from edge_agent.camera_unit import CameraUnit
from edge_agent.certificate_watch import CertificateWatch
from edge_agent.codes.build import build_codes, no_tokens
from edge_agent.codes.stage import DEADLINE_S
from edge_agent.command_handlers import AgentCommands
from edge_agent.config import Config
from edge_agent.crash_count import CrashCount
from edge_agent.device_facts import camera_event, device_event, model_state
from edge_agent.errors import ConfigError, ListenError, UsageError
from edge_agent.health import hardware
from edge_agent.health.heartbeat import HeartbeatBuilder
from edge_agent.health.host import HostProbe, clock_synchronised
from edge_agent.health.rest import RestServer
from edge_agent.health.sd_notify import Notifier
from edge_agent.health.status import AgentStatus, ModelStatus
from edge_agent.journal import told
from edge_agent.model_updates import ModelUpdates
from edge_agent.outbox import Outbox
from edge_agent.pipeline import DetectionPool
from edge_agent.record import RecordWriter
from edge_agent.release_watch import ReleaseWatch, this_home
from edge_agent.report import state_line
from edge_agent.run_options import RunOptions
from edge_agent.safe_mode import SafeUpdates, announce, look, on_probation
from edge_agent.sensors.sensors import Sensors
from edge_agent.serving_model import ServingModel
from edge_agent.sinks.batch import BatchPump
from edge_agent.sinks.build import batch_sinks
from edge_agent.sinks.home_assistant_link import HomeAssistant
from edge_agent.sinks.mqtt import MqttSink
from edge_agent.sinks.mqtt import wants as mqtt_wants
from edge_agent.sinks.mqtt_inbound import Listener
from edge_agent.sinks.store import BatchSink
from edge_agent.snapshot import snapshot_jpeg
from edge_agent.sparkplug_board import sparkplug_sink
from edge_agent.state_dir import state_lock
from edge_agent.status_board import camera_status, mqtt_status, outbox_status, sink_status
from edge_agent.supervisor import StopStep, Supervisor, run_stop_steps
from edge_agent.types import NO_CLOCK, CameraChange, Heartbeat, StageClock, parse_rfc3339, uuid7_factory

log = logging.getLogger(__name__)

INFERENCE_S = 12.0
"""For one frame. One that hangs for ever must not cost more than half a minute: this, the stop, and a new start."""


class Agent:
    """One daemon. The constructor raises for what is wrong before anything runs; ``run`` blocks until the end."""

    def __init__(
        self,
        config: Config,
        options: RunOptions,
        clock: StageClock = NO_CLOCK,
        *,
        crashes: CrashCount | None = None,
    ) -> None:
        self.options = options
        self.config = config = self.effective(config)
        self.clock = clock
        self.stop = threading.Event()
        self.started = time.monotonic()
        self.boot_id = uuid.uuid4().hex
        self.new_id = uuid7_factory()
        self.device = config.device or "device"
        self.crashes = crashes or CrashCount(config.state_dir, "")
        if self.crashes.safe_mode and on_probation(config):
            self.crashes.leave_to_others()
        self.safe_mode = self.crashes.safe_mode
        """Why cameras and model are left alone, "" where they are not."""
        sinks = batch_sinks(config)
        self.outbox = self._make_outbox(sinks)
        self.sensors = Sensors(config.sensors, self.new_id)
        self.codes = build_codes(config, lambda: clock_synchronised() is True)
        self.desk = self._make_desk()
        self.sampler = sampling.build_sampler(lambda: self.config)
        ready = threading.Condition()
        self.cameras: list[CameraUnit] = []
        self.workers = 0
        self.updates: ModelUpdates | SafeUpdates
        if self.safe_mode:
            self.updates = SafeUpdates(config, self.restart, self.tell)
        else:
            self._load(config, ready)
        self.mqtt: MqttSink | None = None
        self.home_assistant = HomeAssistant(config, self.device, __version__, self._retain, self._beat_now)
        self.commands = AgentCommands(self, options.file, self._answer, self.updates)
        if config.mqtt.enabled and options.mqtt:
            self.mqtt = MqttSink(
                config.mqtt,
                self.outbox.outlet("mqtt"),
                site=config.site,
                device=self.device,
                boot_id=self.boot_id,
                version=__version__,
                on_alarm=lambda event: self.outbox.put([event]),
                listeners=self._listeners(),
            )
        self.sparkplug = sparkplug_sink(self) if self.mqtt is not None else None
        self.pumps = [BatchPump(name, self.outbox.outlet(name), sink) for name, sink in sinks.items()]
        self.rest = self._make_rest()
        self.supervisor = Supervisor(self.stop)
        self.again = False
        """Whether to start again once it has stopped."""
        self._host = HostProbe(config.state_dir)
        self._hardware = hardware.HardwareProbe()
        self._heartbeat = HeartbeatBuilder()
        self._certificates = CertificateWatch(config)
        self._releases = ReleaseWatch(config.state_dir, this_home())
        self._digest = config.digest()
        self._next_beat, self._told_connects = 0.0, 0
        self._told_revisions = {"model": -1, "config": 0}
        self._last_words = b""
        self._notifier = Notifier()

    def _load(self, config: Config, ready: threading.Condition) -> None:
        """What safe mode is without."""
        self.cameras = [CameraUnit(self, camera, ready) for camera in config.cameras]
        for unit in self.cameras:
            unit.capture.prepare()
        updates = self.updates = ModelUpdates(config, pinned=self.options.model is not None)
        try:
            candidates, failed = updates.candidates(), updates.load_failed
            self.serving = ServingModel(config, candidates, stop=self.stop, failed=failed, clock=self.clock)
        except ConfigError:
            updates.close(in_order=True)  # no fault of the model's
            raise
        self.detector = self.serving.detector
        seen = self.sampler.compared if self.sampler is not None and self.sampler.on else None
        updates.start(self.serving, self.status, self.tell, self.restart, seen)
        log.info("model %s", self.serving.words)
        self.workers = config.detect.workers or self.detector.current.backend.concurrency
        self.pool = DetectionPool(self.detector, [unit.lane for unit in self.cameras], ready, self.workers)

    # ---- running

    def run(self, tick: Callable[[], None], *, last_words: bytes = b"", interval_s: float = 0.25) -> int:
        """Run until the sources end, a signal comes or a worker is lost; the exit code.

        ``tick`` is called from this thread about every ``interval_s``; ``last_words`` go to the terminal when a second
        signal ends the process at once.
        """
        self._last_words = last_words
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(state_lock(self.config.state_dir))
            except UsageError:
                self.updates.close(in_order=True)
                raise
            self._open_records()
            try:
                self._start()
                self.supervisor.wait(lambda: self._tick(tick), interval_s)
                if self.supervisor.failure is not None:
                    died = str(self.supervisor.failure)
                    self.crashes.blame(died)
                    self.again |= self.updates.died(died) | self.commands.died(died)
            finally:
                self.again &= self.supervisor.signal is None
                self._stop()
        if self.supervisor.failure is not None:
            log.error("%s", self.supervisor.failure, extra=told("agent.failed"))
            return self.supervisor.failure.exit_code
        return int(any(unit.recorder is not None and unit.recorder.failure for unit in self.cameras))

    def _make_outbox(self, sinks: Mapping[str, BatchSink]) -> Outbox:
        config = self.config
        return Outbox(
            config.state_dir / "outbox.db",
            config.outbox,
            site=config.site,
            device=self.device,
            boot_id=self.boot_id,
            clock_ok=lambda: clock_synchronised() is not False,
            new_id=self.new_id,
            sinks=["mqtt", *sinks],  # MQTT also where it is off: events wait for it
            wants={"mqtt": mqtt_wants, **{name: sink.wants for name, sink in sinks.items()}},
            retention_days=config.privacy.retention_days,
        )

    def _make_rest(self) -> RestServer | None:
        if not self.config.http.enabled:
            return None
        shot = self.snapshot if self.config.privacy.images else None
        return RestServer(self.config.http, self.status, self.recent_events, self.models, shot)

    def _make_desk(self) -> ActuatorDesk | None:
        devices = self.config.actuators.devices if self.config.actuators is not None else []
        if not devices and self.codes is None:
            return None
        return ActuatorDesk(
            devices,
            self.config.state_dir / "actuators.db",
            send=lambda *command: self.mqtt is not None and self.mqtt.command(*command),
            spend=self.codes.spend if self.codes is not None else no_tokens,
            tell=lambda facts: self.tell("actuator", facts),
        )

    def _listeners(self) -> list[Listener]:
        listeners = [
            Listener(topic, lambda message, take=take: take(message.payload), qos=0)  # type: ignore[misc]
            for topic, take in self.sensors.subscriptions.items()
        ]
        if (desk := self.desk) is not None:
            listeners += [
                Listener(topic, lambda message: desk.take(message.topic, message.payload)) for topic in desk.topics
            ]
        if self.config.commands.enabled:
            listeners.append(Listener(self.commands.topic, self.commands.on_message))
        return listeners + self.home_assistant.listeners

    def _start(self) -> None:
        self.supervisor.install_signals(self._last_words)
        self.outbox.start()
        self.commands.start()
        self.home_assistant.start()
        if self.mqtt is not None:
            self.mqtt.start()
        if self.sparkplug is not None:
            self.sparkplug.start()
        for pump in self.pumps:
            pump.start()
        self._start_rest()
        for unit in self.cameras:
            self.supervisor.spawn(
                f"capture:{unit.config.id}",
                unit.capture.run,
                # A live camera that is gone is a state and raises nothing; readers that hang for ever do.
                essential=True,
                deadline_s=30.0,
                restart=unit.capture.live,
            )
        for number in range(self.workers):
            self.supervisor.spawn(
                f"detect:{number}", self.pool.work, essential=True, deadline_s=INFERENCE_S, restart=True
            )
        if not self.safe_mode and (loader := self.serving.now.loader).pending:
            # Not essential: while it builds, and if it fails, something else serves.
            self.supervisor.spawn(
                "engine", lambda _: loader.finish(), essential=False, deadline_s=math.inf, restart=False
            )
        self.supervisor.spawn("models", self.updates.work, essential=False, deadline_s=math.inf, restart=True)
        self.supervisor.spawn(
            "configuration", self.commands.signed.work, essential=False, deadline_s=math.inf, restart=True
        )
        self.supervisor.spawn(
            "commands", self.commands.work, essential=False, deadline_s=self.commands.deadline_s, restart=True
        )
        self.supervisor.spawn(
            "hardware",
            lambda beat: self._hardware.run(beat, self.stop),
            essential=False,
            deadline_s=hardware.DEADLINE_S,
            restart=True,
        )
        if self.codes is not None and self.codes.stage.threaded:
            self.supervisor.spawn(
                "codes",
                lambda beat, stage=self.codes.stage: stage.work(beat, self.stop),  # type: ignore[misc]
                essential=False,
                deadline_s=DEADLINE_S,
                restart=True,
            )
        if self.sampler is not None:
            self.supervisor.spawn(
                "samples",
                lambda beat, sampler=self.sampler: sampler.work(beat, self.stop),  # type: ignore[misc]
                essential=False,
                deadline_s=sampling.DEADLINE_S,
                restart=True,
            )
        if self.desk is not None:
            self.supervisor.spawn("actuators", self.desk.run, essential=False, deadline_s=DESK_DEADLINE_S, restart=True)
        for reader in self.sensors.readers:
            self.supervisor.spawn(
                f"sensor:{reader.name}",
                lambda beat, reader=reader: reader.run(beat, self.stop),  # type: ignore[misc]
                essential=False,
                deadline_s=reader.deadline_s,
                restart=True,
            )
        # What was built until here stays: the collector need not walk through it while frames come.
        gc.collect()
        gc.freeze()
        self._notifier.ready("running")
        log.info("edge-agent %s runs", __version__, extra=told("agent.ready", version=__version__))
        announce(self.crashes, self.tell)

    def _start_rest(self) -> None:
        try:
            if self.rest is not None:
                self.rest.start()
        except ListenError as error:
            if not self.safe_mode:
                raise
            log.error("%s", error)
            self.rest = None

    def _tick(self, tick: Callable[[], None]) -> None:
        self._notifier.watchdog(self.supervisor.check())
        for unit in self.cameras:
            unit.look()
        self.commands.look()
        self.home_assistant.look()
        self.outbox.put(self.sensors.look())
        self._certificates.look(self.tell)
        self._releases.look(self.tell)
        self._tell()
        tick()
        if look(self.crashes, time.monotonic() - self.started, self.tell):
            self.restart()
        essential = [worker for worker in self.supervisor.states() if worker.essential]
        if essential and all(worker.state == "done" for worker in essential):
            self.stop.set()

    def _tell(self) -> None:
        """Heartbeat at its interval and at once after a connection; the retained states after each connection."""
        now = time.monotonic()
        broker = self.mqtt.state() if self.mqtt is not None else None
        connects = broker.connects if broker is not None and broker.connected else self._told_connects
        again = connects != self._told_connects
        self._tell_state("model", self.updates.revision, lambda: model_state(self._model_status()), again=again)
        signed = self.commands.signed
        self._tell_state("config", signed.revision, signed.state, again=again and signed.revision > 0)
        if now < self._next_beat and connects == self._told_connects:
            return
        self._next_beat = now + self.config.mqtt.heartbeat_s
        status = self.status()
        self._notifier.status(state_line(status))
        beat = self._heartbeat.build(status, time.time())
        if self.config.influxdb.enabled:
            self.outbox.put([Heartbeat(json.loads(beat))])
        if self.mqtt is None or not self.mqtt.publish_now("heartbeat", beat, retain=False):
            return
        if connects != self._told_connects:
            self._told_connects = connects
            self.commands.connected()
            self.home_assistant.connected()

    def _tell_state(self, topic: str, revision: int, state: Callable[[], Any], *, again: bool) -> None:
        if self.mqtt is None or (self._told_revisions[topic] == revision and not again):
            return
        if self.mqtt.publish_now(topic, state(), retain=True):
            self._told_revisions[topic] = revision

    def _stop(self) -> None:
        log.info("stopping%s", ", to start again" if self.again else "", extra=told("agent.stopping"))
        if self.again:
            self._notifier.restarting("starting again")
        else:
            self._notifier.stopping("stopping")
        self.stop.set()
        self.updates.end()
        self.commands.signed.end()
        run_stop_steps(self.stop_steps())

    def stop_steps(self) -> list[StopStep]:
        """How it ends, in this order; all together in less than ``supervisor.STOP_LIMIT_S``."""
        steps = [
            StopStep("capture", lambda: self.supervisor.join("capture:", 1.7), 1.8),
            StopStep("detection", self._close_detection, 1.8),
            StopStep("use cases", self._close_chains, 0.7),
        ]
        if self.desk is not None:  # they left their devices as they were, which are made safe now
            steps.append(StopStep("actuators", lambda desk=self.desk: desk.stop(0.3), 0.4))  # type: ignore[misc]
        steps.append(StopStep("outbox", lambda: self.outbox.flush(1.2), 1.3))
        if self.mqtt is not None or self.pumps:
            steps.append(StopStep("sinks", self._close_sinks, 2.0))
        steps.append(StopStep("outbox close", lambda: self.outbox.stop(0.5), 0.7))
        if self.rest is not None:
            steps.append(StopStep("http", lambda rest=self.rest: rest.stop(0.3), 0.4))  # type: ignore[misc]
        in_order = self.supervisor.failure is None
        steps.append(StopStep("commands", lambda: self.commands.stop(in_order=in_order), 0.4))
        steps.append(StopStep("models", lambda: self.updates.close(in_order=in_order), 0.4))
        return steps

    def _close_detection(self) -> None:
        # A device at which a worker hangs is left to the end of the process.
        if self.supervisor.join("detect:", 1.7) and not self.safe_mode:
            self.serving.forget()
            self.detector.close()

    def _close_sinks(self) -> None:
        """All at once: each has the whole second."""
        until = time.monotonic() + 1.9
        if self.sparkplug is not None:
            self.sparkplug.end()
        for pump in self.pumps:
            pump.end(1.0)
        if self.mqtt is not None:
            self.mqtt.stop(1.0, 0.8)
        for pump in self.pumps:
            pump.join(max(0.0, until - time.monotonic()))
        if self.sparkplug is not None:
            self.sparkplug.join(max(0.0, until - time.monotonic()))

    def _close_chains(self) -> None:
        asked = self.again or self.supervisor.signal is not None or self.supervisor.failure is not None
        for unit in self.cameras:
            if not unit.lane.close("shutdown" if asked else "end_of_file"):
                log.error(
                    "camera %s: a frame hangs in tracking or rules; the next start ends what is open", unit.config.id
                )
            elif unit.recorder is not None:
                unit.recorder.close()

    def _open_records(self) -> None:
        if (path := self.options.record) is None or self.safe_mode:
            return
        name = self.serving.now.label
        for unit in self.cameras:
            own = path if len(self.cameras) == 1 else path.with_suffix(f".{unit.config.id}{path.suffix}")
            fps = unit.capture.nominal_fps
            unit.recorder = RecordWriter(own, fps=fps, config_hash=self._digest, model=name)

    # ---- what others ask of it

    def camera_changed(self, change: CameraChange) -> None:
        """A camera's state or view changed: an event about the box."""
        self.outbox.put([camera_event(change, self.new_id)])

    def tell(self, what: str, data: Mapping[str, Any]) -> None:
        """An event about the box, now."""
        self.outbox.put([device_event(what, data, time.time(), self.new_id)])

    def effective(self, config: Config) -> Config:
        """``config`` with what the command line says about this run."""
        return config.overridden(source=self.options.source, model=self.options.model)

    def reconfigure(self, config: Config) -> None:
        """Take over a configuration that differs only in what is asked for anew each time; from any thread."""
        self.config, self._digest = config, config.digest()
        self.home_assistant.changed(config)
        self._beat_now()  # with its hash
        logging.getLogger().setLevel(config.logging.level.upper())

    def restart(self) -> None:
        """Stop in order, and start again as a new process."""
        self.again = True
        self.stop.set()

    def _beat_now(self) -> None:
        self._next_beat = 0.0

    def _retain(self, topic: str, payload: bytes, done: Callable[[str], None]) -> bool:
        return self.mqtt is not None and self.mqtt.retain(topic, payload, done)

    def _answer(self, topic: str, payload: bytes, correlation: bytes | None) -> bool:
        return self.mqtt is not None and self.mqtt.answer(topic, payload, correlation)

    def status(self) -> AgentStatus:
        """The state of the moment; callable from any thread, cheap."""
        model = self._model_status()
        cameras = tuple(
            camera_status(unit.capture, unit.chain, f"{model.name}@{model.version}") for unit in self.cameras
        )
        outbox, mqtt = outbox_status(self.outbox.stat()), mqtt_status(self.mqtt)
        # What endangers events first; the others stay after the trouble is over, as the last that was.
        sinks = tuple(sink_status(pump) for pump in self.pumps)
        lesser = (
            *(camera.last_error for camera in reversed(cameras)),
            mqtt.last_error,
            *(s.last_error for s in sinks),
            self._certificates.trouble,
        )
        errors = (self.safe_mode, outbox.reason, model.error, *lesser)
        return AgentStatus(
            site=self.config.site,
            device=self.device,
            version=__version__,
            boot_id=self.boot_id,
            config_hash=self._digest,
            uptime_s=time.monotonic() - self.started,
            cameras=cameras,
            workers=self.supervisor.states(),
            outbox=outbox,
            mqtt=mqtt,
            sinks=sinks,
            model=model,
            config=self.commands.signed.status(),
            host=self._host.sample(),
            hardware=self._hardware.latest,
            sensors=self.sensors.latest(),
            last_error=next(filter(None, errors), ""),
            safe_mode=self.safe_mode,
            certificate=self._certificates.trouble,
            http=self.rest.url if self.rest is not None else "",
        )

    def _model_status(self) -> ModelStatus:
        if self.safe_mode:
            return self.updates.status(ModelStatus(error=f"safe mode: {self.safe_mode}"))
        return self.updates.status(self.serving.status)

    def recent_events(self, since: str | None, limit: int) -> list[dict[str, Any]]:
        """For REST; ``since`` is RFC 3339 UTC."""
        return self.outbox.recent(0.0 if since is None else parse_rfc3339(since), limit)

    def models(self) -> dict[str, Any]:
        """For REST: what is at work, how its last update goes, and what there is."""
        state = model_state(self._model_status())
        return {**state, "models": [] if self.safe_mode else self.serving.known()}

    def snapshot(self, camera: str, max_width: int | None = None) -> bytes | None:
        """For REST and commands, only where pictures are allowed."""
        last = next((unit.last for unit in self.cameras if unit.config.id == camera), None)
        if last is None:
            return None
        return snapshot_jpeg(last, hide_persons=self.config.privacy.pixelate, max_width=max_width)
