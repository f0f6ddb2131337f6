"""What several checks of accelerators ask."""

from __future__ import annotations

from edge_agent.config import DetectConfig
from edge_agent.doctor.box import Box
from edge_agent.doctor.finding import Outcome, fail, skip
from edge_agent.doctor.probes import ask


def detect_config(box: Box) -> DetectConfig:
    """How the detector is configured; the defaults where there is no configuration."""
    return DetectConfig() if box.config is None else box.config.detect


def lacking(box: Box, backend: str, why: str, fix: str) -> Outcome:
    """A failure where the configuration asks for this backend, else it does not matter."""
    return fail(why, fix) if detect_config(box).backend == backend else skip(why)


def reason_against(box: Box, name: str) -> str:
    """What a backend says about itself: why it cannot be used, "" where it can. Raises HardwareError where it crashed."""
    return str(ask("backend", name=name, config=detect_config(box).model_dump(mode="json"))["reason"])
