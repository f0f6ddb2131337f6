"""How far two models agree on the same frames."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import TrackConfig
from edge_agent.config_ota import ProbationConfig
from edge_agent.model_beside import Beside, compare
from edge_agent.ota.probation import Agreement
from edge_agent.types import Detections, Frame, ModelTag
from tests.mosquitto import wait_for

CONFIG = TrackConfig(high_score=0.5, low_score=0.2)
FRAME = Frame("a", 0, 0.0, 0.0, np.zeros((4, 4, 3), np.uint8))


def seen(*boxes: tuple[float, float, str], labels: tuple[str, ...] = ("person", "dog")) -> Detections:
    """Squares of 10 pixels: x, score, label."""
    n = len(boxes)
    corners = np.array([(x, 0, x + 10, 10) for x, _, _ in boxes], np.float32).reshape(n, 4)
    scores = np.array([score for _, score, _ in boxes], np.float32)
    return Detections(corners, scores, np.array([labels.index(label) for _, _, label in boxes], np.int32), labels)


def test_what_agrees() -> None:
    both = seen((0, 0.9, "person"), (50, 0.8, "dog"))
    assert compare(both, both, CONFIG) == (4, 4)
    assert compare(both, seen(), CONFIG) == (2, 0)
    assert compare(seen(), seen(), CONFIG) == (0, 0)
    assert compare(both, seen((2, 0.9, "person"), (58, 0.9, "dog")), CONFIG) == (4, 2), "one lies elsewhere"
    assert compare(both, seen((0, 0.9, "dog"), (50, 0.9, "dog")), CONFIG) == (4, 2), "one is something else"
    # What one is sure of and the other almost is no disagreement; what both are unsure of is nothing.
    assert compare(both, seen((0, 0.3, "person"), (50, 0.3, "dog")), CONFIG) == (2, 2)
    assert compare(seen((0, 0.3, "dog")), seen(), CONFIG) == (0, 0)
    # Labels that one of them does not know are not held against the other, whatever their numbers.
    other = seen((0, 0.9, "person"), labels=("cat", "person"))
    assert compare(both, other, CONFIG) == (2, 2)


boxes = st.lists(st.tuples(st.integers(0, 90), st.floats(0, 1), st.sampled_from(["person", "dog"])), max_size=8)


@given(boxes, boxes)
def test_it_is_the_same_both_ways_and_never_more_than_all(a: Any, b: Any) -> None:
    total, matched = compare(seen(*a), seen(*b), CONFIG)
    assert 0 <= matched <= total
    assert compare(seen(*b), seen(*a), CONFIG)[0] == total
    assert compare(seen(*a), seen(*a), CONFIG)[0] == compare(seen(*a), seen(*a), CONFIG)[1]


class Other:
    """A detector that waits until it is let."""

    tag = ModelTag("eyes", "1", "0" * 64)
    backend_name = "none"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls = 0
        self.closed = False

    def detect(self, frame: Frame) -> Detections:
        self.calls += 1
        assert self.go.wait(20)
        return seen((0, 0.9, "person"))

    def close(self) -> None:
        self.closed = True


def test_it_looks_at_its_share_of_the_frames_and_nobody_waits_for_it() -> None:
    other = Other()
    beside = Beside(other, 0.25, CONFIG)
    found = seen((0, 0.9, "person"))
    for _ in range(20):
        beside.offer(FRAME, found)
    assert beside.agreement.frames == 0 and other.calls <= 1, "one at a time, and no backlog"
    other.go.set()
    wait_for(lambda: beside.agreement.frames == 1)
    for count in range(2, 6):
        for _ in range(4):
            beside.offer(FRAME, found)
        wait_for(lambda count=count: beside.agreement.frames == count)  # type: ignore[misc]
    assert beside.agreement == Agreement("eyes@1", 5, 10, 1.0)
    beside.close()
    assert other.closed


def test_a_disagreement_needs_enough_boxes_and_frames() -> None:
    config = ProbationConfig(min_agreement=0.3)
    assert Agreement("eyes@1", 5, 100, 0.0).fault(config) is None
    assert Agreement("eyes@1", 50, 10, 0.0).fault(config) is None
    assert Agreement("eyes@1", 50, 100, None).fault(config) is None
    assert Agreement("eyes@1", 50, 100, 0.3).fault(config) is None
    fault = Agreement("eyes@1", 50, 100, 0.29).fault(config)
    assert fault is not None and fault[0] == "agreement"
