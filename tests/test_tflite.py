"""TensorFlow Lite on the CPU, with real files of every kind of input and output."""

from __future__ import annotations

import gc
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.tflite import dequantise
from edge_agent.detect.backends.tflite_stages import TensorInfo
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.preprocess import Preprocessor
from edge_agent.errors import InferenceError, ModelError
from edge_agent.types import Frame
from tests.tflite_fixtures import (
    BARE,
    BARE_OUTPUTS,
    NETWORKS,
    SEGMENTS,
    SPLIT,
    bare,
    close_all,
    expected_scores,
    load,
    make_network,
    picture,
    run,
)

ONE = ("output0",)
SSD = tuple("TFLite_Detection_PostProcess" + end for end in ("", ":1", ":2", ":3"))
STEP = 1 / 256 + 1e-6
"""The scores' quantisation."""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No network of a test outlives it."""
    yield
    close_all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "change", "tolerance"),
    [
        ("float", {"outputs": ONE}, 2e-6),
        ("float_nchw", {"outputs": ONE, "layout": "NCHW"}, 2e-6),
        ("open_size", {"outputs": ("scores",)}, 2e-6),
        ("int8_float_io", {}, 0.06),
        ("int8", {"dtype": "int8"}, 0.06),
        ("uint8", {"dtype": "uint8"}, 0.06),
    ],
)
def test_every_kind_of_file_gives_the_same_scores(
    name: str, change: dict[str, Any], tolerance: float, seed: int
) -> None:
    image = picture(seed, light=(seed, 9 + seed, 47 - seed))
    outputs = run(make_network(name, **change), image)
    np.testing.assert_allclose(outputs[-1][:, -1:], expected_scores(image), atol=tolerance)
    assert all(output.dtype == np.float32 for output in outputs)
    if name != "open_size":
        y, x = np.divmod(np.arange(48), 8)
        boxes = outputs[0][0, :4]
        step = 0 if name.startswith("float") else 60 / 255
        np.testing.assert_allclose(boxes, [x * 8 + 4, y * 8 + 4, np.full(48, 8), np.full(48, 8)], atol=step / 2 + 1e-5)


def test_int8_and_uint8_are_the_same_network_shifted() -> None:
    image = picture(4)
    signed, unsigned = run(make_network("int8", dtype="int8"), image), run(make_network("uint8", dtype="uint8"), image)
    for a, b in zip(signed, unsigned, strict=True):
        np.testing.assert_array_equal(a, b)


def test_outputs_come_in_the_order_of_the_manifest_by_signature_or_tensor_name() -> None:
    image = picture()
    boxes, scores = run(make_network("int8", dtype="int8"), image)
    swapped = run(make_network("int8", dtype="int8", outputs=SPLIT[::-1]), image)
    by_tensor = run(make_network("int8", dtype="int8", outputs=BARE_OUTPUTS, name=BARE), image)
    np.testing.assert_array_equal(swapped[0], scores)
    np.testing.assert_array_equal(swapped[1], boxes)
    np.testing.assert_array_equal(by_tensor[0], boxes)


def test_detection_postprocess_gives_boxes_classes_scores_count() -> None:
    network = make_network("ssd", outputs=SSD, name=BARE, family="ssd")
    boxes, classes, scores, count = run(network, picture(light=(9, 29)))
    assert count.tolist() == [2] and classes[0, :2].tolist() == [0, 0]
    assert scores[0, :2] == pytest.approx(np.sort(expected_scores(picture(light=(9, 29))).ravel())[:-3:-1], abs=1e-5)
    found = {tuple(np.rint(box * [48, 64, 48, 64]).astype(int)) for box in boxes[0, :2]}
    assert found == {(8, 8, 16, 16), (24, 40, 32, 48)}


def test_segments_are_chained_bit_by_bit() -> None:
    image = picture(7)
    for whole, part in zip(run(bare("int8"), image), run(bare(*SEGMENTS), image), strict=True):
        np.testing.assert_array_equal(whole, part)


def test_segments_in_the_wrong_order_or_of_another_network_are_refused() -> None:
    with pytest.raises(ModelError, match=r"cells@1: no segment before number 2 gives .* complete and in order\?"):
        load(bare(SEGMENTS[0], SEGMENTS[2]))
    with pytest.raises(ModelError, match=r"outputs .*, the manifest names"):
        load(bare(*SEGMENTS[:2]))
    with pytest.raises(ModelError, match=r"segment 2 takes .* as uint8 .* are they of one compilation"):
        load(bare(SEGMENTS[0], "uint8"))


def test_a_detector_from_the_frame_to_boxes_in_its_pixels() -> None:
    network = make_network("float", outputs=ONE)
    detector = ModelDetector("tflite", LoadRequest(network, DetectConfig(), Path()))
    frame = Frame("door", 0, 0.0, 0.0, np.kron(picture(light=(9, 29)), np.ones((3, 3, 1), np.uint8)))
    found = detector.detect(frame)
    detector.close()
    confident = found.select(found.scores > 0.5)
    # The last bit of a resize at a cell's edge does not move a box: they are the cells, three times as large.
    assert sorted(np.rint(confident.boxes).tolist()) == [[24, 24, 48, 48], [120, 72, 144, 96]]


def test_threads_run_at_the_same_time_and_do_not_mix() -> None:
    network = make_network("int8", dtype="int8")
    backend = load(network)
    images = [picture(n, light=(n, n + 20)) for n in range(3)]
    expected = [run(network, image)[1] for image in images]
    right: list[int] = []

    def work(number: int) -> None:
        runner, preprocess = backend.runner(), Preprocessor(network.input, backend.input)
        tensor, _ = preprocess(images[number])
        right.append(sum(np.array_equal(runner(tensor)[1], expected[number]) for _ in range(200)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert right == [200, 200, 200]


def test_output_buffers_are_used_again() -> None:
    network = make_network("int8", dtype="int8")
    backend = load(network)
    tensor, _ = Preprocessor(network.input, backend.input)(picture())
    runner = backend.runner()
    first = [id(output) for output in runner(tensor)]
    assert [id(output) for output in runner(tensor)] == first
    assert backend.device == "cpu"


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (64, 64)])
def test_the_cores_are_shared_out(threads: int, expected: int) -> None:
    import os

    cores = len(os.sched_getaffinity(0))
    assert load(make_network("float", outputs=ONE), threads=threads).concurrency == max(1, cores // expected)


def test_a_closed_network_says_so() -> None:
    network = make_network("float", outputs=ONE)
    backend = load(network)
    tensor, _ = Preprocessor(network.input, backend.input)(picture())
    runner = backend.runner()
    runner(tensor)
    backend.close()
    with pytest.raises(InferenceError, match="closed"):
        runner(tensor)


def test_a_tensor_that_is_not_what_the_network_takes_is_no_picture() -> None:
    runner = load(make_network("int8", dtype="int8")).runner()
    with pytest.raises(InferenceError, match=r"input is float32 \(1, 48, 64, 3\), not int8"):
        runner(np.zeros((1, 48, 64, 3), np.float32))
    with pytest.raises(InferenceError, match=r"not int8 \(1, 48, 64, 3\)"):
        runner(np.zeros((1, 1, 1, 3), np.int8))
    assert len(runner(np.zeros((1, 48, 64, 3), np.int8))) == 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("float", {"layout": "NCHW"}, r"\[1, 48, 64, 3\], the manifest says float32 \[1, 3, 48, 64\] \(NCHW\)"),
        ("float_nchw", {}, r"\[1, 3, 48, 64\], the manifest says float32 \[1, 48, 64, 3\] \(NHWC\)"),
        ("float", {"size": (48, 64)}, r"\[1, 48, 64, 3\], the manifest says float32 \[1, 64, 48, 3\]"),
        ("int8", {}, r"is int8 \[1, 48, 64, 3\], the manifest says float32"),
        ("float", {"name": "image"}, "has inputs .*images.* the manifest names 'image'"),
        ("float", {"outputs": ("boxes",)}, r"outputs \['output0'\], the manifest names \['boxes'\]"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_with_both_sides(
    name: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load(make_network(name, **({"outputs": ONE if name.startswith("float") else SPLIT} | change)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot load it"),
        (b"not a model at all, though long enough to look at", "cannot load it"),
        (b"half", "cannot load it"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    whole = (NETWORKS / "float.tflite").read_bytes()
    (tmp_path / "bad.tflite").write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    with pytest.raises(ModelError, match=message):
        load(make_network("bad", folder=tmp_path, outputs=ONE))


def test_a_file_that_was_replaced_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes((NETWORKS / "float.tflite").read_bytes())
    network = make_network("a", folder=tmp_path, outputs=ONE)
    backend = load(network)
    # After loading it may be: later runners read what was verified.
    (tmp_path / "a.tflite").unlink()
    (tmp_path / "a.tflite").write_bytes((NETWORKS / "float_nchw.tflite").read_bytes())
    assert len([backend.runner() for _ in range(2)]) == 2
    with pytest.raises(ModelError, match="SHA-256"):
        load(network)


def test_nothing_stays_open_after_a_failure_or_a_close() -> None:
    fds = Path("/proc/self/fd")
    load(make_network("float", outputs=ONE)).close()
    close_all()
    gc.collect()
    before = len(list(fds.iterdir()))
    for _ in range(3):
        with pytest.raises(ModelError):
            load(make_network("float", outputs=ONE, layout="NCHW"))
        load(make_network("float", outputs=ONE)).close()
    close_all()
    gc.collect()
    assert len(list(fds.iterdir())) == before


def test_dequantisation_for_each_channel_and_for_plain_integers() -> None:
    values = np.array([[[-128, 0, 127]], [[1, 2, 3]]], np.int8).reshape(1, 2, 3)
    scale, zero = np.array([0.5, 2.0], np.float32).reshape(1, 2, 1), np.array([-128, 1], np.float32).reshape(1, 2, 1)
    info = TensorInfo(0, ("x",), (1, 2, 3), values.dtype, scale, zero)
    assert dequantise(values, info, np.empty((1, 2, 3), np.float32)).tolist() == [[[0, 64, 127.5], [0, 2, 4]]]
    count = TensorInfo(0, ("x",), (1,), np.dtype(np.int64), None, np.zeros(1, np.float32))
    kept = np.empty(1, np.float32)
    assert dequantise(np.array([7], np.int64), count, kept) is kept and kept.tolist() == [7]
    assert dequantise(np.array([7, 8], np.int64), count, kept).tolist() == [7, 8]


def test_the_committed_networks_stay_small() -> None:
    files = list(NETWORKS.glob("*.tflite"))
    assert sum(file.stat().st_size for file in files) < 100_000
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == len(files)
