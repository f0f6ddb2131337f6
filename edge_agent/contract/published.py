"""Everything that the agent publishes, by topic. A new message is a row here; its type stands where it is made."""

from __future__ import annotations

from typing import Any, get_args

from edge_agent.actuators.desk import ActuatorFacts
from edge_agent.certificate_watch import CertificateFacts
from edge_agent.command_handlers import CommandFacts
from edge_agent.config_updates import ConfigFacts, ConfigState
from edge_agent.contract.commands import ANSWERS, REFUSAL
from edge_agent.contract.message import Channel, Message
from edge_agent.device_facts import CameraStateFacts, CameraViewFacts, ModelFacts, ModelShadow, ModelState
from edge_agent.health.heartbeat_fields import Heartbeat
from edge_agent.outbox.ledger import SinkLosses
from edge_agent.outbox.messages import EVENT_TYPE, CloudEvent, MetricMessage, TelemetryMessage
from edge_agent.outbox.telling import OutboxRecreated
from edge_agent.release_watch import AgentUpdateFacts
from edge_agent.safe_mode import SafeModeFacts
from edge_agent.sensors.sensor import SensorStateFacts
from edge_agent.sinks.mqtt_identity import SessionTakenOver, Status
from edge_agent.sinks.mqtt_visit import Probe
from edge_agent.types import DEVICE, Phase, data_schema, event_type
from edge_agent.usecases.acting import ActionEnded, ActionMinute, ActionStarted
from edge_agent.usecases.aggregates import AggregateMinute
from edge_agent.usecases.attention import AttentionShare
from edge_agent.usecases.attributes import AttributeCounts
from edge_agent.usecases.codes_seen import CodeSeen
from edge_agent.usecases.guest import GuestMinute, GuestRecognised
from edge_agent.usecases.intrusion import IntrusionEnded, IntrusionMinute, IntrusionStarted, IntrusionUpdated
from edge_agent.usecases.line_count import Crossing, LineCountMinute
from edge_agent.usecases.loitering import LoiteringEnded, LoiteringMinute, LoiteringStarted, LoiteringUpdated
from edge_agent.usecases.minutes import DistancingMinute
from edge_agent.usecases.occupancy import (
    OccupancyMinute,
    OverCapacityEnded,
    OverCapacityStarted,
    OverCapacityUpdated,
)
from edge_agent.usecases.ppe import PpeMinute, UnprotectedEnded, UnprotectedStarted, UnprotectedUpdated
from edge_agent.usecases.sop_events import RunEnded, RunFacts, StepFacts
from edge_agent.usecases.sop_run import What
from edge_agent.usecases.violation import ViolationEnded, ViolationStarted, ViolationUpdated


def _event(use_case: str, what: str, data: Any, phase: Phase | None = None) -> Message:
    kind = event_type(use_case, what, phase)
    fixed = {"type": kind, "dataschema": data_schema(use_case, what)}
    last = what if use_case == "device" else use_case
    return Message(kind.removeprefix("edge_agent."), CloudEvent, data, fixed, EVENT_TYPE, last)


def _episode(use_case: str, what: str, started: Any, updated: Any, ended: Any) -> tuple[Message, ...]:
    return (
        _event(use_case, what, started, "started"),
        _event(use_case, what, updated, "updated"),
        _event(use_case, what, ended, "ended"),
    )


def _minute(use_case: str, data: Any) -> Message:
    return Message(f"{use_case}.minute", MetricMessage, data, last=use_case)


CHANNELS = (
    Channel(
        "status",
        "status",
        "whether the box is there; also the last will",
        (Message("status", Status),),
        retained=True,
    ),
    Channel(
        "heartbeat",
        "heartbeat",
        "how the box is doing, every 30 s unless configured otherwise",
        (Message("heartbeat", Heartbeat),),
    ),
    Channel("model", "model", "which model is at work", (Message("model", ModelState),), retained=True),
    Channel(
        "config",
        "config",
        "which signed part of the configuration is in force; only where there is one, or may be",
        (Message("config", ConfigState),),
        retained=True,
    ),
    Channel(
        "events",
        "events/{camera}/{use_case}",
        "what a use case saw",
        (
            *_episode("social_distancing", "violation", ViolationStarted, ViolationUpdated, ViolationEnded),
            _event("sop", "run", RunFacts, "started"),
            _event("sop", "run", RunEnded, "ended"),
            *(_event("sop", what, StepFacts) for what in get_args(What)),
            _event("codes", "seen", CodeSeen),
            *_episode("occupancy", "over_capacity", OverCapacityStarted, OverCapacityUpdated, OverCapacityEnded),
            _event("line_count", "crossing", Crossing),
            *_episode("intrusion", "presence", IntrusionStarted, IntrusionUpdated, IntrusionEnded),
            _event("touchless", "action", ActionStarted, "started"),
            _event("touchless", "action", ActionEnded, "ended"),
            _event("dispenser", "dispense", ActionStarted, "started"),
            _event("dispenser", "dispense", ActionEnded, "ended"),
            _event("guest", "recognised", GuestRecognised),
            *_episode("loitering", "stay", LoiteringStarted, LoiteringUpdated, LoiteringEnded),
            *_episode("ppe", "missing", UnprotectedStarted, UnprotectedUpdated, UnprotectedEnded),
            _event("attributes", "counts", AttributeCounts),
            _event("attention", "share", AttentionShare),
        ),
    ),
    Channel(
        "deviceEvents",
        f"events/{DEVICE}/{{what}}",
        "facts about the box itself",
        (
            _event("device", "camera_state", CameraStateFacts),
            _event("device", "camera_view", CameraViewFacts),
            _event("device", "outbox_drops", SinkLosses),
            _event("device", "dead_letter", SinkLosses),
            _event("device", "outbox_recreated", OutboxRecreated),
            _event("device", "sensor_state", SensorStateFacts),
            _event("device", "mqtt_session_taken_over", SessionTakenOver),
            _event("device", "command", CommandFacts),
            _event("device", "config", ConfigFacts),
            _event("device", "actuator", ActuatorFacts),
            _event("device", "safe_mode", SafeModeFacts),
            _event("device", "certificate", CertificateFacts),
            _event("device", "model", ModelFacts),
            _event("device", "model_shadow", ModelShadow),
            _event("device", "agent_update", AgentUpdateFacts),
        ),
    ),
    Channel(
        "metrics",
        "metrics/{camera}/{use_case}",
        "aggregates of each minute of UTC",
        (
            _minute("social_distancing", DistancingMinute),
            _minute("occupancy", OccupancyMinute),
            _minute("line_count", LineCountMinute),
            _minute("intrusion", IntrusionMinute),
            _minute("touchless", ActionMinute),
            _minute("dispenser", ActionMinute),
            _minute("guest", GuestMinute),
            _minute("loitering", LoiteringMinute),
            _minute("ppe", PpeMinute),
            _minute("attributes", AggregateMinute),
            _minute("attention", AggregateMinute),
        ),
    ),
    Channel(
        "telemetry",
        "telemetry/{sensor}",
        "values of other sensors",
        (Message("telemetry", TelemetryMessage),),
    ),
    Channel(
        "answers",
        "commands/{command}/reply",
        "answers to commands that name no other topic for it",
        (*ANSWERS.values(), REFUSAL),
    ),
    Channel("doctor", "doctor", "asks whether the box may publish", (Message("doctor", Probe),)),
)
