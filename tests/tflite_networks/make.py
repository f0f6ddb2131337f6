"""Makes the tiny networks beside it. They are committed, as TensorFlow is no part of the development environment.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install tensorflow-cpu ai-edge-litert && /tmp/venv/bin/python make.py

All of them find light 8x8 squares in a picture of 64x48: the score of a cell is a sigmoid over its mean brightness, its
box is the cell itself. Weights are written down, not trained, so that tests know the answer.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import flatbuffers
import numpy as np
import tensorflow as tf  # type: ignore[import-untyped]
from ai_edge_litert import schema_py_generated as schema

HERE = Path(__file__).parent
WIDTH, HEIGHT, CELL = 64, 48, 8
COLUMNS, ROWS = WIDTH // CELL, HEIGHT // CELL
CELLS = COLUMNS * ROWS


def boxes() -> np.ndarray:
    """(4, CELLS): cx, cy, w, h of every cell."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS]
    centre = np.stack(((x + 0.5) * CELL, (y + 0.5) * CELL)).reshape(2, -1)
    return np.concatenate((centre, np.full((2, CELLS), CELL))).astype(np.float32)


def logits(image: Any) -> Any:
    """(1, ROWS, COLUMNS, 1) from pixels in -1..1: two convolutions, so that there is something to cut between."""
    first = np.full((4, 4, 3, 4), 1 / 48, np.float32)
    x = tf.nn.relu(tf.nn.conv2d(image, first, 4, "VALID") + 1.0)
    second = np.full((2, 2, 4, 1), 8 / 16, np.float32)
    return tf.nn.conv2d(x, second, 2, "VALID") - 12.0


def split_outputs(image: Any) -> dict[str, Any]:
    """Boxes and scores apart, each with a quantisation of its own. The zero keeps the boxes from being folded away."""
    raw = logits(image)
    scores = tf.reshape(tf.sigmoid(raw), (1, 1, CELLS))
    zero = tf.reshape(raw, (1, 1, CELLS)) * 0.0
    return {"boxes": tf.concat([zero, zero, zero, zero], 1) + boxes()[None], "scores": scores}


def one_output(image: Any) -> dict[str, Any]:
    """The YOLOv8 layout."""
    both = split_outputs(image)
    return {"output0": tf.concat([both["boxes"], both["scores"]], 1)}


def planes_first(image: Any) -> dict[str, Any]:
    """The same behind an NCHW input, as converters from ONNX leave it."""
    return one_output(tf.transpose(image, (0, 2, 3, 1)))


def one_output_any_size(image: Any) -> dict[str, Any]:
    """Scores only, from a picture of any size."""
    raw = tf.sigmoid(logits(image))
    return {"scores": tf.reshape(raw, (1, 1, -1))}


def ssd(image: Any) -> dict[str, Any]:
    """Anchors are the cells; classes are background and light; TensorFlow's operator does the rest."""
    anchors = boxes()[[1, 0, 3, 2]].T / np.array([HEIGHT, WIDTH, HEIGHT, WIDTH], np.float32)
    options: dict[str, Any] = {
        "max_detections": 10,
        "max_classes_per_detection": 1,
        "num_classes": 1,
        "use_regular_nms": False,
    }
    options |= {"nms_score_threshold": 0.05, "nms_iou_threshold": 0.5}
    options |= {"y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0}
    attributes = " ".join(
        f'attr {{ key: "{key}" value {{ {({bool: "b", int: "i", float: "f"})[type(value)]}: {str(value).lower()} }} }}'
        for key, value in options.items()
    )

    @tf.function(experimental_implements=f'name: "TFLite_Detection_PostProcess" {attributes}')  # type: ignore[untyped-decorator]
    def post_process(box_encodings: Any, class_predictions: Any, anchors: Any) -> Any:
        return (tf.zeros((1, 10, 4)), tf.zeros((1, 10)), tf.zeros((1, 10)), tf.zeros((1,)))

    scores = tf.reshape(tf.sigmoid(logits(image)), (1, CELLS, 1))
    encodings = tf.concat([scores * 0.0] * 4, 2)
    found, classes, values, count = post_process(encodings, tf.concat([1.0 - scores, scores], 2), tf.constant(anchors))
    return {"a": found, "b": classes, "c": values, "d": count}


def pictures() -> Iterator[list[np.ndarray]]:
    """Calibration: noise, and squares from dark to light."""
    rng = np.random.default_rng(2)
    for step in range(32):
        image = rng.uniform(-1, 0.2, (1, HEIGHT, WIDTH, 3)).astype(np.float32)
        image[:, 8:16, 16:32] = step / 15.5 - 1
        image[:, 24:40, 40:56] = 1.0 if step % 2 else -1.0
        yield [image]


def convert(
    network: Callable[[Any], dict[str, Any]],
    shape: tuple[int | None, ...] = (1, HEIGHT, WIDTH, 3),
    io: Any = None,
    calibrate: bool = False,
) -> bytes:
    class Holder(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="images")])  # type: ignore[untyped-decorator]
        def __call__(self, images: Any) -> dict[str, Any]:
            return network(images)

    holder = Holder()
    function = holder.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    converter.allow_custom_ops = True
    if calibrate:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = pictures
        if io is not None:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = io
    return bytes(converter.convert())


def unpack(data: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))


def pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def pruned(model: Any) -> bytes:
    """Without the tensors, buffers and operator codes nobody uses any more, and without signatures and metadata."""
    graph = model.subgraphs[0]
    there = {int(i) for o in graph.operators for i in (*o.inputs, *o.outputs) if i >= 0}
    used = sorted(there | {int(i) for i in (*graph.inputs, *graph.outputs)})
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in used]
    for operator in graph.operators:
        operator.inputs, operator.outputs = (
            [place[int(i)] for i in side] for side in (operator.inputs, operator.outputs)
        )
    graph.inputs, graph.outputs = ([place[int(i)] for i in side] for side in (graph.inputs, graph.outputs))
    empty = schema.BufferT()
    kept = [model.buffers[t.buffer] for t in graph.tensors]
    for number, tensor in enumerate(graph.tensors):
        tensor.buffer = number + 1
    model.buffers = [empty, *kept]
    codes = sorted({o.opcodeIndex for o in graph.operators})
    model.operatorCodes = [model.operatorCodes[i] for i in codes]
    for operator in graph.operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)
    model.signatureDefs = model.metadata = model.metadataBuffer = None
    return pack(model)


def segments(data: bytes, cuts: list[int]) -> list[bytes]:
    """The network cut before these operators, as ``edgetpu_compiler --num_segments`` cuts: tensors keep their names."""
    total = len(unpack(data).subgraphs[0].operators)
    edges = [0, *cuts, total]
    parts = []
    for start, stop in itertools.pairwise(edges):
        model = unpack(data)
        graph = model.subgraphs[0]
        mine, later = graph.operators[start:stop], graph.operators[stop:]
        made = {int(i) for o in mine for i in o.outputs}
        before = {int(i) for o in graph.operators[:start] for i in o.outputs} | {int(i) for i in graph.inputs}
        needed = {int(i) for o in later for i in o.inputs} | {int(i) for i in graph.outputs}
        graph.inputs = sorted({int(i) for o in mine for i in o.inputs} & before)
        graph.outputs = [int(i) for i in graph.outputs if i in made] + sorted(
            (made & needed) - {int(i) for i in graph.outputs}
        )
        graph.operators = mine
        parts.append(pruned(model))
    return parts


def ssd_named(data: bytes) -> bytes:
    """Outputs named as the exporter of TensorFlow's detection models names them."""
    model = unpack(data)
    graph = model.subgraphs[0]
    graph.outputs = graph.operators[-1].outputs
    for number, place in enumerate(graph.outputs):
        graph.tensors[int(place)].name = b"TFLite_Detection_PostProcess" + (b":%d" % number if number else b"")
    return pruned(model)


def compiled(data: bytes, per_channel: bool = False) -> bytes:
    """As the Edge TPU compiler leaves a network: one operator that holds it all."""
    model = unpack(data)
    graph = model.subgraphs[0]
    code = schema.OperatorCodeT()
    code.customCode, code.builtinCode, code.deprecatedBuiltinCode, code.version = b"edgetpu-custom-op", 32, 32, 1
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, list(graph.inputs), list(graph.outputs)
    operator.customOptions = list(b"stand-in")
    model.operatorCodes, graph.operators = [code], [operator]
    if per_channel:
        boxes_out = graph.tensors[next(int(i) for i in graph.outputs if list(graph.tensors[int(i)].shape)[1] == 4)]
        q = boxes_out.quantization
        q.scale, q.zeroPoint, q.quantizedDimension = [0.25, 0.5, 0.125, 0.0625], [-128, -100, -128, 0], 1
    return pruned(model)


def compiled_in_two(data: bytes) -> list[bytes]:
    """Two segments: the first hands the picture on, the second is ``compiled``; its input has a name of its own."""
    parts = []
    for first in (True, False):
        model = unpack(compiled(data))
        graph = model.subgraphs[0]
        image = graph.tensors[int(graph.inputs[0])]
        if first:
            relay = schema.TensorT.InitFromObj(schema.Model.GetRootAsModel(data, 0).Subgraphs(0).Tensors(0))
            relay.name = b"relay"
            graph.tensors.append(relay)
            graph.outputs = graph.operators[0].outputs = [len(graph.tensors) - 1]
        else:
            image.name = b"relay_in"
        parts.append(pruned(model))
    return parts


def main() -> None:
    """Write all."""
    files = {
        "float": convert(one_output),
        "float_nchw": convert(planes_first, (1, 3, HEIGHT, WIDTH)),
        "int8_float_io": convert(split_outputs, calibrate=True),
        "int8": convert(split_outputs, io=tf.int8, calibrate=True),
        "uint8": convert(split_outputs, io=tf.uint8, calibrate=True),
        "ssd": ssd_named(convert(ssd)),
        "open_size": convert(one_output_any_size, (1, None, None, 3)),
    }
    files["edgetpu"] = compiled(files["int8"])
    files["edgetpu_per_channel"] = compiled(files["int8"], per_channel=True)
    for number, part in enumerate(compiled_in_two(files["int8"])):
        files[f"edgetpu_segment_{number}_of_2"] = part
    for number, part in enumerate(segments(files["int8"], [1, 3])):
        files[f"int8_segment_{number}_of_3"] = part
    for name, data in files.items():
        (HERE / f"{name}.tflite").write_bytes(data)
        print(f"{name}.tflite: {len(data)} bytes")


if __name__ == "__main__":
    main()
