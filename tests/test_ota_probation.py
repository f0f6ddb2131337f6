"""The judgement over a model that has just taken over, as rules over numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config_ota import ProbationConfig
from edge_agent.ota.probation import HUNG_S, Counters, Measures, Probation, Watch

CONFIG = ProbationConfig()
BEFORE = Measures(latency_ms=40.0, fps=10.0, failed=0.0, memory_mb=300.0)


def watched(
    seconds: int = 12,
    *,
    latency_ms: float = 40.0,
    fps: float = 10.0,
    failed: float = 0.0,
    dropped: float = 0.0,
    memory_mb: float = 300.0,
    inside_s: float = 0.0,
) -> Watch:
    """Someone who looked for so long, once a second."""
    watch = Watch()
    for second in range(seconds + 1):
        calls = round(fps * second)
        failures = round(calls * failed)
        counters = Counters(
            t=100.0 + second,
            calls=calls,
            failures=failures,
            busy_s=calls * latency_ms / 1000,
            frames=calls - failures,
            dropped=round(dropped * second),
            memory_mb=memory_mb,
            inside_s=inside_s,
        )
        watch.add(counters)
    return watch


@pytest.mark.parametrize(
    ("does", "fault"),
    [
        ({}, None),
        ({"latency_ms": 79.0}, None),
        ({"latency_ms": 81.0}, "latency"),
        ({"latency_ms": 81.0, "seconds": 5}, None),  # not long enough to say
        ({"failed": 0.04}, None),
        ({"failed": 0.2}, "errors"),
        ({"failed": 1.0, "seconds": 1}, "errors"),  # that need not be waited for
        ({"fps": 4.0}, None),  # the cameras bring no more
        ({"fps": 4.0, "dropped": 6.0}, "fps"),
        ({"memory_mb": 499.0}, None),
        ({"memory_mb": 501.0}, "memory"),
        ({"inside_s": HUNG_S + 1, "fps": 0.0}, "hung"),
        ({"fps": 0.0}, None),  # no camera, no judgement
    ],
)
def test_what_is_a_fault(does: dict[str, Any], fault: str | None) -> None:
    found = watched(**does).fault(BEFORE, CONFIG)
    assert (found and found[0]) == fault


def test_a_hiccup_of_the_box_is_no_fault_of_the_model() -> None:
    watch = Watch()
    busy = 0.0
    for second in range(13):
        busy += 2.0 if second == 3 else 0.4
        watch.add(Counters(100.0 + second, 10 * second, 0, busy, 10 * second, 0, 300.0))
    assert watch.fault(BEFORE, CONFIG) is None
    assert watched(latency_ms=500.0).fault(None, CONFIG) is None, "nothing is known of the model before"


@given(st.floats(1, 500), st.floats(1, 30), st.floats(0, 1))
def test_a_model_that_does_as_the_one_before_has_no_fault(latency_ms: float, fps: float, failed: float) -> None:
    watch = watched(latency_ms=latency_ms, fps=fps, failed=failed if failed < 0.9 else 0.0)
    before = watch.measures()
    assert watch.fault(before, CONFIG) is None


def test_when_a_probation_is_passed_and_when_it_is_over() -> None:
    config = ProbationConfig(frames=10, minutes=1, deadline_minutes=5)
    assert not Probation(frames=9, observed_s=60).passed(config)
    assert not Probation(frames=10, observed_s=59).passed(config)
    assert Probation(frames=10, observed_s=60).passed(config)
    assert Probation(elapsed_s=300).over(config) and not Probation(elapsed_s=299).over(config)
    assert Probation(frames=5, observed_s=60).share(config) == 0.5
