"""The whole agent against what operators, power cuts, networks and full disks do to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.crash_loop import Report, Run, judge
from tests.agent_process import run_agent, write_config

pytestmark = pytest.mark.slow


def test_no_event_is_lost_over_kills_at_any_moment(vtest_video: Path, tmp_path: Path) -> None:
    report = Run(kills=5, seed=int(os.environ.get("CRASH_SEED", "11")), folder=tmp_path).go()
    assert not report.broken
    assert report.episodes and report.ended_by.get("agent_restart")


def event(number: int, what: str = "started", subject: str = "e", ident: str = "") -> dict[str, Any]:
    return {
        "sequence": f"{number:020d}",
        "id": ident or str(number),
        "source": "/lab/box1/one",
        "subject": subject,
        "type": f"edge_agent.social_distancing.violation.{what}",
        "data": {"reason": "left"},
    }


@pytest.mark.parametrize(
    ("events", "last", "says"),
    [
        ([event(1), event(3, "ended")], 3, "missing"),
        ([event(1), event(2, "ended")], 3, "missing"),
        ([event(1), event(1, ident="x"), event(2, "ended")], 2, "two contents"),
        ([event(1), event(2, "ended", ident="1")], 2, "one id"),
        ([event(2, "ended"), event(1)], 2, "after"),
        ([event(1)], 1, "never ended"),
        ([event(1, "updated"), event(2, "ended")], 2, "updated after nothing"),
        ([event(1), event(2, "ended"), event(3, "ended")], 3, "ended after ended"),
    ],
)
def test_the_judge_of_the_crash_loop_sees_every_kind_of_loss(
    events: list[dict[str, Any]], last: int, says: str
) -> None:
    report = Report(0, 0, last_sequence=last)
    judge(report, events)
    assert any(says in line for line in report.broken), report.broken


def test_a_full_disk_ends_the_record_and_not_the_agent(root: Path, vtest_video: Path, tmp_path: Path) -> None:
    """The exit code says that what was asked for is not there; events are."""
    done = run_agent(
        "run", "-c", write_config(root, tmp_path), "--no-mqtt", "--max-frames", "60", "--record", "/dev/full", "--json"
    )
    assert done.returncode == 1
    assert done.stderr.count("No space left on device") == 1 and "Traceback" not in done.stderr
    result = json.loads(done.stdout)
    assert result["frames"] == 60 and result["events"]["edge_agent.social_distancing.violation.ended"] >= 1
