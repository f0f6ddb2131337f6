"""Lanes and the detection pool: order, fairness, failures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.capture.slots import FrameQueue, LatestSlot
from edge_agent.errors import InferenceError
from edge_agent.pipeline import CameraChain, CameraLane, DetectionPool, FrameResult
from edge_agent.types import Detections, Event, Frame, Ground, ModelTag, Observation, Output, Pairs, SensorValue, Tracks
from tests.contract import SYNTHETIC

NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), ("person",))


class NoTracks:
    def update(self, detections: Detections, t: float) -> Tracks:
        n = len(detections)
        return Tracks(
            np.arange(n), detections.boxes, detections.scores, detections.classes, np.zeros(n, bool), detections.labels
        )


class NoGround:
    def update(self, tracks: Tracks, t: float, size: tuple[int, int]) -> tuple[Ground, Pairs]:
        empty = np.zeros(0)
        n = len(tracks)
        ground = Ground(np.zeros((n, 2)), np.zeros((n, 2, 2)), np.zeros(n, bool), False)
        return ground, Pairs(empty.astype(np.int64), empty.astype(np.int64), empty, empty)


class EveryFrame:
    """One event per frame, to see what reaches ``emit``."""

    name = SYNTHETIC
    open_episodes = 1

    def update(self, seen: Observation) -> list[Output]:
        data = {name: sensor.age_s for name, sensor in seen.sensors.items()}
        return [Event(str(seen.index), seen.camera, self.name, "seen", None, "e", seen.utc, data)]

    def close(self, reason: str) -> list[Output]:
        return [Event("last", "a", self.name, "seen", "ended", "e", 0.0, {"reason": reason})]


def test_an_event_names_the_model_whose_frames_it_rests_on() -> None:
    outputs: list[Output] = []
    chain = CameraChain("a", tracker=NoTracks(), ground=NoGround(), use_cases=[EveryFrame()], emit=outputs.extend)
    old, new = ModelTag("m", "1", "a" * 64), ModelTag("m", "2", "b" * 64)
    for index, tag in enumerate((old, new, None)):
        chain.process(frame("a", index), replace(NOTHING, model=tag))
    chain.process(frame("a", 3), replace(NOTHING, model=new))
    chain.close("shutdown")
    assert [event.model for event in outputs if isinstance(event, Event)] == [old, new, None, new, new]


class NoBeat:
    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass


class Seen:
    """A lane that remembers what came through it."""

    def __init__(self, camera: str, ready: threading.Condition, slot: FrameQueue | LatestSlot | None = None) -> None:
        self.indices: list[int] = []
        self.outputs: list[Output] = []
        self.sensors: list[object] = []
        self.slot = slot or FrameQueue(ready, capacity=8)
        chain = CameraChain(
            camera,
            tracker=NoTracks(),
            ground=NoGround(),
            use_cases=[EveryFrame()],
            emit=self.outputs.extend,
            on_result=self.keep,
            sensors=lambda: {"door": SensorValue(True, "", float(len(self.indices)))},
        )
        self.lane = CameraLane(self.slot, chain)

    def keep(self, result: FrameResult) -> None:
        self.indices.append(result.frame.index)
        self.sensors.append(result.sensors)


def frame(camera: str, index: int) -> Frame:
    return Frame(camera, index, index / 10, index / 10, np.zeros((4, 4, 3), np.uint8))


class SlowDetector:
    """Answers out of order: some frames take longer, seeded."""

    labels: tuple[str, ...] = ("person",)
    concurrency = 8

    def __init__(self, seed: int = 0, broken: Sequence[int] = ()) -> None:
        self._random = Random(seed)
        self._broken = set(broken)
        self.order: list[tuple[str, int]] = []

    def detect(self, seen: Frame) -> Detections:
        self.order.append((seen.camera, seen.index))
        threading.Event().wait(self._random.random() * 0.003)
        if seen.index in self._broken:
            raise InferenceError(f"frame {seen.index} is broken")
        return NOTHING


def run_pool(pool: DetectionPool, workers: int) -> list[BaseException]:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            pool.work(NoBeat())
        except InferenceError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return errors


def feed(seen: Seen, camera: str, count: int) -> threading.Thread:
    def put() -> None:
        for i in range(count):
            if not seen.slot.put(frame(camera, i)):
                return
        seen.slot.close()

    thread = threading.Thread(target=put)
    thread.start()
    return thread


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_frames_of_each_camera_come_out_in_order(workers: int) -> None:
    ready = threading.Condition()
    cameras = [Seen("a", ready), Seen("b", ready)]
    pool = DetectionPool(SlowDetector(workers), [c.lane for c in cameras], ready, workers)
    feeders = [feed(seen, name, 60) for seen, name in zip(cameras, "ab", strict=True)]
    assert run_pool(pool, workers) == []
    for feeder in feeders:
        feeder.join()
    for seen in cameras:
        assert seen.indices == list(range(60))
        assert [o.id for o in seen.outputs if isinstance(o, Event)] == [str(i) for i in range(60)]
        seen.lane.chain.close("end_of_file")
        assert seen.outputs[-1].data == {"reason": "end_of_file"}


def test_use_cases_and_the_record_get_the_sensors_of_the_moment() -> None:
    seen = Seen("a", threading.Condition())
    for ticket in range(2):
        seen.lane.submit(ticket, frame("a", ticket), NOTHING)
    assert [output.data for output in seen.outputs] == [{"door": 0.0}, {"door": 1.0}]
    assert seen.sensors == [{"door": SensorValue(True, "", age)} for age in (0.0, 1.0)]


def test_a_busy_camera_does_not_starve_the_other() -> None:
    ready = threading.Condition()
    cameras = [Seen("a", ready, FrameQueue(ready, capacity=100)), Seen("b", ready, FrameQueue(ready, capacity=100))]
    for seen, name, count in ((cameras[0], "a", 50), (cameras[1], "b", 5)):
        for i in range(count):
            seen.slot.put(frame(name, i))
        seen.slot.close()
    detector = SlowDetector()
    run_pool(DetectionPool(detector, [c.lane for c in cameras], ready, 1), 1)
    assert [camera for camera, _ in detector.order[:10]] == ["a", "b"] * 5


def test_a_frame_that_fails_is_skipped_and_counted() -> None:
    ready = threading.Condition()
    seen = Seen("a", ready)
    feeder = feed(seen, "a", 20)
    assert run_pool(DetectionPool(SlowDetector(broken=[3, 7]), [seen.lane], ready, 2), 2) == []
    feeder.join()
    assert seen.indices == [i for i in range(20) if i not in (3, 7)]
    assert seen.lane.chain.stats.failed == 2
    assert "is broken" in seen.lane.chain.stats.last_error


def test_frames_that_fail_alike_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    ready = threading.Condition()
    seen = Seen("a", ready)

    class EverySecond(SlowDetector):
        def detect(self, seen: Frame) -> Detections:
            if seen.index % 2:
                raise InferenceError("out of memory")
            return NOTHING

    feeder = feed(seen, "a", 40)
    assert run_pool(DetectionPool(EverySecond(), [seen.lane], ready, 2), 2) == []
    feeder.join()
    assert seen.lane.chain.stats.failed == 20
    assert 1 <= caplog.text.count("out of memory") <= 2, "two workers may meet the first at once"


def test_a_backend_that_only_fails_ends_the_worker() -> None:
    ready = threading.Condition()
    seen = Seen("a", ready)
    feeder = feed(seen, "a", 60)
    errors = run_pool(DetectionPool(SlowDetector(broken=range(60)), [seen.lane], ready, 2), 2)
    seen.slot.close()
    feeder.join()
    assert errors
    assert seen.lane.chain.stats.failed >= DetectionPool.MAX_FAILURES


def test_the_episodes_of_a_silent_camera_end_and_later_frames_go_on() -> None:
    seen = Seen("a", threading.Condition())
    seen.lane.submit(0, frame("a", 0), NOTHING)
    seen.lane.silent()
    assert [(o.phase, o.data) for o in seen.outputs if isinstance(o, Event)][1:] == [
        ("ended", {"reason": "camera_gap"})
    ]
    seen.lane.submit(1, frame("a", 1), NOTHING)
    assert seen.indices == [0, 1]


def test_only_people_are_counted_as_people() -> None:
    seen = Seen("a", threading.Condition())
    boxes, scores, labels = np.zeros((3, 4), np.float32), np.ones(3, np.float32), ("car", "person")
    for index, classes in enumerate(([1, 0, 1], [0, 0, 0])):
        seen.lane.submit(index, frame("a", index), Detections(boxes, scores, np.array(classes, np.int32), labels))
        assert seen.lane.chain.stats.people == classes.count(1)
    assert seen.lane.chain.stats.people_max == 2


class HeldDetector:
    """Frame 0 takes as long as the test wants."""

    labels: tuple[str, ...] = ("person",)
    concurrency = 8

    def __init__(self) -> None:
        self.release = threading.Event()
        self.others_done = threading.Event()

    def detect(self, seen: Frame) -> Detections:
        if seen.index == 0:
            assert self.release.wait(20)
        elif seen.index == 2:
            self.others_done.set()
        return NOTHING


def test_a_worker_that_waits_for_a_slow_frame_goes_on_after_it() -> None:
    """One worker holds frame 0, the other is as far ahead as it may be: with the last frame out, nobody puts any more."""
    ready = threading.Condition()
    seen = Seen("a", ready)
    for i in range(3):
        seen.slot.put(frame("a", i))
    detector = HeldDetector()
    pool = DetectionPool(detector, [seen.lane], ready, 2)
    workers = [threading.Thread(target=pool.work, args=(NoBeat(),), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert detector.others_done.wait(20)
    seen.slot.put(frame("a", 3))  # waits in the slot: its camera has three frames under way
    waiting = threading.Event()
    while seen.lane._ready.keys() != {1, 2}:
        waiting.wait(0.001)
    waiting.wait(0.05)  # the second worker looks at the slots once more, and finds the camera ahead by its limit
    seen.slot.close()
    waiting.wait(0.05)
    detector.release.set()
    for worker in workers:
        worker.join(20)
    assert not any(worker.is_alive() for worker in workers)
    assert seen.indices == [0, 1, 2, 3]


@given(st.permutations(range(12)))
def test_submission_in_any_order_comes_out_in_order(order: list[int]) -> None:
    seen = Seen("a", threading.Condition())
    for ticket in order:
        seen.lane.submit(ticket, frame("a", ticket), NOTHING)
    assert seen.indices == list(range(12))
    assert seen.lane.due == 12


def test_a_crash_in_the_chain_does_not_stop_the_lane_for_good() -> None:
    seen = Seen("a", threading.Condition())

    def crash(_: Sequence[Output]) -> None:
        raise RuntimeError("bug")

    chain = CameraChain("a", tracker=NoTracks(), ground=NoGround(), use_cases=[EveryFrame()], emit=crash)
    lane = CameraLane(seen.slot, chain)
    with pytest.raises(RuntimeError, match="bug"):
        lane.submit(0, frame("a", 0), NOTHING)
    with pytest.raises(RuntimeError, match="bug"):
        lane.submit(1, frame("a", 1), NOTHING)
    assert lane.due == 2


def test_closing_waits_for_nobody_and_nothing_comes_after() -> None:
    seen = Seen("a", threading.Condition())
    entered, leave = threading.Event(), threading.Event()

    def hang(_: Sequence[Output]) -> None:
        entered.set()
        assert leave.wait(10)

    chain = CameraChain("a", tracker=NoTracks(), ground=NoGround(), use_cases=[EveryFrame()], emit=hang)
    lane = CameraLane(seen.slot, chain)
    worker = threading.Thread(target=lane.submit, args=(0, frame("a", 0), NOTHING))
    worker.start()
    assert entered.wait(10)
    assert not lane.close("shutdown"), "a frame is inside"
    leave.set()
    worker.join(10)
    assert lane.close("shutdown")
    lane.submit(1, frame("a", 1), NOTHING)
    assert chain.stats.frames == 1


class CountingDetector(SlowDetector):
    """Knows how many threads were inside at once."""

    def __init__(self, concurrency: int, later: int) -> None:
        super().__init__()
        self.concurrency = concurrency
        self.later = later
        self.inside = 0
        self.most = {concurrency: 0, later: 0}
        self._lock = threading.Lock()

    def detect(self, seen: Frame) -> Detections:
        with self._lock:
            self.inside += 1
            self.most[self.concurrency] = max(self.most[self.concurrency], self.inside)
        result = super().detect(seen)
        with self._lock:
            self.inside -= 1
            if seen.index == 100:  # another device takes over
                self.concurrency = self.later
        return result


def test_no_more_frames_are_under_way_than_the_device_gains_from() -> None:
    ready = threading.Condition()
    seen = Seen("a", ready)
    detector = CountingDetector(1, 3)
    feeder = feed(seen, "a", 200)
    run_pool(DetectionPool(detector, [seen.lane], ready, 4), 4)
    feeder.join(20)
    assert seen.indices == list(range(200))
    assert detector.most[1] == 1
    assert 1 < detector.most[3] <= 3
