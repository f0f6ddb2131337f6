"""A small SSD written as a TensorFlow Lite file, with the runtime's own operator for decoding and suppression at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as tfl
from flatbuffers import flexbuffers
from torch.nn import functional

from tests.decoder_networks.make import CLASSES, HEIGHT, IOU, WIDTH, Answer, Made, numpy_answer, tensor, versions

STRIDE, SHAPES = 8, ((24.0, 24.0), (16.0, 40.0))
ROWS, COLUMNS = HEIGHT // STRIDE, WIDTH // STRIDE
N = ROWS * COLUMNS * len(SHAPES)
SPEC: dict[str, Any] = {"colour": "RGB", "mean": [127.5] * 3, "std": [127.5] * 3, "layout": "NHWC"}
LOWEST = 0.02


def _anchors() -> np.ndarray:
    """(N,4) centre y, centre x, height, width in fractions, as the operator takes them."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return np.array(
        [
            ((cy + 0.5) / ROWS, (cx + 0.5) / COLUMNS, h / HEIGHT, w / WIDTH)
            for cy, cx in zip(y.ravel(), x.ravel(), strict=True)
            for w, h in SHAPES
        ],
        np.float32,
    )


def _weights() -> dict[str, np.ndarray]:
    """OHWI, as the format has them."""
    rng = np.random.default_rng(12)
    k = len(SHAPES)
    found = {
        "stem": rng.normal(0, (2 / (3 * STRIDE**2)) ** 0.5, (12, STRIDE, STRIDE, 3)),
        "stem_bias": rng.normal(0, 0.3, 12),
        "boxes": rng.normal(0, 0.2, (4 * k, 3, 3, 12)),
        "boxes_bias": rng.normal(0, 0.5, 4 * k),
        "scores": rng.normal(0, 0.15, ((CLASSES + 1) * k, 3, 3, 12)),
        "scores_bias": rng.normal(-2, 0.3, (CLASSES + 1) * k),
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


def _file(weights: dict[str, np.ndarray]) -> bytes:
    model, graph = tfl.ModelT(), tfl.SubGraphT()
    model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, [tfl.BufferT()], [], [graph]
    graph.tensors, graph.operators, graph.name = [], [], b"main"

    def add_tensor(name: str, shape: list[int], data: np.ndarray | None = None) -> int:
        t = tfl.TensorT()
        t.name, t.shape, t.buffer = name.encode(), shape, 0
        t.type = tfl.TensorType.INT32 if data is not None and data.dtype == np.int32 else tfl.TensorType.FLOAT32
        if data is not None:
            t.buffer = len(model.buffers)
            model.buffers.append(tfl.BufferT())
            model.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
        graph.tensors.append(t)
        return len(graph.tensors) - 1

    def add(code: int, ins: list[int], outs: list[int], options: tuple[int, Any] | None = None) -> Any:
        known = tfl.OperatorCodeT()
        known.builtinCode, known.deprecatedBuiltinCode, known.version = code, min(code, 127), 1
        op = tfl.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = len(model.operatorCodes), ins, outs
        model.operatorCodes.append(known)
        if options:
            op.builtinOptionsType, op.builtinOptions = options
        graph.operators.append(op)
        return known, op

    def conv(name: str, source: int, shape: list[int], stride: int, relu: bool) -> int:
        o = tfl.Conv2DOptionsT()
        o.strideW = o.strideH = stride
        o.padding, o.dilationWFactor, o.dilationHFactor = tfl.Padding.SAME, 1, 1
        o.fusedActivationFunction = tfl.ActivationFunctionType.RELU if relu else tfl.ActivationFunctionType.NONE
        ins = [source, *(add_tensor(n, list(weights[n].shape), weights[n]) for n in (name, f"{name}_bias"))]
        out = add_tensor(f"{name}_out", shape)
        add(tfl.BuiltinOperator.CONV_2D, ins, [out], (tfl.BuiltinOptions.Conv2DOptions, o))
        return out

    def reshape(source: int, last: int) -> int:
        o = tfl.ReshapeOptionsT()
        o.newShape = [1, N, last]
        shape = add_tensor(f"shape{last}", [3], np.array(o.newShape, np.int32))
        out = add_tensor(f"rows{last}", o.newShape)
        add(tfl.BuiltinOperator.RESHAPE, [source, shape], [out], (tfl.BuiltinOptions.ReshapeOptions, o))
        return out

    k = len(SHAPES)
    image = add_tensor("images", [1, HEIGHT, WIDTH, 3])
    grid = [1, ROWS, COLUMNS]
    stem = conv("stem", image, [*grid, 12], STRIDE, True)
    boxes = reshape(conv("boxes", stem, [*grid, 4 * k], 1, False), 4)
    logits = reshape(conv("scores", stem, [*grid, (CLASSES + 1) * k], 1, False), CLASSES + 1)
    scores = add_tensor("probabilities", [1, N, CLASSES + 1])
    add(tfl.BuiltinOperator.LOGISTIC, [logits], [scores])
    outs = [
        add_tensor(f"TFLite_Detection_PostProcess{suffix}", shape)
        for suffix, shape in (("", [1, 60, 4]), (":1", [1, 60]), (":2", [1, 60]), (":3", [1]))
    ]
    anchors = add_tensor("anchors", [N, 4], _anchors())
    code, op = add(tfl.BuiltinOperator.CUSTOM, [boxes, scores, anchors], outs)
    code.customCode = b"TFLite_Detection_PostProcess"
    op.customOptions = np.frombuffer(_settings(), np.uint8)
    graph.inputs, graph.outputs = [image], outs
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _settings() -> bytes:
    fbb = flexbuffers.Builder()
    with fbb.Map():
        for name, whole in (
            ("max_detections", 60),
            ("max_classes_per_detection", 1),
            ("detections_per_class", 100),
            ("num_classes", CLASSES),
        ):
            fbb.Int(name, whole)
        fbb.Bool("use_regular_nms", True)
        for name, value in (
            ("nms_score_threshold", LOWEST),
            ("nms_iou_threshold", IOU),
            ("y_scale", 10.0),
            ("x_scale", 10.0),
            ("h_scale", 5.0),
            ("w_scale", 5.0),
        ):
            fbb.Float(name, value)
    return bytes(fbb.Finish())


def _reference(weights: dict[str, np.ndarray]) -> Answer:
    """PyTorch's convolutions, torchvision's box coder and suppression."""
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.ops import batched_nms

    ohwi = {name: torch.from_numpy(value) for name, value in weights.items()}
    kernel = {name: ohwi[name].permute(0, 3, 1, 2) for name in ("stem", "boxes", "scores")}
    y = functional.conv2d(tensor(SPEC), kernel["stem"], ohwi["stem_bias"], stride=STRIDE).relu()
    rows = [
        functional.conv2d(y, kernel[n], ohwi[f"{n}_bias"], padding=1).permute(0, 2, 3, 1).reshape(N, -1)
        for n in ("boxes", "scores")
    ]
    anchors = torch.from_numpy(_anchors()) * torch.tensor([HEIGHT, WIDTH, HEIGHT, WIDTH])
    corners = torch.cat((anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2), 1)[:, [1, 0, 3, 2]]
    # The file's order is y, x, height, width, the coder's x, y, width, height.
    boxes = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(rows[0][:, [1, 0, 3, 2]], corners)
    places, classes = (rows[1].sigmoid()[:, 1:] >= LOWEST).nonzero(as_tuple=True)
    scores = rows[1].sigmoid()[places, classes + 1]
    keep = batched_nms(boxes[places] + 1000, scores, classes, IOU)[:60]
    return numpy_answer(boxes[places][keep], scores[keep], classes[keep])


def ssd(folder: Path) -> Made:
    weights = _weights()
    (folder / "model.tflite").write_bytes(_file(weights))
    boxes, scores, classes = _reference(weights)

    def reference(threshold: float) -> Answer:
        good = scores >= threshold
        return boxes[good], scores[good], classes[good]

    return Made(
        "ssd",
        "SSD head with two anchors a cell, TFLite_Detection_PostProcess by LiteRT's own kernel",
        versions("torch", "torchvision") + ": convolutions, BoxCoder, batched_nms",
        reference,
        [f"TFLite_Detection_PostProcess{suffix}" for suffix in ("", ":1", ":2", ":3")],
        SPEC,
        {"boxes": "normalised"},
        file="model.tflite",
        kind="an independent computation of the same network and its suppression",
    )
