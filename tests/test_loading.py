"""Which detector serves, and how a better one takes over while frames come."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_agent.config import DetectConfig
from edge_agent.detect import backends, loading
from edge_agent.detect.backends import Backend, LoadRequest, choice, tensorrt
from edge_agent.detect.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeRunner
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.loading import DetectorLoader
from edge_agent.detect.manifest import Model, find_model
from edge_agent.detect.serving import ServingDetector
from edge_agent.errors import HardwareError, InferenceError, ModelError
from edge_agent.types import NO_CLOCK, Detections, Frame, StageClock
from tests.cpu_candidates import FIRST_CPU

FRAME = Frame("a", 0, 0.0, 0.0, np.full((288, 384, 3), 99, np.uint8))


@pytest.fixture(scope="module")
def model(bundled: Model) -> Model:
    """With its ONNX files only."""
    files = tuple(file for file in bundled.manifest.files if file.backend == "onnxruntime")
    return replace(bundled, manifest=bundled.manifest.model_copy(update={"files": files}))


def detector(model: Model) -> ModelDetector:
    return ModelDetector("onnxruntime", LoadRequest(model.network("onnxruntime"), DetectConfig(), Path("never used")))


def test_on_a_box_without_accelerators_the_cpu_serves_and_says_why_not_the_others(model: Model, tmp_path: Path) -> None:
    loader = DetectorLoader(model, DetectConfig(), tmp_path, stop=threading.Event())
    serving = loader.load()
    assert serving.current.backend_name == FIRST_CPU.backend
    assert serving.detect(FRAME).labels == ("person",)
    assert not loader.pending
    assert loader.loaded.trouble == ""
    assert {name for name, why in loader.loaded.not_taken.items() if why} == {
        c.name for c in choice.CANDIDATES if c.name != FIRST_CPU.name
    }
    serving.close()


@pytest.mark.parametrize("backend", ["tensorrt", "tflite"])
def test_a_backend_that_is_named_is_never_replaced_silently(model: Model, tmp_path: Path, backend: str) -> None:
    config = DetectConfig.model_validate({"backend": backend})
    with pytest.raises(HardwareError, match=r"person-n@1\.0\.0"):
        DetectorLoader(model, config, tmp_path, stop=threading.Event()).load()


def test_a_damaged_file_is_told_as_such_though_others_were_tried(models: Path, tmp_path: Path) -> None:
    damaged = find_model("person-n", models)
    for file in damaged.manifest.files:
        path = damaged.folder / file.path
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="SHA-256"):
        DetectorLoader(damaged, DetectConfig(), tmp_path / "cache", stop=threading.Event()).load()


def test_frames_go_on_while_detectors_are_swapped_and_the_old_one_is_closed_once(model: Model) -> None:
    closed: list[ModelDetector] = []

    class Counted(ModelDetector):
        def close(self) -> None:
            closed.append(self)
            super().close()

    def counted() -> Counted:
        request = LoadRequest(model.network("onnxruntime"), DetectConfig(), Path("never used"))
        return Counted("onnxruntime", request)

    first = counted()
    serving = ServingDetector(first)
    expected = serving.detect(FRAME).boxes
    stop, seen, errors = threading.Event(), [0, 0], []

    def work(place: int) -> None:
        while not stop.is_set():
            try:
                np.testing.assert_array_equal(serving.detect(FRAME).boxes, expected)
            except Exception as error:  # noqa: BLE001 - told below
                errors.append(error)
                return
            seen[place] += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    replaced = [first]
    for _ in range(3):
        before = list(seen)
        while any(now <= then for now, then in zip(seen, before, strict=True)) and not errors:
            stop.wait(0.005)
        replaced.append(counted())
        serving.swap(replaced[-1])
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not errors
    assert closed == replaced[:-1], "each is closed once, when the last thread has left it, and the one at work is not"


def test_closing_waits_for_the_frame_that_is_inside_and_happens_once(model: Model) -> None:
    inside, go_on = threading.Event(), threading.Event()
    closed: list[ModelDetector] = []

    class Slow(ModelDetector):
        def detect(self, frame: Frame, clock: StageClock = NO_CLOCK) -> Detections:
            inside.set()
            assert go_on.wait(20)
            assert not closed
            return super().detect(frame, clock)

        def close(self) -> None:
            closed.append(self)
            raise HardwareError("the driver is gone")

    serving = ServingDetector(
        Slow("onnxruntime", LoadRequest(model.network("onnxruntime"), DetectConfig(), Path("never used")))
    )
    with ThreadPoolExecutor(1) as pool:
        frame = pool.submit(serving.detect, FRAME)
        assert inside.wait(20)
        serving.close()
        assert not closed
        go_on.set()
        assert frame.result(20).labels == ("person",), "whoever closes it has its frame all the same"
    serving.close()
    assert len(closed) == 1


def test_what_a_frame_brings_names_the_detector_that_worked_on_it(model: Model) -> None:
    serving = ServingDetector(detector(model))
    renamed = replace(model, manifest=model.manifest.model_copy(update={"labels": ("cat",), "version": "2"}))
    before = serving.detect(FRAME)
    other = detector(renamed)
    assert serving.swap(other) and serving.current is other
    after = serving.detect(FRAME)
    assert (before.labels, after.labels) == (("person",), ("cat",))
    assert before.model is not None and after.model is not None
    assert (before.model.version, after.model.version) == (model.manifest.version, "2")
    assert serving.meter().calls == 1, "each has a meter of its own"
    # One that was built for a long time finds that another model has taken over: it goes, and nothing changes.
    late = detector(model)
    assert not serving.swap(late, instead_of=detector(model)) and serving.current is other
    with pytest.raises(HardwareError):
        late.backend.runner()


def test_a_thread_for_which_the_device_has_no_room_fails_its_frame_only(model: Model) -> None:
    """A worker lives through an InferenceError and through nothing else."""
    full = [True]

    class Crowded(OnnxRuntimeBackend):
        def runner(self) -> OnnxRuntimeRunner:
            if full[0]:
                raise HardwareError("out of memory")
            return super().runner()

    crowded = detector(model)
    crowded.backend = Crowded(LoadRequest(model.network("onnxruntime"), DetectConfig(), Path("never used")))
    with pytest.raises(InferenceError, match="out of memory"):
        crowded.detect(FRAME)
    full[0] = False
    assert crowded.detect(FRAME).labels == ("person",)


def at_work(loader: DetectorLoader, serving: ServingDetector) -> tuple[str, bool]:
    """The backend at work, and whether a better one is to come."""
    return serving.current.backend_name, loader.pending


Engine = Callable[[Callable[[str, "float | None"], None], threading.Event], None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], list[str]]:
    """A box with a GPU, as far as the loader can tell: its engine is "built" by the test and run by ONNX Runtime.

    The real one is in tests marked ``gpu``; what is held to account here is who serves when.
    """

    def install(engine: Engine) -> list[str]:
        built: list[str] = []

        def build(
            request: LoadRequest, progress: Callable[[str, float | None], None], *, cancel: threading.Event
        ) -> bool:
            engine(progress, cancel)
            if not cancel.is_set():
                built.append(request.network.label)
            return not cancel.is_set()

        def factory(request: LoadRequest) -> Backend:
            assert built, "loaded before it was built"
            return OnnxRuntimeBackend(request)

        monkeypatch.setattr(tensorrt, "available", lambda _: "")
        monkeypatch.setattr(tensorrt, "engine_ready", lambda _: bool(built))
        monkeypatch.setattr(tensorrt, "build", build)
        monkeypatch.setattr(backends, "BACKENDS", {**backends.BACKENDS, "tensorrt": factory})
        monkeypatch.setattr("edge_agent.detect.detector.BACKENDS", {**backends.BACKENDS, "tensorrt": factory})
        monkeypatch.setattr(loading, "trial", lambda *_, **__: None)
        return built

    return install


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_the_cpu_serves_until_the_engine_is_built(
    model: Model, tmp_path: Path, gpu: Callable[[Engine], list[str]], backend: str
) -> None:
    told: list[str] = []

    def engine(progress: Callable[[str, float | None], None], _: threading.Event) -> None:
        progress("building", 0.34)

    gpu(engine)
    config = DetectConfig.model_validate({"backend": backend})
    loader = DetectorLoader(model, config, tmp_path, stop=threading.Event())
    serving = loader.load()
    assert at_work(loader, serving) == (FIRST_CPU.backend, True)
    assert loader.loaded.trouble.startswith(f"{FIRST_CPU.name} serves while the engine for tensorrt is being built")
    loader.finish(lambda: told.append(loader.loaded.trouble))
    assert "34%" in told[0]
    assert at_work(loader, serving) == ("tensorrt", False)
    assert (loader.loaded.name, loader.loaded.trouble) == ("tensorrt", "")
    # The next start finds the engine.
    again = DetectorLoader(model, config, tmp_path, stop=threading.Event())
    assert at_work(again, again.load()) == ("tensorrt", False)


def test_the_stand_in_goes_on_where_the_engine_cannot_be_built(
    model: Model, tmp_path: Path, gpu: Callable[[Engine], list[str]]
) -> None:
    def engine(*_: object) -> None:
        raise HardwareError("building the engine: killed by SIGKILL (usually: out of memory)")

    gpu(engine)
    loader = DetectorLoader(model, DetectConfig(), tmp_path, stop=threading.Event())
    serving = loader.load()
    with pytest.raises(HardwareError, match="out of memory"):
        loader.finish()
    assert "tensorrt cannot take over: building the engine" in loader.loaded.trouble
    assert serving.current.backend_name == FIRST_CPU.backend
    assert len(serving.detect(FRAME).boxes) >= 0


def test_a_stop_ends_the_build(model: Model, tmp_path: Path, gpu: Callable[[Engine], list[str]]) -> None:
    begun = threading.Event()

    def engine(_: object, cancel: threading.Event) -> None:
        begun.set()
        assert cancel.wait(20)

    gpu(engine)
    stop = threading.Event()
    loader = DetectorLoader(model, DetectConfig(), tmp_path, stop=stop)
    serving = loader.load()
    thread = threading.Thread(target=loader.finish)
    thread.start()
    assert begun.wait(20)
    stop.set()
    thread.join(20)
    assert not thread.is_alive() and serving.current.backend_name == FIRST_CPU.backend


def test_an_engine_that_is_refused_is_built_anew(
    model: Model, tmp_path: Path, gpu: Callable[[Engine], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade of the driver: the cache has one, TensorRT does not take it, and throws it away."""
    built = gpu(lambda *_: None)
    built.append("by the driver before")

    def refuse(*_: object, **__: object) -> None:
        if built == ["by the driver before"]:
            built.clear()
            raise ModelError("TensorRT refuses the engine")

    monkeypatch.setattr(loading, "trial", refuse)
    loader = DetectorLoader(model, DetectConfig(), tmp_path, stop=threading.Event())
    serving = loader.load()
    assert at_work(loader, serving) == (FIRST_CPU.backend, True)
    assert "refuses" in loader.loaded.not_taken["tensorrt"]
    loader.finish()
    assert at_work(loader, serving) == ("tensorrt", False)


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_an_engine_that_does_not_run_is_replaced_only_where_nobody_named_it(
    model: Model, tmp_path: Path, gpu: Callable[[Engine], list[str]], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    gpu(lambda *_: None).append("an engine that fits")

    def crash(*_: object, **__: object) -> None:
        raise HardwareError("trial: killed by SIGSEGV")

    monkeypatch.setattr(loading, "trial", crash)
    config = DetectConfig.model_validate({"backend": backend})
    loader = DetectorLoader(model, config, tmp_path, stop=threading.Event())
    if backend == "tensorrt":
        with pytest.raises(HardwareError, match="SIGSEGV"):
            loader.load()
    else:
        assert at_work(loader, loader.load()) == (FIRST_CPU.backend, False)
        assert "SIGSEGV" in loader.loaded.not_taken["tensorrt"]
        assert loader.loaded.trouble.startswith(
            f"{FIRST_CPU.name} serves, as tensorrt does not load: trial: killed by SIGSEGV"
        )


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_a_tensorrt_that_cannot_say_which_engine_fits_makes_room_for_the_next(
    model: Model, tmp_path: Path, gpu: Callable[[Engine], list[str]], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    def broken(*_: object, **__: object) -> bool:
        raise HardwareError("the tensorrt package does not say which version it is")

    gpu(lambda *_: None)
    monkeypatch.setattr(tensorrt, "engine_ready", broken)
    monkeypatch.setattr(loading, "trial", broken)
    config = DetectConfig.model_validate({"backend": backend})
    loader = DetectorLoader(model, config, tmp_path, stop=threading.Event())
    if backend == "tensorrt":
        with pytest.raises(HardwareError, match="which version"):
            loader.load()
    else:
        assert at_work(loader, loader.load()) == (FIRST_CPU.backend, False)
        assert "which version" in loader.loaded.not_taken["tensorrt"]


def test_nothing_takes_over_once_the_run_has_ended(
    model: Model, tmp_path: Path, gpu: Callable[[Engine], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()

    def build(*_: object, **__: object) -> bool:
        stop.set()  # as the last bytes were written
        return True

    gpu(lambda *_: None)
    monkeypatch.setattr(tensorrt, "build", build)
    loader = DetectorLoader(model, DetectConfig(), tmp_path, stop=stop)
    serving = loader.load()
    loader.finish()
    assert at_work(loader, serving) == (FIRST_CPU.backend, True)
