"""Input tensors of every layout and type against a slow computation, pixel by pixel and in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.detect.backends import InputTensor
from edge_agent.detect.manifest import InputSpec
from edge_agent.detect.preprocess import Letterbox, Preprocessor, channel_tables
from edge_agent.errors import ModelError
from edge_agent.types import U8

LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float32", "float16", "uint8", "int8")


def make_spec(**change: object) -> InputSpec:
    base = {"name": "images", "size": (64, 48), "colour": "RGB", "mean": (10.0, 20.0, 30.0), "std": (2.0, 4.0, 8.0)}
    return InputSpec.model_validate(base | change)


def make_tensor(spec: InputSpec, layout: Any, dtype: str, scale: float = 1.0, zero_point: int = 0) -> InputTensor:
    width, height = spec.size
    shape = (1, height, width, 3) if layout == "NHWC" else (1, 3, height, width)
    return InputTensor(shape, layout, np.dtype(dtype), scale, zero_point)


def plain(image: U8, spec: InputSpec, box: Letterbox) -> NDArray[np.float64]:
    """(height, width, 3) real numbers in the order of ``colour``."""
    width, height = spec.size
    canvas = np.full((height, width, 3), spec.pad, np.float64)
    (w, h), (x, y) = box.content, box.offset
    canvas[y : y + h, x : x + w] = cv2.resize(image, box.content)
    if spec.colour == "RGB":
        canvas = canvas[..., ::-1]
    real: NDArray[np.float64] = (canvas - np.array(spec.mean)) / np.array(spec.std)
    return real


def quantised(real: NDArray[np.float64], tensor: InputTensor) -> NDArray[np.float64]:
    steps = real / tensor.scale
    limits = np.iinfo(tensor.dtype)
    levels = np.sign(steps) * np.floor(np.abs(steps) + 0.5) + tensor.zero_point
    clipped: NDArray[np.float64] = np.clip(levels, limits.min, limits.max)
    return clipped


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("fit", "position"), [("letterbox", "centre"), ("letterbox", "top_left"), ("stretch", "centre")]
)
def test_every_layout_and_type_equals_the_plain_computation(
    layout: str, dtype: str, colour: str, fit: str, position: str
) -> None:
    rng = np.random.default_rng(5)
    spec = make_spec(colour=colour, fit=fit, position=position)
    tensor = make_tensor(spec, layout, dtype, 0.73, -11 if dtype == "int8" else 19)
    preprocess = Preprocessor(spec, tensor)
    # The second picture meets used buffers, the third another size, the fourth needs no resizing.
    for size in ((120, 200), (120, 200), (300, 100), (48, 64), (120, 200)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        before = image.copy()
        got, box = preprocess(image)
        assert got.shape == tensor.shape and got.dtype == tensor.dtype and got.flags.c_contiguous
        pixels = got[0] if layout == "NHWC" else got[0].transpose(1, 2, 0)
        real = plain(image, spec, box)
        if dtype.startswith("float"):
            np.testing.assert_allclose(pixels, real, atol=1e-4, rtol=1e-3 if dtype == "float16" else 1e-6)
        else:
            np.testing.assert_array_equal(pixels, quantised(real, tensor))
        np.testing.assert_array_equal(image, before, "the source frame belongs to others")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_pixels_that_are_passed_on_as_they_are(layout: str, colour: str) -> None:
    spec = make_spec(colour=colour, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    tensor = make_tensor(spec, layout, "uint8", 1 / 255)
    preprocess = Preprocessor(spec, tensor)
    for size in ((48, 64), (90, 64)):
        image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
        before = image.copy()
        got, box = preprocess(image)
        pixels = got[0] if layout == "NHWC" else got[0].transpose(1, 2, 0)
        np.testing.assert_array_equal(pixels, np.rint(plain(image, spec, box) * 255))
        np.testing.assert_array_equal(image, before)


numbers = st.floats(-300, 300, width=32)


@settings(max_examples=60)
@given(
    numbers,
    st.floats(2**-7, 300, width=32),
    st.floats(2**-13, 10, width=32),
    st.integers(-128, 255),
    st.sampled_from(["uint8", "int8"]),
)
def test_quantisation_in_exact_arithmetic(mean: float, std: float, scale: float, zero: int, dtype: str) -> None:
    spec = make_spec(mean=(mean, 0.0, 127.5), std=(std, 1.0, 127.5))
    tensor = make_tensor(spec, "NHWC", dtype, scale, zero)
    limits = np.iinfo(dtype)
    tables = channel_tables(spec, tensor)
    for channel, (m, s) in enumerate(zip(spec.mean, spec.std, strict=True)):
        for value in (0, 1, 2, 64, 113, 114, 127, 128, 200, 254, 255):
            steps = (value - Fraction(m)) / Fraction(s) / Fraction(scale)
            whole = math.floor(abs(steps) + Fraction(1, 2))
            expected = min(max((whole if steps >= 0 else -whole) + zero, limits.min), limits.max)
            got = int(tables[channel, value])
            # float32 has 24 bits: nearer to a half than that, either neighbour is right.
            near = abs(abs(steps) % 1 - Fraction(1, 2)) <= abs(steps) * Fraction(1, 2**21)
            assert got == expected or (near and abs(got - expected) <= 1), (m, s, value)


def test_halves_are_rounded_away_from_zero_and_the_ends_are_clipped() -> None:
    spec = make_spec(mean=(100.0, 100.0, 100.0), std=(1.0, 1.0, 1.0))
    table = channel_tables(spec, make_tensor(spec, "NHWC", "int8", 2.0, 5))[0]
    assert [int(table[v]) for v in (97, 98, 99, 100, 101, 102, 103)] == [3, 4, 4, 5, 6, 6, 7]
    table = channel_tables(spec, make_tensor(spec, "NHWC", "int8", 0.5, 0))[0]
    assert (int(table[0]), int(table[255])) == (-128, 127)


def test_what_no_picture_fits_is_refused() -> None:
    spec = make_spec()
    with pytest.raises(ModelError, match="type int64"):
        Preprocessor(spec, make_tensor(spec, "NHWC", "int64"))
    with pytest.raises(ModelError, match=r"shape \(1, 3, 64, 48\), the manifest says 64x48"):
        Preprocessor(spec, InputTensor((1, 3, 64, 48), "NCHW", np.dtype(np.float32)))


def test_stretched_boxes_come_back() -> None:
    box = Letterbox.stretch((768, 576), (300, 300))
    boxes = box.to_source(np.array([[0, 0, 300, 300], [150, 75, 225, 150]], np.float32))
    np.testing.assert_allclose(boxes, [[0, 0, 768, 576], [384, 144, 576, 288]], rtol=1e-6)
