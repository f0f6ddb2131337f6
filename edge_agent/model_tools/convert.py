"""The converting child process: an ONNX file to an OpenVINO IR with its weights as FP16."""

from __future__ import annotations

from typing import Any

from edge_agent.detect.backends.openvino import import_openvino
from edge_agent.detect.child import Say, serve
from edge_agent.errors import ModelError


def _perform(asked: dict[str, Any], say: Say) -> dict[str, Any]:
    openvino = import_openvino()
    say("converting it")
    try:
        model = openvino.Core().read_model(asked["onnx"])
        openvino.save_model(model, asked["xml"], compress_to_fp16=True)
    except Exception as error:
        raise ModelError(f"OpenVINO cannot convert it: {' '.join(str(error).split())[:1500]}") from error
    return {"outputs": [output.get_any_name() for output in model.outputs]}


if __name__ == "__main__":
    serve(_perform)
