"""What the TensorRT backend must do. Run by ``tests/test_tensorrt.py``: on a GPU, and always on the stand-ins.

Tests that need the stand-in to misbehave are skipped on real hardware.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import Backend, LoadRequest
from edge_agent.detect.backends.tensorrt import available, build, engine_ready, open_backend
from edge_agent.detect.backends.tensorrt.cache import engine_folder, key_for, make_calibration_name, write_engine
from edge_agent.detect.backends.tensorrt.memory import PACKAGES, installed
from edge_agent.detect.cuda_probe import probe_gpu
from edge_agent.detect.default_model import take_model
from edge_agent.detect.loading import DetectorLoader
from edge_agent.detect.manifest import FilePart, Model
from edge_agent.detect.serving import ServingDetector
from edge_agent.detect.trial import trial
from edge_agent.errors import HardwareError, InferenceError, ModelError
from edge_agent.types import Frame
from tests.conformance.backend_rows import ONNX_CASES, Case, network, picture, reference
from tests.conformance.device_memory import left
from tests.cpu_candidates import FIRST_CPU
from tests.fake_tensorrt import install
from tests.model_manifests import write_model

SITE = os.environ.get("TENSORRT_SITE")
stand_in = pytest.mark.skipif(SITE is None, reason="needs the stand-in for TensorRT")
CASES = [c for c in ONNX_CASES if SITE or c.dtype in ("float32", "float16")]
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.1}
"""Relative to the largest value of an output. It calculates in another order, and in what it finds fastest."""


def settings(**change: Any) -> DetectConfig:
    return DetectConfig.model_validate({"tensorrt": {"precision": "fp32"} | change})


def request_for(folder: Path, case: Case = ONNX_CASES[0], **change: Any) -> LoadRequest:
    folder.mkdir(exist_ok=True)
    return LoadRequest(network(case, folder / "model"), settings(**change), folder / "cache")


@pytest.fixture
def request_(tmp_path: Path) -> LoadRequest:
    return request_for(tmp_path)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> LoadRequest:
    made = request_for(tmp_path_factory.mktemp("built"))
    assert build(made)
    return made


@pytest.fixture
def built(request_: LoadRequest, built_once: LoadRequest) -> LoadRequest:
    """An engine that was built once for all, in a cache of the test's own."""
    shutil.copytree(built_once.cache, request_.cache)
    return request_


@pytest.fixture
def backend(built: LoadRequest) -> Iterator[Backend]:
    opened = open_backend(built)
    yield opened
    opened.close()
    opened.close()
    assert left() == {}


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda what: monkeypatch.setenv("FAKE_TENSORRT", what)


def engines(request: LoadRequest) -> list[Path]:
    return sorted(engine_folder(request.cache).glob("*")) if engine_folder(request.cache).exists() else []


def agree(case: Case, outputs: Any, expected: Any, precision: str) -> None:
    assert len(outputs) == len(expected) == len(case.outputs)
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.dtype == np.float32 and output.shape == wanted.shape
        limit = max(TOLERANCE[precision], TOLERANCE[case.precision]) * max(1.0, float(np.abs(wanted).max()))
        assert float(np.abs(output - wanted).max()) <= limit


def test_it_is_available() -> None:
    assert available(settings()) == ""


def test_without_an_engine_it_says_so(request_: LoadRequest) -> None:
    assert not engine_ready(request_)
    with pytest.raises(ModelError, match=r"has no engine for .* and TensorRT"):
        open_backend(request_)


def test_building_tells_how_far_it_is(request_: LoadRequest) -> None:
    heard: list[tuple[str, float | None]] = []
    assert build(request_, lambda doing, done: heard.append((doing, done)))
    assert engine_ready(request_) and len(engines(request_)) == 1
    assert [doing for doing, _ in heard][:2] == ["starting CUDA", "loading TensorRT"]
    assert heard[-1][0] == "trying the engine"
    assert any(done is not None and 0 < done <= 1 for _, done in heard) or not SITE


@pytest.mark.parametrize("precision", ["fp32"] if SITE else ["fp32", "fp16"])  # the stand-in has one way to calculate
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_answers_like_the_reference(tmp_path: Path, case: Case, precision: str) -> None:
    request = request_for(tmp_path, case, precision=precision)
    assert build(request)
    backend = open_backend(request)
    assert backend.input.dtype == np.dtype(case.dtype) and list(backend.input.shape) == case.shape
    run = backend.runner()
    for seed in range(3):
        tensor, real = picture(backend.input, seed)
        agree(case, run(tensor), reference(case, real), precision)
    backend.close()
    assert left() == {}


def test_status_says_where_it_runs(backend: Backend) -> None:
    assert probe_gpu(0).name in backend.device and "TensorRT" in backend.device and "fp32" in backend.device
    assert backend.concurrency == 2


@pytest.mark.parametrize("memory", list(PACKAGES))
@pytest.mark.parametrize("graph", [False, True])
def test_both_memories_with_and_without_a_graph(built: LoadRequest, memory: Any, graph: bool) -> None:
    if not installed(memory):
        pytest.skip(f"{memory} is not installed")
    config = settings(memory=memory, cuda_graph=graph)
    backend = open_backend(replace(built, config=config))
    run = backend.runner()
    for seed in range(5):
        tensor, real = picture(backend.input, seed)
        agree(ONNX_CASES[0], run(tensor), reference(ONNX_CASES[0], real), "fp32")
    backend.close()
    assert left() == {}


@pytest.mark.parametrize("graph", [False, True])
def test_two_threads_get_their_own_answers(built: LoadRequest, graph: bool) -> None:
    backend = open_backend(replace(built, config=settings(cuda_graph=graph)))
    wrong: list[str] = []

    def work(seed: int) -> None:
        try:
            run = backend.runner()
            tensor, real = picture(backend.input, seed)
            expected = reference(ONNX_CASES[0], real)
            for _ in range(30):
                agree(ONNX_CASES[0], run(tensor), expected, "fp32")
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    backend.close()
    assert not wrong and not any(thread.is_alive() for thread in threads) and left() == {}


def test_a_tensor_of_another_kind_is_an_error_and_no_more(backend: Backend) -> None:
    run = backend.runner()
    for tensor in (np.zeros(backend.input.shape, np.float64), np.zeros((1, 3, 8, 8), np.float32)):
        with pytest.raises(InferenceError, match="TensorRT"):
            run(tensor)
    tensor, real = picture(backend.input, 1)
    agree(ONNX_CASES[0], run(tensor), reference(ONNX_CASES[0], real), "fp32")


def test_nothing_runs_after_close(built: LoadRequest) -> None:
    backend = open_backend(built)
    run = backend.runner()
    backend.close()
    with pytest.raises(InferenceError, match="closed"):
        run(np.zeros(backend.input.shape, np.float32))
    with pytest.raises(HardwareError, match="closed"):
        backend.runner()


def test_memory_that_a_picture_is_written_to_is_not_freed_under_it(built: LoadRequest) -> None:
    backend = open_backend(built)
    run = backend.runner()
    plain = np.zeros(backend.input.shape, np.float32)
    closer = threading.Thread(target=backend.close)
    waited: list[bool] = []

    class Closing:
        """A picture during whose copy the backend is closed."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[np.float32]:
            closer.start()
            closer.join(0.3)
            waited.append(closer.is_alive())
            return plain

    run(Closing())  # type: ignore[arg-type]
    closer.join(20)
    assert waited == [True] and not closer.is_alive() and left() == {}
    with pytest.raises(InferenceError, match="closed"):
        run(plain)


def test_it_can_be_loaded_again_and_again(built: LoadRequest) -> None:
    for _ in range(3):
        backend = open_backend(built)
        backend.runner()(np.zeros(backend.input.shape, np.float32))
        backend.close()
    assert left() == {}


def test_a_batch_of_one_runs_on_an_engine_for_more(tmp_path: Path) -> None:
    case = next(c for c in ONNX_CASES if c.name == "dynamic")
    request = request_for(tmp_path, case, max_batch=4)
    assert build(request)
    backend = open_backend(request)
    tensor, real = picture(backend.input, 1)
    agree(case, backend.runner()(tensor), reference(case, real), "fp32")
    backend.close()


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "text", "header", "other"])
def test_a_damaged_engine_is_never_loaded(built: LoadRequest, harm: str) -> None:
    (path,) = engines(built)
    data = path.read_bytes()
    end = data.index(b"}\n") + 2
    harmed = {
        "flip": data[: end + 50] + bytes([data[end + 50] ^ 1]) + data[end + 51 :],
        "cut": data[:-100],
        "empty": b"",
        "text": b"no engine",
        "header": data[:40] + b"{" + data[41:],
        "other": data.replace(b'"fp32"', b'"fp16"'),
    }[harm]
    path.write_bytes(harmed)
    with pytest.raises(ModelError, match="has no engine"):
        open_backend(built)
    assert not engine_ready(built) and engines(built) == []
    assert build(built) and engine_ready(built)


@pytest.mark.parametrize("change", [{"precision": "fp16"}, {"max_batch": 2}], ids=str)
def test_another_configuration_needs_another_engine(built: LoadRequest, change: dict[str, Any]) -> None:
    other = replace(built, config=settings(**change))
    assert not engine_ready(other)
    assert build(other) and engine_ready(other) and engine_ready(built)


def test_another_network_needs_another_engine(built: LoadRequest, tmp_path: Path) -> None:
    other = request_for(tmp_path / "other", next(c for c in ONNX_CASES if c.name == "dynamic"))
    assert not engine_ready(replace(other, cache=built.cache))


def test_cancelling_stops_the_build_and_leaves_nothing(request_: LoadRequest) -> None:
    cancel = threading.Event()
    assert not build(request_, lambda doing, done: cancel.set(), cancel=cancel)
    assert not engine_ready(request_) and engines(request_) == []


def test_a_trial_runs_it_in_a_child(built: LoadRequest) -> None:
    case = network(ONNX_CASES[0], built.cache.parent / "trial", size=(32, 24))
    # The tiny network is no detector: that its outputs were looked at shows that it ran.
    with pytest.raises(ModelError, match=r"does not run: .*family yolov8"):
        trial("tensorrt", replace(built, network=case))


def test_a_file_that_is_not_onnx_is_refused(built: LoadRequest) -> None:
    file = built.network.file.model_copy(update={"path": "model.engine", "sha256": "0" * 64})
    manifest = built.network.manifest.model_copy(update={"files": (file,)})
    with pytest.raises(ModelError, match="built from ONNX"):
        build(replace(built, network=replace(built.network, manifest=manifest, file=file)))


def test_a_manifest_that_does_not_fit_is_told(request_: LoadRequest, tmp_path: Path) -> None:
    wrong = network(ONNX_CASES[0], tmp_path / "wrong", name="pixels")
    with pytest.raises(ModelError, match=r"the manifest names 'pixels'"):
        build(replace(request_, network=wrong))


# ---- what only the stand-in does on demand


@stand_in
@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("build:segfault", r"killed by SIGSEGV.* while building the fp32 engine"),
        ("build:memory", "not enough memory.*out of memory"),
        ("load:refuse", "refuses the engine: Version tag"),
        ("run:fail", "Cask convolution"),
        ("run:nan", "not finite"),
    ],
)
def test_a_build_that_fails_is_a_typed_error(request_: LoadRequest, behave: Any, what: str, match: str) -> None:
    behave(what)
    with pytest.raises((HardwareError, InferenceError), match=match):
        build(request_)
    assert engines(request_) == []


@stand_in
def test_a_build_that_hangs_is_stopped(request_: LoadRequest, behave: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    behave("build:hang")
    monkeypatch.setattr("edge_agent.detect.backends.tensorrt.building.TIMEOUT_S", 3.0)
    with pytest.raises(HardwareError, match="no result after 3 s, stopped while building"):
        build(request_)


@stand_in
@pytest.mark.parametrize(
    ("what", "kind", "match", "stays"),
    [
        ("load:refuse", ModelError, "refuses the engine", False),
        ("load:memory", HardwareError, "not enough memory on the GPU", True),
    ],
)
def test_an_engine_that_is_refused_is_deleted_one_without_memory_stays(
    built: LoadRequest, behave: Any, what: str, kind: type[Exception], match: str, stays: bool
) -> None:
    behave(what)
    with pytest.raises(kind, match=match):
        open_backend(built)
    assert engine_ready(built) == stays
    assert left() == {}


@stand_in
def test_failures_at_run_time_are_typed(backend: Backend, behave: Any) -> None:
    run = backend.runner()
    behave("run:fail")
    with pytest.raises(InferenceError, match="Cask convolution"):
        run(np.zeros(backend.input.shape, np.float32))
    behave("context:memory")
    with pytest.raises(HardwareError, match=r"no execution context.*out of memory"):
        backend.runner()
    behave("")
    run(np.zeros(backend.input.shape, np.float32))


@stand_in
@pytest.mark.parametrize("what", ["tensorrt", "driver"])
def test_after_an_upgrade_every_engine_is_void(built: LoadRequest, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    (old,) = engines(built)
    if what == "tensorrt":
        install(Path(str(SITE)), "10.7.0.23")
    else:
        monkeypatch.setenv("FAKE_CUDA_DRIVER", "13000")
        probe_gpu.cache_clear()
    try:
        assert not engine_ready(built)
        with pytest.raises(ModelError, match="has no engine"):
            open_backend(built)
        assert old.exists()  # another build may be put back
        assert build(built) and engine_ready(built)
        assert not old.exists() and len(engines(built)) == 1
    finally:
        install(Path(str(SITE)), "10.3.0")
        monkeypatch.delenv("FAKE_CUDA_DRIVER", raising=False)
        probe_gpu.cache_clear()


@stand_in
def test_two_versions_at_once_are_told(request_: LoadRequest) -> None:
    install(Path(str(SITE)), "10.3.0", library="8.6.2")
    try:
        with pytest.raises(HardwareError, match=r"the library is TensorRT 8\.6\.2, its package says 10\.3\.0"):
            build(request_)
    finally:
        install(Path(str(SITE)), "10.3.0")


@stand_in
@pytest.mark.parametrize("version", ["8.6.2", "11.1.0"])
def test_older_and_newer_versions_build(request_: LoadRequest, version: str) -> None:
    install(Path(str(SITE)), version)
    try:
        assert build(replace(request_, config=settings(precision="fp16")))
        facts = engines(request_)[0].read_bytes()
        assert (b'"FP16"' in facts) == (version == "8.6.2")
    finally:
        install(Path(str(SITE)), "10.3.0")


@stand_in
def test_too_old_a_version_is_not_available() -> None:
    install(Path(str(SITE)), "8.5.2")
    try:
        assert "8.5.2 is too old" in available(settings())
    finally:
        install(Path(str(SITE)), "10.3.0")


@stand_in
def test_int8_is_calibrated_from_pictures_once(tmp_path: Path) -> None:
    request = with_pictures(tmp_path, 25)
    assert build(request)
    assert b'"calibrated": "with 25 pictures"' in engine_bytes(request)
    for path in engine_folder(request.cache).glob("*.engine"):
        path.unlink()
    assert not engine_ready(request) and build(request)
    assert b'"calibrated": "from 25 pictures"' in engine_bytes(request)
    assert left() == {}


def engine_bytes(request: LoadRequest) -> bytes:
    (path,) = engine_folder(request.cache).glob("*.engine")
    return path.read_bytes()


def with_pictures(folder: Path, count: int) -> LoadRequest:
    import cv2

    pictures = folder / "pictures"
    pictures.mkdir()
    random = np.random.default_rng(1)
    for number in range(count):
        cv2.imwrite(str(pictures / f"{number:03}.png"), random.integers(0, 256, (30, 40, 3)).astype(np.uint8))
    (pictures / "broken.jpg").write_bytes(b"no picture")
    return request_for(folder, precision="int8", calibration_images=pictures)


@stand_in
def test_other_pictures_need_another_engine(tmp_path: Path) -> None:
    request = with_pictures(tmp_path, 21)
    assert build(request)
    (tmp_path / "pictures" / "000.png").unlink()
    assert not engine_ready(request)


@stand_in
def test_what_was_learned_for_other_weights_or_by_another_version_is_not_used(tmp_path: Path) -> None:
    request = with_pictures(tmp_path, 1)
    (tmp_path / "pictures" / "gone.png").symlink_to(tmp_path / "nowhere")
    file = request.network.file

    def with_weights(digest: str) -> LoadRequest:
        part = FilePart(path="weights.bin", sha256=digest * 64)
        return replace(request, network=replace(request.network, file=file.model_copy(update={"parts": (part,)})))

    names = {make_calibration_name(made) for made in (request, with_weights("0"), with_weights("1"))}
    install(Path(str(SITE)), "10.7.0")
    try:
        names.add(make_calibration_name(request))
    finally:
        install(Path(str(SITE)), "10.3.0")
    assert len(names) == 4


@stand_in
def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="5 pictures that can be read, int8 calibration needs 20"):
        build(with_pictures(tmp_path, 5))


@stand_in
def test_int8_without_pictures_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="calibration_images: a folder of"):
        build(request_for(tmp_path, precision="int8"))
    with pytest.raises(ModelError, match="absent: No such file"):
        engine_ready(request_for(tmp_path, precision="int8", calibration_images=tmp_path / "absent"))


@stand_in
def test_int8_pictures_are_for_older_versions_only(tmp_path: Path) -> None:
    install(Path(str(SITE)), "11.1.0")
    try:
        with pytest.raises(ModelError, match="calibration pictures are for TensorRT up to 10"):
            build(with_pictures(tmp_path, 21))
    finally:
        install(Path(str(SITE)), "10.3.0")


def test_a_box_with_a_gpu_gets_the_accurate_model(tmp_path: Path) -> None:
    for name in ("person-s", "person-n"):
        write_model(tmp_path, name)
    taken = take_model("auto", tmp_path, DetectConfig())
    assert (taken.model.manifest.name, taken.why) == ("person-s", "auto: tensorrt has room for the more accurate one")
    plain = take_model("auto", tmp_path, DetectConfig(backend="onnxruntime"))
    assert plain.model.manifest.name == "person-n"


@stand_in
def test_the_cpu_serves_while_the_engine_is_built_and_after_every_upgrade(
    bundled: Model, vtest_video: Path, tmp_path: Path
) -> None:
    import cv2

    ok, image = cv2.VideoCapture(str(vtest_video)).read()
    assert ok
    frame = Frame("hall", 0, 0.0, 0.0, image.astype(np.uint8))
    config = DetectConfig.model_validate({"precision": "fp32", "tensorrt": {"precision": "fp32"}})

    def start() -> tuple[DetectorLoader, ServingDetector]:
        loader = DetectorLoader(bundled, config, tmp_path, stop=threading.Event())
        return loader, loader.load()

    loader, serving = start()
    assert (loader.loaded.name, loader.pending) == (FIRST_CPU.name, True)
    expected = serving.detect(frame)
    assert len(expected)
    loader.finish()
    assert (loader.loaded.name, loader.pending, loader.loaded.trouble) == ("tensorrt", False, "")
    assert "Fake GPU" in serving.current.backend.device
    seen = serving.detect(frame)
    np.testing.assert_allclose(seen.boxes, expected.boxes, atol=0.01)
    serving.close()
    loader, serving = start()
    assert (loader.loaded.name, loader.pending) == ("tensorrt", False)
    serving.close()
    install(Path(str(SITE)), "10.7.0")
    try:
        loader, serving = start()
        assert (loader.loaded.name, loader.pending) == (FIRST_CPU.name, True)
        serving.close()
    finally:
        install(Path(str(SITE)), "10.3.0")


@stand_in
def test_a_package_without_metadata_tells_its_version_all_the_same(built: LoadRequest) -> None:
    for info in Path(str(SITE)).glob("tensorrt-*.dist-info"):
        shutil.rmtree(info)
    try:
        assert available(settings()) == "" and engine_ready(built)
    finally:
        install(Path(str(SITE)), "10.3.0")


@stand_in
def test_a_full_disk_is_told_and_leaves_nothing(request_: LoadRequest) -> None:
    request_.cache.mkdir()
    (request_.cache / "tensorrt").write_text("in the way")
    with pytest.raises(HardwareError, match="cannot be stored"):
        build(request_)


@stand_in
def test_only_the_newest_engines_are_kept(request_: LoadRequest) -> None:
    requests = [replace(request_, config=settings(max_batch=batch)) for batch in range(1, 9)]
    for made in requests:
        path = write_engine(key_for(made), memoryview(b"plan"), "fp32", made.cache)
        os.utime(path, (1000 + made.config.tensorrt.max_batch,) * 2)
    assert len(engines(request_)) == 6
    assert [engine_ready(made) for made in requests] == [False] * 2 + [True] * 6
