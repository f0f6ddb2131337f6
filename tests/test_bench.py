"""``edge-agent bench`` as its user runs it, on a small video with the real model; and its parts."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent import config_file
from edge_agent.app import Agent
from edge_agent.bench.arrange import arranged
from edge_agent.bench.bare import BareModel
from edge_agent.bench.compare import compare
from edge_agent.bench.measure import Measurement, Plan
from edge_agent.bench.recorder import STAGES, Recorder, process_age
from edge_agent.bench.result import BenchResult, Spread, Times, read_result
from edge_agent.config import CameraConfig, Config, SocialDistancingConfig, UseCasesConfig
from edge_agent.config_sinks import InfluxDbConfig, WebhookConfig
from edge_agent.config_sop import SopConfig
from edge_agent.detect.backends import InputTensor
from edge_agent.errors import HardwareError, InferenceError, UsageError
from edge_agent.pipeline import DetectionPool
from edge_agent.run_options import RunOptions
from edge_agent.types import F32, Beat, Detections, Event, Frame, Stage
from tests.agent_process import COMMAND, run_agent, write_config
from tests.capture_helpers import write_video
from tests.contract import SYNTHETIC
from tests.mosquitto import wait_for
from tests.rtsp import RtspServer
from tests.test_pipeline import NoBeat, Seen, SlowDetector, feed

FRAMES = 20
WORK: tuple[Stage, ...] = ("preprocess", "inference", "postprocess", "track", "ground", "use_cases", "outbox")
"""The stages that a detection worker goes through, one after the other."""


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shorter than what is measured: it has to be looped."""
    path = tmp_path_factory.mktemp("video") / "tiny.avi"
    write_video(path, 12)
    return path


def bench(root: Path, folder: Path, video: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Without a ground plane: that of the configuration is another camera's."""
    cameras = [{"id": "tiny", "source": str(video)}]
    return run_agent("bench", "-c", write_config(root, folder, cameras=cameras), *arguments)


@pytest.fixture(scope="module")
def kept(root: Path, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result, as a user keeps it."""
    folder = tmp_path_factory.mktemp("kept")
    done = bench(root, folder, video, "--frames", str(FRAMES), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "bench.json").write_text(done.stdout)
    return folder / "bench.json"


@pytest.fixture(scope="module")
def result(kept: Path) -> BenchResult:
    return read_result(kept)


# ---- the measurement


@pytest.mark.slow
def test_the_json_says_what_was_measured_on_what(kept: Path, result: BenchResult, video: Path) -> None:
    plain = json.loads(kept.read_text())
    assert plain.keys() == BenchResult.model_fields.keys()
    assert result.model.name in ("person-s", "person-n") and result.model.precision in ("fp32", "int8")
    assert len(result.model.sha256) == 64 and len(result.config_hash) == 64
    assert (result.source.name, result.source.size, result.source.streams) == (video.name, (96, 64), 1)
    assert result.source.bytes == video.stat().st_size and not result.source.paced
    assert result.machine.cores >= 1 and result.machine.cpu and result.machine.kernel
    assert result.machine.python == ".".join(map(str, sys.version_info[:3]))
    assert {"numpy", "opencv", "onnxruntime"} <= result.machine.runtimes.keys()
    assert result.failed == result.dropped == 0


@pytest.mark.slow
def test_every_stage_of_every_frame_is_timed(result: BenchResult) -> None:
    assert result.frames >= FRAMES and result.rounds == 5
    assert tuple(result.stages) == STAGES
    for stage, times in result.stages.items():
        # A lap that was begun while nobody listened belongs to neither side.
        assert abs(times.wall_ms.n - result.frames) <= 2 * result.rounds, stage
        assert 0 <= times.cpu_ms <= times.wall_ms.max
    for spread in [*(times.wall_ms for times in result.stages.values()), result.latency_ms]:
        assert 0 < spread.p50 <= spread.p95 <= spread.p99 <= spread.max
        assert spread.mean <= spread.max
    assert result.stages["inference"].cpu_ms > result.stages["track"].cpu_ms


@pytest.mark.slow
def test_the_stages_add_up_to_the_whole(result: BenchResult) -> None:
    work = sum(result.stages[stage].wall_ms.mean for stage in WORK)
    assert work < 2 * result.latency_ms.mean
    # Workers do little else than this, and no more of it than there are of them at a time.
    busy = work / 1000 * result.pipeline_fps.median
    assert 0.2 * result.model.workers < busy < 2.5 * result.model.workers
    cpu = sum(times.cpu_ms for times in result.stages.values()) + result.rest_cpu_ms
    assert cpu == pytest.approx(result.cpu_ms, rel=0.6)
    assert 0 < result.cpu_cores <= 1.2 * result.machine.cores
    assert 50 < result.peak_rss_mb < 2000
    assert 0 < result.first_detection_s < 60


@pytest.mark.slow
def test_the_ratio_is_of_pipeline_and_bare_model_in_each_round(result: BenchResult) -> None:
    for spread in (result.bare_fps, result.pipeline_fps, result.ratio):
        assert 0 < spread.low <= spread.median <= spread.high
    assert result.pipeline_fps.low / result.bare_fps.high <= result.ratio.median
    assert result.ratio.median <= result.pipeline_fps.high / result.bare_fps.low
    assert 0.2 < result.ratio.median < 3


@pytest.mark.slow
def test_several_streams_and_a_table_for_people(root: Path, video: Path, tmp_path: Path) -> None:
    done = bench(root, tmp_path, video, "--streams", "2", "--frames", "2", "--backend", "onnxruntime")
    assert (done.returncode, done.stderr) == (0, "")
    assert "tiny.avi 96x64, 2 streams" in done.stdout
    for words in ("decode boxes + NMS", "capture to outbox", "model alone", "of the model alone", "MB at most"):
        assert words in done.stdout
    assert not (tmp_path / "state").exists()


@pytest.mark.slow
def test_a_source_is_enough_where_there_is_no_configuration(root: Path, video: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(root / "models")
    command = [*COMMAND, "bench", "--source", str(video), "--frames", "2", "--realtime", "--json"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"]["paced"] is True
    assert {path.name for path in tmp_path.iterdir()} == {"models"}


@pytest.mark.slow
def test_a_live_camera_sets_the_pace_and_its_password_stays_here(root: Path, tmp_path: Path) -> None:
    with RtspServer() as server:
        config = write_config(root, tmp_path, cameras=[{"id": "live", "source": server.url}])
        done = run_agent("bench", "-c", config, "--frames", "10", "--json")
    assert done.returncode == 0, done.stderr
    result = BenchResult.model_validate_json(done.stdout)
    assert result.source.paced and result.source.bytes is None and result.source.size == (320, 240)
    for said in (done.stdout, done.stderr):  # it may warn of a view without detail
        assert "s3cret" not in said and "operator" not in said
    assert result.stages["decode"].cpu_ms < result.stages["decode"].wall_ms.mean


@pytest.mark.slow
def test_an_interrupt_ends_it_in_order(root: Path, video: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    command = [*COMMAND, "bench", "-c", str(write_config(root, tmp_path)), "--source", str(video), "--seconds", "300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: bool(list(state.glob("bench-*/outbox.db"))), 60, "the agent at work")
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=30)
    assert process.returncode == 130, complained
    assert said == "" and "Traceback" not in complained
    assert not list(state.glob("bench-*"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
@pytest.mark.parametrize("built", [True, False])
def test_nothing_is_measured_while_an_engine_is_built(
    backend: str, built: bool, root: Path, video: Path, tmp_path: Path
) -> None:
    config = config_file.load(write_config(root, tmp_path, cameras=[{"id": "tiny", "source": str(video)}]))
    config = config.model_copy(update={"detect": config.detect.model_copy(update={"backend": backend})})
    agent = Agent(config, RunOptions(mqtt=False, loop=True))
    ready, told = threading.Event(), threading.Event()

    def build(_: Beat) -> None:
        ready.wait(60)
        if not built:
            raise HardwareError("no memory left")

    agent.supervisor.spawn("engine", build, essential=False, deadline_s=math.inf, restart=False)
    run = Measurement(agent, Recorder(), Plan(), lambda share, what: told.set())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run.wait_for_engine)
        assert told.wait(20) and not waiting.done()
        ready.set()
        if built or backend == "auto":
            waiting.result(20)
        else:
            with pytest.raises(HardwareError):
                waiting.result(20)
    agent.detector.close()


@pytest.mark.parametrize(
    ("plan", "rounds"),
    [(Plan(1), 5), (Plan(15), 5), (Plan(300), 100), (Plan(frames=1), 1), (Plan(frames=400), 5), (Plan(frames=900), 9)],
)
def test_what_takes_longer_has_more_rounds(plan: Plan, rounds: int) -> None:
    assert plan.rounds == rounds


# ---- two results


@pytest.mark.slow
def test_compare_says_by_its_exit_code_whether_it_became_worse(kept: Path, tmp_path: Path) -> None:
    plain = json.loads(kept.read_text())
    same = run_agent("bench", "--from", kept, "--compare", kept, "--tolerance", "0")
    assert same.returncode == 0, same.stderr
    assert "earlier" in same.stdout and "+0.0%" in same.stdout

    slower = tmp_path / "slower.json"
    slower.write_text(json.dumps(plain | {"cpu_ms": plain["cpu_ms"] * 1.2}))
    worse = run_agent("bench", "--from", slower, "--compare", kept, "--json")
    assert worse.returncode == 1
    assert json.loads(worse.stdout)["compare"]["worse"] == ["CPU for a frame"]
    assert run_agent("bench", "--from", slower, "--compare", kept, "--tolerance", "0.3").returncode == 0
    assert run_agent("bench", "--from", kept, "--compare", slower).returncode == 0, "better is not worse"

    other = tmp_path / "other.json"
    other.write_text(json.dumps(plain | {"source": plain["source"] | {"streams": 4}}))
    refused = run_agent("bench", "--from", kept, "--compare", other)
    assert refused.returncode == 2 and "streams was 4, is 1" in refused.stderr


def some_result(**changes: Any) -> BenchResult:
    times = {"n": 9, "mean": 2.0, "p50": 2.0, "p95": 3.0, "p99": 4.0, "max": 5.0}
    spread = {"median": 50.0, "low": 40.0, "high": 60.0}
    plain: dict[str, Any] = {
        "bench": 1,
        "time": "2026-01-31T12:00:00.000Z",
        "version": "0.1.0",
        "config_hash": "c" * 64,
        "machine": dict.fromkeys(("cpu", "board", "system", "kernel", "arch", "python", "governor"), "x")
        | {"cores": 2, "memory_mb": 1000, "runtimes": {"numpy": "2.0"}},
        "model": dict.fromkeys(("name", "version", "precision", "device"), "m")
        | {"sha256": "a" * 64, "input": [416, 416], "workers": 2, "backend": "onnxruntime"},
        "source": {"name": "video.avi", "bytes": 5, "size": [96, 64], "streams": 1, "paced": False},
        "rounds": 5,
        "frames": 100,
        "failed": 0,
        "dropped": 0,
        "bare_fps": spread,
        "pipeline_fps": spread,
        "ratio": spread,
        "stages": {"track": {"wall_ms": times, "cpu_ms": 1.0}},
        "rest_cpu_ms": 1.0,
        "latency_ms": times,
        "stored_latency_ms": times,
        "cpu_cores": 1.5,
        "cpu_ms": 20.0,
        "peak_rss_mb": 200.0,
        "first_detection_s": 1.0,
        "temperature_c": [None, 50.0],
        "busy_elsewhere": 0.0,
    }
    return BenchResult.model_validate(plain | changes)


def worse(earlier: BenchResult, later: BenchResult, tolerance: float) -> set[str]:
    return {row.name for row in compare(earlier, later, tolerance).worse}


@given(factor=st.floats(0.2, 5), tolerance=st.floats(0, 0.7))
def test_worse_is_slower_or_larger_by_more_than_the_tolerance(factor: float, tolerance: float) -> None:
    before = some_result()
    spread = Spread(median=50 * factor, low=40 * factor, high=60 * factor)
    changed = before.model_copy(update={"pipeline_fps": spread, "peak_rss_mb": 200 * factor})
    found = worse(before, changed, tolerance)
    assert ("pipeline" in found) == (50 * factor < 50 * (1 - tolerance))
    assert ("peak memory" in found) == (200 * factor > 200 * (1 + tolerance))
    assert worse(before, before, tolerance) == set()


def test_a_single_stage_is_shown_and_not_judged() -> None:
    before = some_result()
    slow = Times(n=9, mean=9, p50=9, p95=9, p99=9, max=9)
    after = before.model_copy(update={"stages": {"track": before.stages["track"].model_copy(update={"wall_ms": slow})}})
    found = compare(before, after, 0.1)
    assert not found.worse
    row = next(row for row in found.rows if row.name == "track p50")
    assert row.change == pytest.approx(3.5)


def test_a_latency_that_was_not_measured_is_not_judged() -> None:
    before = some_result().model_copy(update={"latency_ms": Times.of([])})
    assert not compare(before, some_result(), 0.0).worse


def test_a_figure_that_is_no_number_is_refused(tmp_path: Path) -> None:
    plain = some_result().model_dump(mode="json")
    (tmp_path / "bench.json").write_text(json.dumps(plain | {"cpu_ms": math.nan}))
    with pytest.raises(UsageError, match="cpu_ms"):
        read_result(tmp_path / "bench.json")


def test_what_differs_beside_is_told() -> None:
    before = some_result()
    machine = before.machine.model_copy(update={"runtimes": {"numpy": "1.26", "openvino": "2026.1"}})
    model = before.model.model_copy(update={"backend": "openvino", "sha256": "b" * 64})
    found = compare(before, before.model_copy(update={"machine": machine, "model": model}), 0.1)
    text = "\n".join(found.notes)
    assert "numpy: 2.0 -> 1.26" in text and "openvino: absent -> 2026.1" in text and "backend: onnxruntime" in text


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("model", {"name": "other"}, "model was"),
        ("model", {"sha256": "b" * 64}, "model file was"),
        ("source", {"name": "other.avi"}, "source was"),
        ("source", {"size": (640, 480)}, "source was"),
        ("source", {"bytes": 6}, "source was"),
        ("source", {"streams": 3}, "streams was 1, is 3"),
        ("source", {"paced": True}, "pace was"),
    ],
)
def test_what_measured_something_else_is_refused(part: str, change: dict[str, Any], said: str) -> None:
    before = some_result()
    after = before.model_copy(update={part: getattr(before, part).model_copy(update=change)})
    with pytest.raises(UsageError, match=said):
        compare(before, after, 10.0)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"bench": 2}', "nonsense", '{"bench": 1, "frames": NaN}', " " * (1 << 20) + "{}"]
)
def test_what_is_no_result_is_refused_with_a_reason(text: str, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(UsageError, match=r"bench\.json: .*no result of"):
        read_result(tmp_path / "bench.json")


def test_a_result_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_result(tmp_path / "bench.json")


def test_a_later_version_may_know_more(tmp_path: Path) -> None:
    plain = some_result().model_dump(mode="json")
    (tmp_path / "bench.json").write_text(json.dumps(plain | {"more": 1, "machine": plain["machine"] | {"gpu": "x"}}))
    assert read_result(tmp_path / "bench.json") == some_result()


# ---- parts


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_percentiles_lie_in_order_and_among_the_values(values: list[float]) -> None:
    times = Times.of(values)
    slack = 1e-3
    assert min(values) - slack <= times.p50 <= times.p95 + slack <= times.p99 + 2 * slack <= times.max + 3 * slack
    assert times.max == pytest.approx(max(values), abs=slack) and times.n == len(values)
    assert times.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-6, abs=slack)


def a_frame() -> Frame:
    return Frame("cam", 0, 0.0, 0.0, np.zeros((2, 2, 3), np.uint8))


def an_event(ident: str) -> Event:
    return Event(ident, "cam", SYNTHETIC, "what", None, ident, 0.0, {})


def test_the_clock_keeps_what_it_hears_while_it_listens() -> None:
    clock = Recorder()
    clock.start()
    clock.lap("track")
    clock.done(a_frame(), [an_event("unheard")])
    assert not clock.wall["track"] and not clock.latency and len(clock.done_at) == 1
    assert clock.first_detection is not None and 0 < clock.first_detection <= process_age() + 0.02

    waited = a_frame()
    clock.forget()
    clock.listening = True
    clock.done(waited, [])
    assert not clock.latency, "captured before it was told to forget"
    clock.start()
    clock.lap("track")
    clock.lap("ground")
    clock.done(a_frame(), [an_event("heard")])
    assert len(clock.wall["track"]) == len(clock.cpu["ground"]) == len(clock.latency) == 1
    assert clock.wall["track"][0] >= 0 and clock.cpu["track"][0] >= 0

    clock.stored({"id": "unheard"})
    clock.stored({"id": "heard"})
    clock.stored({"id": "heard"})
    assert len(clock.stored_latency) == 1


def test_threads_do_not_share_a_lap() -> None:
    clock = Recorder()
    clock.listening = True
    clock.start()
    begun = threading.Barrier(2)

    def other() -> None:
        clock.start()
        begun.wait(10)
        clock.lap("inference")

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait(10)
    thread.join(10)
    clock.lap("track")
    # Ours was begun before the other's and ended after it.
    assert clock.wall["track"][0] >= clock.wall["inference"][0]


class SpinningBackend:
    """Counts runs, and the threads that made runners."""

    input = InputTensor((1, 3, 2, 2), "NCHW", np.dtype(np.float32))
    concurrency = 2
    device = "none"

    def __init__(self, *broken_after: int) -> None:
        self.threads: list[int] = []
        self.together = 0
        self._inside = 0
        self._broken_after = broken_after
        self._lock = threading.Lock()

    def runner(self) -> Any:
        self.threads.append(threading.get_ident())
        left = self._broken_after[len(self.threads) - 1] if self._broken_after else 10**9

        def run(tensor: NDArray[Any]) -> Sequence[F32]:
            nonlocal left
            with self._lock:
                self._inside += 1
                self.together = max(self.together, self._inside)
            left -= 1
            threading.Event().wait(0.001)
            with self._lock:
                self._inside -= 1
            if left < 0:
                raise InferenceError("broken")
            return []

        return run

    def close(self) -> None:
        """Nothing is held."""


def test_frames_stand_still_while_the_pool_pauses() -> None:
    ready = threading.Condition()
    seen = Seen("cam", ready)
    pool = DetectionPool(SlowDetector(), [seen.lane], ready, 2)
    threads = [threading.Thread(target=pool.work, args=(NoBeat(),)) for _ in range(2)]
    feeder = feed(seen, "cam", 300)
    for thread in threads:
        thread.start()
    for _ in range(5):
        wait_for(lambda: seen.lane.due > 0, 20, "a frame")
        with pool.pause():
            before = seen.lane.due
            assert len(seen.indices) == before
            threading.Event().wait(0.05)
            assert seen.lane.due == before, "a frame went through while it paused"
    for thread in (feeder, *threads):
        thread.join(20)
    assert seen.indices == list(range(300))


def test_a_pause_does_not_wait_for_ever_for_a_frame_that_hangs() -> None:
    ready, hang = threading.Condition(), threading.Event()
    seen = Seen("cam", ready)

    class Hanging(SlowDetector):
        def detect(self, seen: Frame) -> Detections:
            hang.wait(20)
            return super().detect(seen)

    pool = DetectionPool(Hanging(), [seen.lane], ready, 1)
    worker = threading.Thread(target=pool.work, args=(NoBeat(),))
    worker.start()
    feeder = feed(seen, "cam", 3)
    wait_for(lambda: pool._detecting > 0, 20, "the frame inside")
    with pytest.raises(InferenceError, match="inside"), pool.pause(0.05):
        pass
    hang.set()
    for thread in (feeder, worker):
        thread.join(20)
    assert seen.indices == [0, 1, 2], "it goes on after a pause that failed"


def test_the_bare_model_runs_in_threads_that_stay() -> None:
    backend = SpinningBackend()
    bare = BareModel(backend, np.zeros((1, 3, 2, 2), np.float32), 2, threading.Event())
    rates = [bare.fps(0.05) for _ in range(2)]
    bare.close()
    assert all(0 < rate <= 2000 for rate in rates)
    assert backend.together == 2
    assert len(backend.threads) == len(set(backend.threads)) == 2


def test_the_bare_model_ends_soon_when_told_to() -> None:
    stop = threading.Event()
    stop.set()
    bare = BareModel(SpinningBackend(), np.zeros((1, 3, 2, 2), np.float32), 2, stop)
    assert bare.fps(3600.0) > 0
    bare.close()


@pytest.mark.parametrize("after", [(0, 0), (4, 10**9), (10**9, 4), (10**9, 0)])
def test_a_model_that_breaks_in_one_thread_ends_all(after: tuple[int, int]) -> None:
    bare = BareModel(SpinningBackend(*after), np.zeros((1, 3, 2, 2), np.float32), 2, threading.Event())
    with pytest.raises(InferenceError):
        bare.fps(3600.0)
    bare.close()


def config_for(folder: Path, source: str, **distancing: Any) -> Config:
    steps = [{"step": "look", "when": {"count": "person"}}]
    procedures = [
        {"name": name, "cameras": cameras, "requires_labels": ["person"], "steps": steps}
        for name, cameras in (("here", ["hall"]), ("everywhere", None))
    ]
    sop = SopConfig.model_validate({"procedures": procedures})
    case = UseCasesConfig(social_distancing=SocialDistancingConfig(**distancing), sop=sop)
    return Config(cameras=[CameraConfig(id="hall", source=source)], state_dir=folder, use_cases=case)


def test_streams_are_the_same_camera_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "engine").touch()
    with arranged(config_for(tmp_path, "rtsp://x/y", cameras=["hall"]), 3) as config:
        assert [camera.id for camera in config.cameras] == ["hall-1", "hall-2", "hall-3"]
        assert {camera.source for camera in config.cameras} == {"rtsp://x/y"}
        assert config.use_cases.social_distancing is not None
        assert config.use_cases.social_distancing.cameras == ["hall-1", "hall-2", "hall-3"]
        assert config.use_cases.sop is not None
        assert [procedure.cameras for procedure in config.use_cases.sop.procedures] == [
            ["hall-1", "hall-2", "hall-3"],
            None,
        ]
        assert config.http.port == 0 and config.http.host == "127.0.0.1"
        assert config.state_dir.parent == tmp_path and (config.state_dir / "cache" / "engine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"] and (tmp_path / "cache" / "engine").exists()


def test_a_measurement_sends_nothing_to_anybody(tmp_path: Path) -> None:
    config = config_for(tmp_path, "rtsp://x/y")
    on = config.model_copy(update={"influxdb": InfluxDbConfig(enabled=True), "webhook": WebhookConfig(enabled=True)})
    with arranged(on, 1) as own:
        assert not own.influxdb.enabled and not own.webhook.enabled


def test_a_device_cannot_be_opened_twice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one device"), arranged(config_for(tmp_path, "/dev/video0"), 2):
        pass


@pytest.mark.parametrize(
    "arguments",
    [["--seconds", "0"], ["--seconds", "nan"], ["--frames", "0"], ["--streams", "65"], ["--tolerance", "-1"]],
)
def test_nonsense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from edge_agent import cli

    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", *arguments])
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err
