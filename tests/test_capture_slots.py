from __future__ import annotations

import threading

import numpy as np
import pytest

from edge_agent.capture.slots import FrameQueue, LatestSlot
from edge_agent.types import Frame, FrameSlot
from tests.capture_helpers import wait_until


def frame(index: int) -> Frame:
    return Frame("cam", index, float(index), 0.0, np.zeros((2, 2, 3), np.uint8))


def make(kind: type[LatestSlot] | type[FrameQueue]) -> tuple[FrameSlot, threading.Condition]:
    ready = threading.Condition()
    return kind(ready), ready


@pytest.mark.parametrize("kind", [LatestSlot, FrameQueue])
def test_what_is_inside_can_be_taken_after_close(kind: type[LatestSlot] | type[FrameQueue]) -> None:
    slot, _ = make(kind)
    assert slot.take() is None
    assert slot.put(frame(0))
    slot.close()
    assert not slot.exhausted
    assert not slot.put(frame(1))
    taken = slot.take()
    assert taken is not None and taken.index == 0
    assert slot.take() is None
    assert slot.exhausted


@pytest.mark.parametrize("kind", [LatestSlot, FrameQueue])
@pytest.mark.parametrize("action", ["put", "close"])
def test_a_waiting_worker_is_woken(kind: type[LatestSlot] | type[FrameQueue], action: str) -> None:
    slot, ready = make(kind)
    waiting, woken = threading.Event(), threading.Event()

    def work() -> None:
        with ready:
            while slot.take() is None and not slot.exhausted:
                waiting.set()
                ready.wait()
        woken.set()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    assert waiting.wait(5)
    if action == "put":
        slot.put(frame(0))
    else:
        slot.close()
    assert woken.wait(5)


def test_latest_keeps_the_newest_and_counts_the_others() -> None:
    slot = LatestSlot(threading.Condition())
    for index in range(5):
        assert slot.put(frame(index))
    taken = slot.take()
    assert taken is not None and taken.index == 4
    assert slot.dropped == 4
    slot.put(frame(5))
    assert slot.dropped == 4


def test_queue_hands_over_every_frame_in_order_to_a_slower_consumer() -> None:
    queue = FrameQueue(threading.Condition(), capacity=2)

    def produce() -> None:
        for index in range(200):
            queue.put(frame(index))
        queue.close()

    producer = threading.Thread(target=produce)
    producer.start()
    taken: list[int] = []
    while not queue.exhausted:
        got = queue.take()
        if got is not None:
            taken.append(got.index)
    producer.join(5)
    assert taken == list(range(200))
    assert queue.dropped == 0


@pytest.mark.parametrize("by", ["stop", "close"])
def test_a_full_queue_lets_its_producer_go(by: str) -> None:
    stop = threading.Event()
    queue = FrameQueue(threading.Condition(), capacity=1, stop=stop)
    assert queue.put(frame(0))
    result: list[bool] = []
    producer = threading.Thread(target=lambda: result.append(queue.put(frame(1))))
    producer.start()
    producer.join(0.3)
    assert producer.is_alive(), "put must wait while the queue is full"
    if by == "stop":
        stop.set()
    else:
        queue.close()
    producer.join(5)
    assert result == [False]


def test_latest_loses_nothing_but_what_it_counts() -> None:
    ready = threading.Condition()
    slot = LatestSlot(ready)
    taken: list[int] = []

    def consume() -> None:
        while not slot.exhausted:
            got = slot.take()
            if got is not None:
                taken.append(got.index)

    consumers = [threading.Thread(target=consume) for _ in range(2)]
    for consumer in consumers:
        consumer.start()
    for index in range(5000):
        slot.put(frame(index))
    slot.close()
    for consumer in consumers:
        consumer.join(5)
    assert len(taken) == len(set(taken))
    assert len(taken) + slot.dropped == 5000
    wait_until(lambda: slot.exhausted, 1, "exhaustion")
