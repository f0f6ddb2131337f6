"""What was found out about a network file: written by the inspecting child process, read by its parent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


def _printable(text: str) -> str:
    if not text.isprintable():  # an escape sequence in a name would reach somebody's terminal
        raise ValueError(f"{text[:100]!r} is no name")
    return text


Text = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_printable)]
Format = Literal["onnx", "tflite", "openvino"]
MIB = 1 << 20
MAX_FILE_BYTES = 1024 * MIB
"""Largest file that is taken, and largest sum of what an archive holds."""
MAX_PARTS = 64
MAX_OUTPUT_BYTES = 256 * MIB
"""All output tensors of one picture."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Tensor(_Strict):
    """An input or output as the file declares it. ``shape`` has None where the file leaves a length open."""

    name: Text
    dtype: Text
    shape: tuple[int | None, ...] = Field(max_length=8)
    scale: float = 1.0
    zero_point: int = 0


class Hints(_Strict):
    """What the exporter wrote into the file beside the network; empty or None where it did not."""

    labels: tuple[Annotated[str, StringConstraints(min_length=1, max_length=64)], ...] = Field((), max_length=10_000)
    size: tuple[int, int] | None = Field(None, description="[width, height]")
    task: Text = ""
    licence: Text = ""
    description: Text = ""


class Facts(_Strict):
    """One network file. ``files`` are names in the folder it was copied to, the network first, then what belongs to it."""

    format: Format
    files: tuple[Text, ...] = Field(min_length=1, max_length=65)
    inputs: tuple[Tensor, ...] = Field(max_length=64)
    outputs: tuple[Tensor, ...] = Field(max_length=64)
    hints: Hints = Field(default_factory=Hints)
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    device: Literal["any", "edgetpu"] = "any"
    not_run: Text = ""
    """Why the network was not run on the sample picture; empty: it was."""
