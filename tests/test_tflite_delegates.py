"""Delegates: found, refused, several devices, segments; with libraries built from C and loaded by the real runtime."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import tflite_stages
from edge_agent.detect.backends.tflite import accelerator, available, edge_tpus
from edge_agent.detect.backends.tflite_delegates import choose
from edge_agent.detect.loading import DetectorLoader
from edge_agent.detect.manifest import InputOverride, Model
from edge_agent.detect.preprocess import Preprocessor
from edge_agent.errors import EdgeAgentError, HardwareError, InferenceError, ModelError
from edge_agent.types import Frame
from tests.capture_helpers import wait_until
from tests.tflite_fixtures import (
    BARE,
    BARE_OUTPUTS,
    bare,
    close_all,
    compile_c,
    expected_scores,
    load,
    make_network,
    picture,
    run,
    stand_in,
)

SEGMENTS = ("edgetpu_segment_0_of_2", "edgetpu_segment_1_of_2")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No network of a test outlives it."""
    yield
    close_all()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in notes what it did."""
    path = tmp_path / "stand-in.log"
    monkeypatch.setenv("STAND_IN_LOG", str(path))
    return path


def noted(log: Path) -> Counter[str]:
    return Counter(log.read_text().splitlines())


def box(tmp_path: Path, usb: int = 0, pci: int = 0, other: bool = True) -> Path:
    """The parts of a root file system that show which devices there are."""
    ids = [("1a6e", "089a"), ("18d1", "9302")] * usb
    for number, (vendor, product) in enumerate([*ids[:usb], *([("046d", "0825")] if other else [])]):
        device = tmp_path / "sys/bus/usb/devices" / f"1-{number}"
        device.mkdir(parents=True)
        (device / "idVendor").write_text(vendor + "\n")
        (device / "idProduct").write_text(product + "\n")
    (tmp_path / "sys/bus/usb/devices/1-0:1.0").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    for number in range(pci):
        (tmp_path / "dev" / f"apex_{number}").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("usb", "pci", "expected"),
    [(0, 0, []), (1, 0, ["usb:0"]), (2, 1, ["usb:0", "usb:1", "pci:0"]), (0, 2, ["pci:0", "pci:1"])],
)
def test_edge_tpus_are_found_before_and_after_they_have_their_firmware(
    tmp_path: Path, usb: int, pci: int, expected: list[str]
) -> None:
    assert edge_tpus(box(tmp_path, usb, pci)) == expected


def test_a_box_without_usb_and_dev_has_none(tmp_path: Path) -> None:
    assert edge_tpus(tmp_path) == []


def config(**tflite: Any) -> DetectConfig:
    return DetectConfig.model_validate({"tflite": tflite})


def test_what_runs_a_model(tmp_path: Path) -> None:
    root = box(tmp_path, usb=2)
    none = config().tflite
    assert choose(none, False, root) is None
    both = choose(none, True, root)
    assert both is not None and both.library == "libedgetpu.so.1"
    assert [dict(o) for o in both.options] == [{"device": "usb:0"}, {"device": "usb:1"}]
    some = choose(config(devices=["pci", ":3"], delegate_options={"Performance": "Max"}).tflite, True, root)
    assert some is not None and some.name == "edgetpu pci, :3"
    assert [dict(o) for o in some.options] == [{"Performance": "Max", "device": d} for d in ("pci", ":3")]
    npu = choose(config(delegate="libvx_delegate.so", delegate_options={"cache": "on"}).tflite, False, root)
    assert npu is not None and npu.name == "libvx_delegate.so" and [dict(o) for o in npu.options] == [{"cache": "on"}]
    own = choose(config(delegate="libedgetpu.so.1", delegate_options={"device": "usb:1"}).tflite, True, root)
    assert own is not None and [dict(o) for o in own.options] == [{"device": "usb:1"}]


def test_no_edge_tpu_says_what_to_look_for(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=r"no Edge TPU found: plug one in \(`lsusb` shows 1a6e:089a"):
        choose(config().tflite, True, box(tmp_path))
    assert "no Edge TPU found" in accelerator(config(), tmp_path)


def test_availability_in_a_sentence(tmp_path: Path) -> None:
    assert available(config()) == ""
    assert "libabsent.so cannot be loaded" in available(config(delegate="libabsent.so"))
    assert accelerator(config(delegate=stand_in(), devices=["usb"]), tmp_path) == ""
    assert accelerator(config(delegate=stand_in("libvx_delegate.so")), tmp_path) == ""
    assert "no Edge TPU found" in accelerator(config(delegate=stand_in()), box(tmp_path))


@pytest.mark.parametrize("name", ["edgetpu", "edgetpu_per_channel"])
def test_a_compiled_network_gives_what_the_cpu_gives(log: Path, name: str) -> None:
    image = picture(3)
    on_cpu = run(bare("int8"), image)
    on_chip = run(bare(name, on="edgetpu"), image, delegate=stand_in(), devices=["usb"])
    assert [output.shape for output in on_chip] == [output.shape for output in on_cpu]
    np.testing.assert_allclose(on_chip[0], on_cpu[0], atol=0.5)
    # The CPU's own path through two quantised convolutions is the coarser one of the two.
    np.testing.assert_allclose(on_chip[1], expected_scores(image), atol=0.05)
    np.testing.assert_allclose(on_chip[1], on_cpu[1], atol=0.06)
    assert noted(log) == {"open usb": 1, "invoke usb": 1, "close usb": 1}


def test_one_interpreter_for_each_edge_tpu(log: Path) -> None:
    network = bare("edgetpu")
    backend = load(network, delegate=stand_in(), devices=["usb:0", "usb:1"])
    assert (backend.concurrency, backend.device) == (2, "edgetpu usb:0, usb:1")
    tensor, _ = Preprocessor(network.input, backend.input)(picture())
    runners = [backend.runner() for _ in range(3)]
    answers = [runner(tensor)[1].copy() for runner in runners]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    assert noted(log) == {"open usb:0": 1, "open usb:1": 1, "invoke usb:0": 2, "invoke usb:1": 1}
    backend.close()
    assert noted(log)["close usb:0"] == noted(log)["close usb:1"] == 1
    with pytest.raises(InferenceError, match="closed"):
        runners[0](tensor)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(["usb:0"], 1), (["usb:0", "usb:1"], 2), ([":0", ":1", ":2"], 2), ([":0", ":1", ":2", ":3"], 4)],
)
def test_segments_lie_on_edge_tpus_of_their_own(log: Path, devices: list[str], expected: int) -> None:
    image = picture(8)
    network = bare(*SEGMENTS)
    backend = load(network, delegate=stand_in(), devices=devices)
    assert backend.concurrency == expected
    tensor, _ = Preprocessor(network.input, backend.input)(image)
    # As many runners as there are whole chains: each device had its segment once.
    for _ in range(max(1, len(devices) // 2)):
        np.testing.assert_allclose(backend.runner()(tensor)[1], expected_scores(image), atol=0.05)
    backend.close()
    per_device = 2 if len(devices) == 1 else 1
    used = devices[:expected]  # a third one would have to run half of two pictures
    assert noted(log) == {f"{what} {d}": per_device for d in used for what in ("open", "invoke", "close")}


def test_pictures_do_not_mix_in_the_pipeline(log: Path) -> None:
    network = bare(*SEGMENTS)
    backend = load(network, delegate=stand_in(), devices=["usb:0", "usb:1"])
    images = [picture(n, light=(n, n + 20)) for n in range(3)]
    right: list[int] = []

    def work(number: int) -> None:
        runner = backend.runner()
        tensor, _ = Preprocessor(network.input, backend.input)(images[number])
        wanted = expected_scores(images[number])
        right.append(sum(np.allclose(runner(tensor)[1], wanted, atol=0.05) for _ in range(100)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    backend.close()
    assert right == [100, 100, 100]
    assert noted(log)["invoke usb:0"] == noted(log)["invoke usb:1"] == 300


def test_options_reach_the_delegate_and_its_refusal_reaches_the_user(log: Path) -> None:
    with pytest.raises(HardwareError, match=r"no such device \(options: device=usb:7\); is it plugged in") as caught:
        load(bare("edgetpu"), delegate=stand_in(), devices=["usb:7"])
    assert "group plugdev" in str(caught.value)
    npu = stand_in("libvx_delegate.so")
    with pytest.raises(HardwareError, match=r"refused to start: the NPU is busy \(options: refuse=the NPU is busy\)"):
        load(bare("int8"), delegate=npu, delegate_options={"refuse": "the NPU is busy"})
    assert not log.exists()


def test_a_delegate_that_takes_nothing_is_not_shown_as_if_it_worked(log: Path) -> None:
    network = make_network("float", outputs=("output0",))
    backend = load(network, delegate=stand_in("libvx_delegate.so"))
    assert backend.device == "cpu (delegate libvx_delegate.so took no operation)"
    assert backend.concurrency == 1
    tensor, _ = Preprocessor(network.input, backend.input)(picture())
    np.testing.assert_allclose(backend.runner()(tensor)[0][:, 4:], expected_scores(picture()), atol=1e-5)
    backend.close()
    assert noted(log) == {"open -": 1, "close -": 1}


def test_a_compiled_network_without_a_delegate_says_what_to_do() -> None:
    with pytest.raises(
        HardwareError, match=r"edgetpu.tflite was compiled for the Edge TPU, and no delegate is configured: plug"
    ):
        load(bare("edgetpu"))


def test_a_library_that_fits_no_compiled_network(log: Path) -> None:
    options = {"break": "prepare"}
    with pytest.raises(
        HardwareError, match=r"cannot run it: .*runtime version \(12\).*; install the libedgetpu that fits"
    ):
        load(bare("edgetpu"), delegate=stand_in(), devices=["usb"], delegate_options=options)
    assert noted(log) == {"open usb": 1, "close usb": 1}


def test_an_error_that_is_kept_keeps_no_device(log: Path) -> None:
    # The first segment fits, the second is of another network.
    with pytest.raises(ModelError) as kept:
        load(bare("edgetpu_segment_0_of_2", "int8_segment_2_of_3"), delegate=stand_in(), devices=["usb:0", "usb:1"])
    gc.collect()
    assert noted(log) == {f"{what} usb:{n}": 1 for what in ("open", "close") for n in (0, 1)}
    assert "segment" in str(kept.value)


def test_a_device_that_fails_on_a_picture(log: Path) -> None:
    network = bare("edgetpu")
    backend = load(network, delegate=stand_in(), devices=["usb"], delegate_options={"break": "invoke"})
    runner = backend.runner()
    tensor, _ = Preprocessor(network.input, backend.input)(picture())
    for _ in range(2):
        with pytest.raises(InferenceError, match="the device was unplugged"):
            runner(tensor)


def test_a_device_that_hangs_does_not_hold_up_the_end(
    log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tflite_stages, "CLOSE_S", 0.1)
    network = bare("edgetpu")
    backend = load(network, delegate=stand_in(), devices=["usb"], delegate_options={"break": "hang"})
    tensor, _ = Preprocessor(network.input, backend.input)(picture())
    runner = backend.runner()
    threading.Thread(target=lambda: runner(tensor), daemon=True).start()
    wait_until(lambda: noted(log)["invoke usb"] > 0, 20, "the first inference")
    backend.close()
    assert "its device is not released" in caplog.text


@pytest.mark.parametrize(
    ("library", "message"),
    [
        ("libabsent_delegate.so", r"cannot be loaded \(.*No such file.*\): is detect.tflite.delegate right\?"),
        ("/nowhere/libedgetpu.so.1", r"cannot be loaded .*: install it: apt install libedgetpu1-std"),
        ("libm.so.6", "is no TensorFlow Lite delegate, it lacks tflite_plugin_create_delegate"),
    ],
)
def test_libraries_that_are_none(library: str, message: str) -> None:
    with pytest.raises(HardwareError, match=message):
        load(bare("int8"), delegate=library, devices=["usb"])


def test_a_file_that_is_no_library_and_one_that_lacks_half(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("hello")
    with pytest.raises(HardwareError, match=r"text\.so cannot be loaded"):
        load(bare("int8"), delegate=str(tmp_path / "text.so"))
    compile_c("half.c", tmp_path / "half.so")
    with pytest.raises(HardwareError, match="lacks tflite_plugin_destroy_delegate"):
        load(bare("int8"), delegate=str(tmp_path / "half.so"))


def model_for_both() -> Model:
    """With a file for the Edge TPU and one for the CPU."""
    cpu, chip = make_network("int8", dtype="int8"), bare("edgetpu", on="edgetpu")
    own = chip.file.model_copy(update={"input": InputOverride(name=BARE), "outputs": BARE_OUTPUTS})
    return Model(cpu.manifest.model_copy(update={"files": (own, *cpu.manifest.files)}), cpu.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name", "why"),
    [
        ({}, "tflite on an Edge TPU or delegate", ""),
        ({"refuse": "in use by another process"}, "tflite on the CPU", "in use by another process"),
        ({"break": "crash"}, "tflite on the CPU", "SIGSEGV"),
    ],
)
def test_the_agent_takes_the_edge_tpu_or_says_why_not_and_survives(
    tmp_path: Path, log: Path, options: dict[str, str], name: str, why: str
) -> None:
    detect = config(delegate=stand_in(), devices=["usb:0"], delegate_options=options)
    loader = DetectorLoader(model_for_both(), detect, tmp_path, stop=threading.Event())
    detector = loader.load()
    assert loader.loaded.name == name
    assert why in loader.loaded.not_taken.get("tflite on an Edge TPU or delegate", "")
    found = detector.detect(Frame("door", 0, 0.0, 0.0, picture(light=(9, 29))))
    detector.close()
    confident = found.select(found.scores > 0.5)
    # Boxes of the CPU's file and the chip's have the same 8 bits.
    assert sorted(np.rint(confident.boxes / 4).astype(int).tolist()) == [[2, 2, 4, 4], [10, 6, 12, 8]]
    if not options:  # once to try it in a child process, once to stay
        assert noted(log)["open usb:0"] == noted(log)["close usb:0"] == 2


CHILD = """
import ctypes, sys
from pathlib import Path
from edge_agent.detect.backends import tflite_delegates
from tests.tflite_fixtures import bare, load, picture, stand_in
ctypes.CDLL(stand_in(soname="libedgetpu.so.1"))  # from now on the loader knows libedgetpu.so.1
tflite_delegates.edge_tpus = lambda root: ["usb:0"]
network = bare("edgetpu", on="edgetpu")
backend = load(network)
print(backend.device, tflite_delegates.import_runtime(True).make_interpreter)
import numpy as np
print(backend.runner()(np.zeros((1, 48, 64, 3), np.int8))[1].shape)
"""
GOOGLES = """
try:
    from ai_edge_litert.interpreter import Interpreter, load_delegate
except ImportError:
    from tflite_runtime.interpreter import Interpreter, load_delegate
def make_interpreter(model_path_or_content, device=None):
    print("pycoral makes one for", device)
    return Interpreter(
        model_path=model_path_or_content,
        experimental_delegates=[load_delegate("libedgetpu.so.1", {"device": device} if device else {})],
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", ["none", "google", "stranger", "broken"])
def test_pycoral_is_used_where_it_is_googles(tmp_path: Path, package: str) -> None:
    """Its ``make_interpreter`` has the signature of google-coral/pycoral, ``pycoral/utils/edgetpu.py``."""
    folder = tmp_path / "pycoral"
    if package != "none":
        (folder / "utils").mkdir(parents=True)
        (folder / "__init__.py").write_text('raise SystemExit("imported")' if package == "stranger" else "")
    if package in ("google", "broken"):
        (folder / "utils" / "__init__.py").touch()
        (folder / "utils" / "edgetpu.py").write_text(GOOGLES if package == "google" else "import _pywrap_coral")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CHILD}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "edgetpu usb:0" in done.stdout and "(1, 1, 48)" in done.stdout
    assert ("pycoral makes one for usb:0" in done.stdout) == (package == "google")
    assert ("None" in done.stdout) == (package != "google")


def test_every_refusal_is_one_of_ours() -> None:
    for delegate in ("libm.so.6", "libabsent.so"):
        with pytest.raises(EdgeAgentError) as caught:
            load(bare("int8"), delegate=delegate)
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
