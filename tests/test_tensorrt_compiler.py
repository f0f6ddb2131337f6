"""Building engines with TensorRT for RTX: the interface of TensorRT 11, and its parser and builder run without a GPU.

It shows that files are read, refused and built; its engines are not TensorRT's, and none runs here.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.detect.backends.tensorrt.compiler import Compiler, Recipe
from edge_agent.detect.backends.tensorrt.half import HalfNetwork, HalfRefused
from edge_agent.detect.backends.tensorrt.vendor import logger_of, sizes
from edge_agent.detect.manifest import find_model, load_model
from edge_agent.errors import ModelError

MODULE = "tensorrt_rtx"
NETWORKS = Path(__file__).parent / "onnx_networks"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec(MODULE) is None, reason=f"{MODULE} is not installed (tensorrt_rtx_cu12)"
    ),
]


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip(MODULE)


@pytest.fixture
def said() -> list[tuple[str, float | None]]:
    return []


@pytest.fixture
def compiler(said: list[tuple[str, float | None]]) -> Compiler:
    return Compiler(MODULE, lambda doing, done=None: said.append((doing, done)))


def recipe(name: str = "float", **change: Any) -> Recipe:
    dtype = name if name in ("float16", "int8", "uint8") else "float32"
    return replace(Recipe(f"{name}.onnx", "image", dtype, (3, 24, 32), ("grid", "mean"), "fp32"), **change)


def onnx(name: str) -> bytes:
    return (NETWORKS / f"{name}.onnx").read_bytes()


def parsed(trt: Any, data: bytes) -> tuple[Any, Any, Any]:
    builder = trt.Builder(logger_of(MODULE)[0])
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger_of(MODULE)[0])
    assert parser.parse(data)
    return builder, network, parser


@pytest.mark.parametrize("name", ["float", "dynamic", "float16", "int8", "quantised"])
def test_builds(compiler: Compiler, name: str, said: list[tuple[str, float | None]]) -> None:
    built = compiler.compile(onnx(name), recipe(name))
    assert len(built.plan) > 1000 and built.precision == "fp32"
    assert said[0][0] == "reading the ONNX file"


@pytest.mark.parametrize("name", ["nhwc", "uint8"])
def test_builds_with_channels_last(compiler: Compiler, name: str) -> None:
    assert len(compiler.compile(onnx(name), recipe(name, shape=(24, 32, 3))).plan) > 1000


def test_external_data_is_found_beside_the_file(compiler: Compiler) -> None:
    path = NETWORKS / "external.onnx"
    assert len(compiler.compile(path.read_bytes(), recipe("external", external=str(path))).plan) > 1000


def test_external_data_is_not_looked_for_unless_the_manifest_names_it(compiler: Compiler) -> None:
    with pytest.raises(ModelError, match=r"external\.onnx"):
        compiler.compile(onnx("external"), recipe("external"))


def test_a_batch_that_is_open_gets_a_profile(compiler: Compiler) -> None:
    one, many = (compiler.compile(onnx("dynamic"), recipe("dynamic", max_batch=n)) for n in (1, 8))
    assert bytes(one.plan) != bytes(many.plan)


def test_a_fixed_batch_stays_one_and_says_so(compiler: Compiler, caplog: pytest.LogCaptureFixture) -> None:
    compiler.compile(onnx("float"), recipe(max_batch=8))
    assert "fixed batch of 1" in caplog.text


def test_the_bundled_model_in_half_precision_is_nearly_half_as_large(
    compiler: Compiler, root: Path, said: list[tuple[str, float | None]]
) -> None:
    network = find_model("person-s", root / "models").network("tensorrt")  # what such a box is given
    model = network.path.read_bytes()
    wanted = Recipe(network.label, network.input.name, "float32", (3, 416, 416), network.outputs, "fp32")
    full = compiler.compile(model, wanted)
    said.clear()
    half = compiler.compile(model, replace(wanted, precision="fp16"))
    assert half.precision == "fp16" and len(half.plan) < 0.7 * len(full.plan)
    fractions = [done for doing, done in said if done is not None]
    assert fractions and all(0 < done <= 1 for done in fractions)


def test_half_precision_ends_after_the_last_convolution(trt: Any) -> None:
    _, network, _parser = parsed(trt, onnx("float"))
    before = {network.get_output(i).name: sizes(network.get_output(i).shape) for i in range(network.num_outputs)}
    half = HalfNetwork(MODULE, network)
    assert half.convert() > 0
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    kinds = {layer.type: layer.get_output(0).dtype for layer in layers}
    assert kinds[trt.LayerType.CONVOLUTION] == trt.DataType.HALF
    assert kinds[trt.LayerType.REDUCE] == trt.DataType.FLOAT
    assert [w.dtype for w in half.weights] == [np.float16] * 2
    assert network.get_input(0).dtype == trt.DataType.FLOAT
    after = {network.get_output(i).name: network.get_output(i) for i in range(network.num_outputs)}
    assert {name: sizes(tensor.shape) for name, tensor in after.items()} == before
    assert all(tensor.dtype == trt.DataType.FLOAT for tensor in after.values())


@pytest.mark.parametrize("family", ["yolox_raw", "yolonas", "rtdetr"])
def test_networks_of_real_families_are_built_in_half_precision(compiler: Compiler, root: Path, family: str) -> None:
    network = load_model(root / "tests" / "decoder_networks" / family / "1").network("tensorrt")
    width, height = network.input.size
    wanted = Recipe(family, network.input.name, "float32", (3, height, width), network.outputs, "fp16")
    assert compiler.compile(network.path.read_bytes(), wanted).precision == "fp16"


def test_what_overflows_stays_in_single_precision(trt: Any, root: Path) -> None:
    _, network, _parser = parsed(trt, (root / "tests/decoder_networks/rtdetr/1/model.onnx").read_bytes())
    HalfNetwork(MODULE, network).convert()
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    outputs = {
        kind: {n.get_output(0).dtype for n in layers if n.type == getattr(trt.LayerType, kind)} for kind in KINDS
    }
    assert outputs["SOFTMAX"] == {trt.DataType.FLOAT}
    assert trt.DataType.FLOAT not in outputs["CONVOLUTION"] | outputs["MATRIX_MULTIPLY"]
    assert not outputs["REDUCE"] - {trt.DataType.FLOAT, trt.DataType.INT32, trt.DataType.INT64}


KINDS = ("SOFTMAX", "CONVOLUTION", "MATRIX_MULTIPLY", "REDUCE")


def test_an_output_that_is_a_convolution_keeps_its_name_and_type(trt: Any) -> None:
    builder = trt.Builder(logger_of(MODULE)[0])
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    image = network.add_input("image", trt.DataType.FLOAT, (1, 3, 8, 8))
    weights = np.ones((4, 3, 1, 1), np.float32)
    layer = network.add_convolution_nd(image, 4, (1, 1), weights)
    layer.get_output(0).name = "raw"
    network.mark_output(layer.get_output(0))
    half = HalfNetwork(MODULE, network)
    assert half.convert() == 1
    assert network.num_outputs == 1
    assert (network.get_output(0).name, network.get_output(0).dtype) == ("raw", trt.DataType.FLOAT)
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None


def test_weights_too_large_for_half_precision_stay(trt: Any, compiler: Compiler) -> None:
    builder = trt.Builder(logger_of(MODULE)[0])
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    image = network.add_input("image", trt.DataType.FLOAT, (1, 1, 8, 8))
    layer = network.add_convolution_nd(image, 1, (1, 1), np.full((1, 1, 1, 1), 1e6, np.float32))
    network.mark_output(layer.get_output(0))
    with pytest.raises(ModelError, match="too large for half precision"):
        HalfNetwork(MODULE, network).convert()


def test_where_half_precision_does_not_work_it_is_built_as_it_is(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: HalfNetwork) -> int:
        raise HalfRefused("not this one")

    monkeypatch.setattr(HalfNetwork, "convert", refuse)
    assert compiler.compile(onnx("float"), recipe(precision="fp16")).precision == "fp32"
    assert "not this one" in caplog.text


def test_a_quantised_network_is_int8_and_stays_as_it_is_otherwise(compiler: Compiler) -> None:
    assert compiler.compile(onnx("quantised"), recipe("quantised", precision="int8")).precision == "int8"
    assert compiler.compile(onnx("quantised"), recipe("quantised", precision="fp16")).precision == "fp16"


def test_int8_without_quantisation_says_what_to_do(compiler: Compiler) -> None:
    with pytest.raises(ModelError, match=r"int8 with TensorRT .*\(QuantizeLinear"):
        compiler.compile(onnx("float"), recipe(precision="int8"))


def test_a_half_network_that_is_not_built_is_built_as_it_is(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    convert = HalfNetwork.convert

    def spoil(half: HalfNetwork) -> int:
        count = convert(half)
        layer = next(n for n in half._layers if "CONVOLUTION" in str(n.type))
        layer.set_input(0, half._network.get_input(0))  # float32 into a convolution with half weights
        return count

    monkeypatch.setattr(HalfNetwork, "convert", spoil)
    assert compiler.compile(onnx("float"), recipe(precision="fp16")).precision == "fp32"
    assert "cannot build it" in caplog.text


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", r"inputs \[\] and outputs \[\]"),
        (b"not a protobuf at all", "cannot read it"),
        (onnx("float")[:400], "cannot read it"),
    ],
    ids=["empty", "foreign", "truncated"],
)
def test_a_damaged_file_is_refused(compiler: Compiler, data: bytes, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        compiler.compile(data, recipe())


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("two_inputs", {}, r"inputs \['image', .*the manifest names 'image'"),
        ("float", {"input": "images"}, r"inputs \['image'\].*'images'"),
        ("float", {"outputs": ("grid", "boxes")}, r"outputs \['grid', 'mean'\]"),
        ("float", {"dtype": "uint8"}, "is float32, the manifest says uint8"),
        ("float", {"shape": (3, 32, 32)}, r"is \[1, 3, 24, 32\], the manifest says \[1, 3, 32, 32\]"),
    ],
)
def test_a_manifest_that_does_not_fit_is_told(compiler: Compiler, name: str, change: Any, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        compiler.compile(onnx(name), recipe(name, **change))


def test_outputs_that_nobody_reads_are_not_built(compiler: Compiler) -> None:
    both, one = (compiler.compile(onnx("float"), recipe(outputs=o)) for o in (("grid", "mean"), ("grid",)))
    assert b"mean" in bytes(both.plan) and len(one.plan) <= len(both.plan)


def test_an_engine_is_refused_without_a_driver(trt: Any, compiler: Compiler) -> None:
    plan = compiler.compile(onnx("float"), recipe()).plan
    runtime = trt.Runtime(logger_of(MODULE)[0])
    messages = logger_of(MODULE)[1]
    messages.take()
    if runtime.deserialize_cuda_engine(plan) is not None:
        pytest.skip("this machine has a GPU")
    assert "no reason" not in messages.take()
