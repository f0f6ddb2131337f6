"""Damaged bytes in any place: the parsers of `model import` answer with a ModelError or with facts, never with anything else."""

from __future__ import annotations

import contextlib
import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_agent.errors import ModelError
from edge_agent.model_tools.evidence import Output
from edge_agent.model_tools.families import matches
from edge_agent.model_tools.hints import literal, read_hints
from edge_agent.model_tools.intake import take
from edge_agent.model_tools.onnx_file import read_onnx
from edge_agent.model_tools.openvino_file import check_xml
from edge_agent.model_tools.tflite_file import _texts
from tests import model_networks as networks
from tests import onnx_writer as onnx

ONNX = onnx.model(
    onnx.graph(
        [onnx.node("If", ["c"], ["y"], then_branch=onnx.graph([], [], [], [onnx.external("w", [3], "w.bin")]))],
        [onnx.value_info("images", 1, [1, 3, "h", 64])],
        [onnx.value_info("y", 1, [1])],
        [onnx.external("v", [2], "v.bin")],
    ),
    networks.yolov8_metadata(),
)
XML = b'<?xml version="1.0"?><net name="x" version="11"><layers><layer id="0"/></layers><edges/></net>'


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/model.onnx", ONNX)
        archive.writestr("a/v.bin", b"12345678")
        archive.writestr("a/labels.txt", "cat\ndog\n" * 9)
    return buffer.getvalue()


ZIP = zipped()
damage = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6)


def damaged(content: bytes, where: list[tuple[float, int]], keep: float) -> bytes:
    out = bytearray(content[: int(len(content) * keep) + 1])
    for place, value in where:
        out[int(place * (len(out) - 1))] = value
    return bytes(out)


@settings(max_examples=300)
@example([(0.078125, 128)], 1.0)  # the name of an operation that is no UTF-8
@given(damage, st.floats(0.5, 1))
def test_onnx(where: list[tuple[float, int]], keep: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.onnx"
        path.write_bytes(damaged(ONNX, where, keep))
        with contextlib.suppress(ModelError, ValueError):  # a name that is no text is a ValueError of Facts
            read_hints(read_onnx(path).metadata)


@settings(max_examples=300)
@given(damage, st.floats(0.5, 1))
def test_xml(where: list[tuple[float, int]], keep: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.xml"
        path.write_bytes(damaged(XML, where, keep))
        with contextlib.suppress(ModelError):
            check_xml(path)


@settings(max_examples=300)
@example([(0.99609375, 1)], 1.0)  # an entry that begins before the file
@given(damage, st.floats(0.5, 1))
def test_zip(where: list[tuple[float, int]], keep: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "x.zip", Path(folder) / "to"
        source.write_bytes(damaged(ZIP, where, keep))
        target.mkdir()
        with contextlib.suppress(ModelError):
            take(source, target)
        assert {p.name for p in Path(folder).iterdir()} == {"x.zip", "to"}
        _texts(source)  # such an archive may be appended to a TFLite file


LENGTHS = st.sampled_from([0, 1, 1, 2, 4, 4, 5, 6, 7, 10, 126, 378])  # 126: the cells of a grid over 96x64
SHAPES = st.lists(st.sampled_from([0, 1, 1, 2, 4, 4, 6]), max_size=4).map(tuple) | st.tuples(
    st.just(1), LENGTHS, LENGTHS
)
NAMES = st.sampled_from(["boxes", "labels", "scores", "o"])
NUMBERS = st.sampled_from([None, 0.0, 1, 1e30])


@settings(max_examples=300)
@given(st.lists(st.tuples(NAMES, SHAPES), min_size=1, max_size=4), NUMBERS, st.sampled_from([None, "yolov8", "fcos"]))
def test_outputs_of_any_shape(
    shapes: list[tuple[str, tuple[int, ...]]], number: float | None, family: str | None
) -> None:
    outputs = [Output(name, shape, None if number is None else np.full(shape, number)) for name, shape in shapes]
    for match in matches(outputs, (96, 64), family):
        assert match.because and match.decode.keys() <= match.reasons.keys()


@settings(max_examples=300)
@given(st.text(st.sampled_from("{}[]()0123456789'\"\\:,-+.*eEjxNone "), max_size=200))
def test_literals(text: str) -> None:
    literal(text)
    hints = read_hints({"names": text, "imgsz": text, "task": text})
    assert all(label.isprintable() for label in hints.labels)
