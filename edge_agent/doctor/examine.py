"""The whole examination: every check of every area."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_agent.doctor import accelerators, cameras, models, network, service, storage, system
from edge_agent.doctor.box import Box, look
from edge_agent.doctor.finding import Check, Finding
from edge_agent.doctor.runner import TOTAL_S, run_checks

_AREAS = (system, service, accelerators, models, cameras, storage, network)
AREAS = tuple(area.AREA for area in _AREAS)

_LOOK_S = 8.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, in the order of the areas."""

    findings: tuple[Finding, ...]
    took_s: float

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not any(finding.state == "fail" for finding in self.findings)

    def to_json(self) -> str:
        """For ``--json``."""
        checks = [asdict(finding) for finding in self.findings]
        return json.dumps({"ok": self.ok, "checks": checks, "took_s": round(self.took_s, 2)})


def examine(
    config: Path | None,
    *,
    root: Path = Path("/"),
    only: str | None = None,
    total_s: float = TOTAL_S,
    begin: Callable[[int], None] = lambda _: None,
    on_done: Callable[[Finding], None] = lambda _: None,
) -> Report:
    """Look the box over within about ``total_s``; ``config`` None: there is no file. Raises nothing and changes nothing.

    ``root`` stands in front of the operating system's paths, ``only`` names one of ``AREAS``. ``begin`` is told the number
    of checks and ``on_done`` each finding as it comes, both in the calling thread.
    """
    began = time.monotonic()
    box = _look(config, root)
    checks = all_checks(box, only)
    begin(len(checks))
    left = max(1.0, total_s - (time.monotonic() - began))
    findings = run_checks(checks, box, total_s=left, on_done=on_done)
    return Report(tuple(findings), time.monotonic() - began)


def _look(config: Path | None, root: Path) -> Box:
    """``look`` with a deadline: a state folder on a dead network drive hangs whoever asks for it."""
    seen: list[Box] = []
    looker = threading.Thread(target=lambda: seen.append(look(config, root)), name="look", daemon=True)
    looker.start()
    looker.join(_LOOK_S)
    hangs = f"{config}: reading it, or its state folder, hangs: a dead network drive?"
    return seen[0] if seen else Box(root, None, config, (hangs,))


def all_checks(box: Box, only: str | None = None) -> list[Check]:
    """Every check that there is for this box."""
    return [check for area in _AREAS if only in {None, area.AREA} for check in area.checks(box)]
