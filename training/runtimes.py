"""Exported files as something to evaluate: what is measured is the file that ships, in the runtime it ships for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.attributes import Judge
from training.evaluation import Predict
from training.export_onnx import BOXES, SCORES
from training.graph import IMAGE_MEAN, IMAGE_STD, INPUT
from training.network import STRIDES

F32 = NDArray[np.float32]
Outputs: TypeAlias = Callable[[NDArray[np.uint8]], list[F32]]
"""From one letterboxed picture (size,size,3) uint8 RGB to a file's outputs as real numbers, without their batch axis."""


def cells(size: int) -> tuple[F32, F32]:
    """Centres (N,2) in pixels and strides (N,1) of the network's places, finest level first, row by row."""
    centres, strides = [], []
    for stride in STRIDES:
        ys, xs = np.mgrid[: size // stride, : size // stride]
        centres.append((np.stack((xs, ys), -1).reshape(-1, 2) + 0.5) * stride)
        strides.append(np.full((xs.size, 1), stride))
    return np.concatenate(centres).astype(np.float32), np.concatenate(strides).astype(np.float32)


def decode(boxes: F32, scores: F32, size: int) -> tuple[F32, F32]:
    """Raw outputs (N,4) and (N,C) to boxes xyxy in input pixels and scores in [0,1]."""
    centres, strides = cells(size)
    distance = np.exp(boxes) * strides
    return (
        np.hstack((centres - distance[:, :2], centres + distance[:, 2:])).astype(np.float32),
        sigmoid(scores),
    )


def sigmoid(logits: F32) -> F32:
    """Logits to scores in [0,1]."""
    return ((np.tanh(logits / 2) + 1) / 2).astype(np.float32)


def onnx_outputs(path: Path, names: Sequence[str], threads: int = 1) -> Outputs:
    """An ONNX file in ONNX Runtime."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it must be set before the import
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def outputs(canvas: NDArray[np.uint8]) -> list[F32]:
        tensor = (canvas.transpose(2, 0, 1)[None].astype(np.float32) - IMAGE_MEAN) / IMAGE_STD
        return [found[0] for found in session.run(list(names), {INPUT: tensor})]

    return outputs


def tflite_outputs(path: Path, names: Sequence[str], threads: int = 1) -> Outputs:
    """A TFLite file in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]
    details = {d["name"]: d for d in interpreter.get_output_details()}

    def real(name: str) -> F32:
        value: F32 = interpreter.get_tensor(details[name]["index"])[0].astype(np.float32)
        scale, zero = details[name]["quantization"]
        return (value - zero) * np.float32(scale) if scale else value

    def outputs(canvas: NDArray[np.uint8]) -> list[F32]:
        tensor = (canvas[None].astype(np.float32) - IMAGE_MEAN) / IMAGE_STD
        scale, zero = place["quantization"]
        if scale:
            tensor = np.clip(np.rint(tensor / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(place["index"], tensor)
        interpreter.invoke()
        return [real(name) for name in names]

    return outputs


def file_outputs(path: Path, names: Sequence[str], threads: int = 1) -> Outputs:
    """An exported file in the runtime it ships for, by its suffix."""
    return (onnx_outputs if path.suffix == ".onnx" else tflite_outputs)(path, names, threads)


def onnx_predictor(path: Path, size: int, threads: int = 1) -> Predict:
    """A detector's ONNX file in ONNX Runtime."""
    run = onnx_outputs(path, (BOXES, SCORES), threads)

    def predict(canvas: NDArray[np.uint8]) -> tuple[F32, F32]:
        boxes, scores = run(canvas)
        return decode(boxes.T, scores.T, size)

    return predict


def tflite_predictor(path: Path, size: int, threads: int = 1) -> Predict:
    """A detector's TFLite file in LiteRT."""
    run = tflite_outputs(path, (BOXES, SCORES), threads)

    def predict(canvas: NDArray[np.uint8]) -> tuple[F32, F32]:
        boxes, scores = run(canvas)
        return decode(boxes, scores, size)

    return predict


def file_judge(path: Path, threads: int = 1) -> Judge:
    """A classifier's exported file."""
    run = file_outputs(path, (SCORES,), threads)
    return lambda crops: sigmoid(np.stack([run(crop)[0] for crop in crops]))
