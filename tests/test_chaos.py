"""Nothing is lost when everything fails at once; and the judge who says so sees every kind of loss."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import Chaos
from benchmarks.chaos_judge import LIFE, Ledger, Report, Seen, identify

ROOT = "edge/v1/lab/box/"


@pytest.mark.slow
def test_nothing_is_lost_under_faults_of_all_kinds(tmp_path: Path) -> None:
    report = Chaos(minutes=0.6, seed=int(os.environ.get("CHAOS_SEED", "6")), folder=tmp_path).go()
    assert report.broken == []
    assert report.faults["agent killed"] >= 1
    assert any(name.startswith("broker killed") for name in report.faults)
    assert report.received >= report.accepted > 100


def seen(number: int, key: str = "", digest: int = 0, **more: Any) -> Seen:
    return Seen(key or f"id-{number}", "events/door", number, digest, **more)


def ledger(*found: Seen) -> Ledger:
    made = Ledger()
    for one in found:
        made.note(one)
    return made


def judged(
    sent: Ledger,
    received: Ledger,
    acknowledged: set[str] | None = None,
    accepted: tuple[str, ...] = (),
    repeated: tuple[str, ...] = (),
    last: int = 3,
) -> Report:
    report = Report(0, 0, last_sequence=last)
    report.judge(accepted, sent, acknowledged or set(), repeated, received)
    return report


ALL = (seen(1), seen(2), seen(3))


def test_the_judge_finds_nothing_wrong_where_nothing_is() -> None:
    report = judged(ledger(*ALL, ALL[1]), ledger(*ALL, ALL[2]), {"id-1", "id-2", "id-3"}, ("id-1", "id-3"))
    assert report.broken == []
    assert (report.sent, report.sent_again, report.received, report.received_again) == (3, 1, 3, 1)


def test_what_a_broker_confirmed_and_lost_is_shown_apart() -> None:
    report = judged(ledger(*ALL), ledger(ALL[0], ALL[2]), {"id-2"}, ("id-1", "id-2", "id-3"))
    assert report.broken == []
    assert (report.lost, report.lost_by_broker) == (0, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"accepted": ("x",)}, "1 lost: x"),
        ({"received": ledger(*ALL[:2]), "accepted": ("id-3",)}, "1 lost: id-3"),
        ({"received": ledger(*ALL[:2])}, "1 lost: id-3"),
        ({"sent": ledger(ALL[1], ALL[0], ALL[2])}, "1 sent out of order: events/door: 1 after 2"),
        ({"received": ledger(ALL[1], ALL[0], ALL[2])}, "1 received out of order: events/door: 1 after 2"),
        ({"received": ledger(*ALL, seen(3, digest=1))}, "1 came with two contents: id-3"),
        ({"received": ledger(*ALL, seen(4)), "last": 4}, "1 received but never sent: id-4"),
        ({"repeated": ("id-2",)}, "1 sent twice on a connection: id-2"),
        ({"last": 5}, "2 gaps in the sequence: 4, 5"),
        ({"last": 2}, "1 sequence numbers beyond the last: 3"),
        (
            {"sent": ledger(*ALL, seen(3, "y")), "received": ledger(*ALL, seen(3, "y"))},
            "1 sequence numbers with two ids: 3",
        ),
    ],
)
def test_the_judge_sees_every_kind_of_loss(options: dict[str, Any], says: str) -> None:
    report = judged(**{"sent": ledger(*ALL), "received": ledger(*ALL), **options})
    assert says in report.broken, report.broken


def test_a_gap_that_an_event_explains_is_no_unexplained_one() -> None:
    told = seen(5, explains=((3, 4),))
    report = judged(ledger(*ALL[:2], told), ledger(*ALL[:2], told), last=5)
    assert (report.broken, report.gaps_explained, report.gaps_unexplained) == ([], 2, 0)


def test_a_metric_that_came_shows_that_those_before_it_were_accepted() -> None:
    first, third = (Seen(f"door {LIFE + n}", "metrics/door", LIFE + n, 0) for n in (0, 2))
    report = judged(ledger(first, third), ledger(first, third), last=0)
    assert report.broken == [f"1 lost: door {LIFE + 1}"]


def test_messages_are_known_by_their_topics() -> None:
    event = {
        "id": "a",
        "sequence": "0000000000000007",
        "data": {"sequences": [["0000000000000002", "0000000000000003"]]},
    }
    found = identify(f"{ROOT}events/_device/outbox_drops", json.dumps(event).encode())
    assert found is not None
    assert found[:3] == ("a", "events/_device", 7) and found.explains == ((2, 3),)
    metric = identify(f"{ROOT}metrics/door/social_distancing", b'{"data":{"n":4}}')
    assert metric is not None and metric[:3] == ("door 4", "metrics/door", 4)
    assert identify(f"{ROOT}heartbeat", b"{}") is None
    assert identify(f"{ROOT}metrics/door/social_distancing", b'{"data":{}}') is None
