"""Decoders: known boxes written in each family's layout come back; what is no detection never does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.detect.decoders import FAMILIES
from edge_agent.detect.manifest import FamilyName, Manifest, Network
from edge_agent.errors import InferenceError
from edge_agent.types import F32, F64

SIZE = (96, 64)
CLASSES = 3
CELLS = sum((SIZE[0] // s) * (SIZE[1] // s) for s in (8, 16, 32))


def network(family: str, classes: int = CLASSES, size: tuple[int, int] = SIZE, **decode: Any) -> Network:
    manifest = Manifest.model_validate(
        {
            "manifest": 1,
            "name": "tiny",
            "version": "1",
            "family": family,
            "licence": "none",
            "labels": [f"label{i}" for i in range(classes)],
            "input": {"name": "images", "size": list(size), "colour": "RGB"},
            "outputs": ["out"],
            "decode": decode,
            "files": [{"backend": "onnxruntime", "path": "m.onnx", "sha256": "0" * 64, "precision": "fp32"}],
        }
    )
    return Network(manifest, manifest.files[0], Path())


class Truth(NamedTuple):
    """What is to be found: boxes (N,4) xyxy input pixels, scores (N,), classes (N,)."""

    boxes: F64
    scores: F64
    classes: Any


@st.composite
def truths(draw: st.DrawFn) -> Truth:
    """Up to 20 boxes, some over the edge of the input, scores on both sides of 0.5 but never at it."""
    n = draw(st.integers(0, 20))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    low = rng.uniform(-10, [*SIZE], (n, 2))
    boxes = np.concatenate((low, low + rng.uniform(1, 80, (n, 2))), 1)
    scores = np.where(rng.random(n) < 0.5, rng.uniform(0.01, 0.49, n), rng.uniform(0.51, 1, n))
    return Truth(boxes, scores, rng.integers(0, CLASSES, n))


# ---- encoders: float64, one box after the other, by the families' descriptions and not by the decoders


def corners_to(form: str, box: F64) -> list[float]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return {
        "xyxy": [x1, y1, x2, y2],
        "yxyx": [y1, x1, y2, x2],
        "xywh": [x1, y1, x2 - x1, y2 - y1],
        "cxcywh": [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1],
    }[form]


def written(truth: Truth, form: str, *, normalised: bool) -> F64:
    width, height = SIZE
    scale = np.array([width, height, width, height]) if normalised else 1.0
    return np.array([corners_to(form, box / scale) for box in truth.boxes]).reshape(-1, 4)


def as_logit(p: F64) -> F64:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p))


def class_table(truth: Truth, rows: int, *, skipped: int, logit: bool) -> F64:
    """(rows, skipped + CLASSES): every other class has less than the true one; what is skipped has most of all."""
    table = np.full((rows, skipped + CLASSES), 0.001)
    table[:, :skipped] = 0.999
    for i, (score, c) in enumerate(zip(truth.scores, truth.classes, strict=True)):
        table[i, skipped:] = score * 0.3
        table[i, skipped + c] = score
    return as_logit(table) if logit else table


def f32(*arrays: F64) -> list[F32]:
    return [np.ascontiguousarray(a, np.float32) for a in arrays]


class Writing(NamedTuple):
    """One way to write: the family, the manifest's ``decode``, and the tensors for a truth."""

    family: str
    decode: dict[str, Any]
    encode: Callable[[Truth], list[F32]]


def dense(family: str, usual: str, *, rows: bool, joined: bool, axis: bool = False, **decode: Any) -> Writing:
    """``rows``: a box is a row of the tensor when not transposed. ``axis``: an axis of 1 after the rows."""

    def encode(truth: Truth) -> list[F32]:
        skipped = max(decode.get("label_offset", 0), int(decode.get("background", False)))
        form = decode.get("box_format") or usual
        boxes = written(truth, form, normalised=decode.get("boxes") == "normalised")
        scores = class_table(truth, len(boxes), skipped=skipped, logit=decode.get("scores") == "logit")
        tables = [np.concatenate((boxes, scores), 1)] if joined else [boxes, scores]
        if rows == decode.get("transposed", False):
            tables = [table.T for table in tables]
        elif axis:
            tables[0] = tables[0][:, None]
        return f32(*(table[None] for table in tables))

    return Writing(family, decode, encode)


def with_objectness(family: str, **decode: Any) -> Writing:
    def encode(truth: Truth) -> list[F32]:
        boxes = written(truth, "cxcywh", normalised=decode.get("boxes") == "normalised")
        classes = class_table(truth, len(boxes), skipped=0, logit=False) ** 0.25
        objectness = truth.scores[:, None] ** 0.75
        both = np.concatenate((objectness, classes), 1)
        table = np.concatenate((boxes, as_logit(both) if decode.get("scores") == "logit" else both), 1)[None]
        return f32(table.transpose(0, 2, 1) if decode.get("transposed") else table)

    return Writing(family, decode, encode)


def yolox_raw(truth: Truth) -> list[F32]:
    """Each box in a cell of its own, however far away that is: an offset may be any number."""
    table = np.zeros((CELLS, 5 + CLASSES))
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(SIZE[1] // s) for x in range(SIZE[0] // s)]
    places = np.random.default_rng(len(truth.scores)).choice(CELLS, len(truth.scores), replace=False)
    places.sort()
    for place, box, score, c in zip(places, *truth, strict=True):
        x, y, stride = cells[place]
        cx, cy, w, h = corners_to("cxcywh", box)
        table[place, :5] = (cx / stride - x, cy / stride - y, np.log(w / stride), np.log(h / stride), score)
        table[place, 5 + c] = 1
    return f32(table[None])


def fcos(**decode: Any) -> Writing:
    """Each box in a cell whose centre is inside it; boxes that have none there are made to."""

    def encode(truth: Truth) -> list[F32]:
        cells = [
            ((x + 0.5) * s, (y + 0.5) * s, s)
            for s in (8, 16, 32)
            for y in range(SIZE[1] // s)
            for x in range(SIZE[0] // s)
        ]
        places = np.random.default_rng(len(truth.scores)).choice(CELLS, len(truth.scores), replace=False)
        places.sort()
        boxes, scores = np.zeros((CELLS, 4)), np.full((CELLS, CLASSES), 0.001)
        for i, place in enumerate(places):
            cx, cy, stride = cells[place]
            box = truth.boxes[i]
            box[:2], box[2:] = np.minimum(box[:2], [cx - 1, cy - 1]), np.maximum(box[2:], [cx + 1, cy + 1])
            boxes[place] = np.log(
                [(cx - box[0]) / stride, (cy - box[1]) / stride, (box[2] - cx) / stride, (box[3] - cy) / stride]
            )
            scores[place] = truth.scores[i] * 0.3
            scores[place, truth.classes[i]] = truth.scores[i]
        tables = [boxes, as_logit(scores) if decode.get("scores") == "logit" else scores]
        return f32(*(table[None] if decode.get("transposed") else table.T[None] for table in tables))

    return Writing("fcos", decode, encode)


def listed(family: str, usual: str, arrange: Callable[[F64, F64, F64], list[F64]], **decode: Any) -> Writing:
    def encode(truth: Truth) -> list[F32]:
        boxes = written(truth, decode.get("box_format") or usual, normalised=decode.get("boxes") == "normalised")
        first = max(decode.get("label_offset", 0), int(decode.get("background", False)))
        scores = as_logit(truth.scores) if decode.get("scores") == "logit" else truth.scores
        return f32(*arrange(boxes, scores, (truth.classes + first).astype(float)))

    return Writing(family, decode, encode)


def six(boxes: F64, scores: F64, classes: F64) -> list[F64]:
    return [np.concatenate((boxes, scores[:, None], classes[:, None]), 1)[None]]


def four_tensors(boxes: F64, scores: F64, classes: F64) -> list[F64]:
    """With rows past the count that would be detections."""
    more = np.ones(3)
    count = np.array([float(len(scores))])
    padded = (np.concatenate((boxes, np.ones((3, 4)))), np.append(classes, more), np.append(scores, more))
    return [part[None] for part in padded] + [count]


WRITINGS = {
    "yolov8": dense("yolov8", "cxcywh", rows=False, joined=True),
    "yolov8 transposed": dense("yolov8", "cxcywh", rows=False, joined=True, transposed=True),
    "yolov8 in two": dense("yolov8", "cxcywh", rows=False, joined=False),
    "yolov8 in two, transposed": dense("yolov8", "cxcywh", rows=False, joined=False, transposed=True),
    "yolov8 normalised": dense("yolov8", "cxcywh", rows=False, joined=True, boxes="normalised"),
    "yolov8 logit": dense("yolov8", "cxcywh", rows=False, joined=True, scores="logit"),
    "yolov8 corners": dense("yolov8", "cxcywh", rows=False, joined=True, box_format="xyxy"),
    "yolov8 xywh": dense("yolov8", "cxcywh", rows=False, joined=True, box_format="xywh"),
    "yolov8 background": dense("yolov8", "cxcywh", rows=False, joined=True, background=True),
    "yolox": Writing("yolox", {}, yolox_raw),
    "yolox decoded": with_objectness("yolox", decoded=True),
    "yolox decoded, logit": with_objectness("yolox", decoded=True, scores="logit"),
    "yolov5": with_objectness("yolov5"),
    "yolov5 normalised": with_objectness("yolov5", boxes="normalised"),
    "yolov5 transposed": with_objectness("yolov5", transposed=True),
    "ssd": listed("ssd", "yxyx", four_tensors, boxes="normalised"),
    "ssd pixels, corners": listed("ssd", "yxyx", four_tensors, box_format="xyxy", label_offset=2),
    "yolov10": listed("yolov10", "xyxy", six),
    "yolov10 normalised": listed("yolov10", "xyxy", six, boxes="normalised"),
    "yolov10 transposed": listed(
        "yolov10", "xyxy", lambda *t: [a.transpose(0, 2, 1) for a in six(*t)], transposed=True
    ),
    "torchvision": listed("boxes_labels_scores", "xyxy", lambda b, s, c: [b, c, s], background=True),
    "torchvision batch": listed("boxes_labels_scores", "xyxy", lambda b, s, c: [b[None], c[None], s[None]]),
    "yolov4": dense("yolov4", "xyxy", rows=True, joined=False, axis=True, boxes="normalised"),
    "yolov4 without axis": dense("yolov4", "xyxy", rows=True, joined=False, boxes="normalised"),
    "yolonas": dense("yolonas", "xyxy", rows=True, joined=False),
    "yolonas transposed": dense("yolonas", "xyxy", rows=True, joined=False, transposed=True),
    "fcos": fcos(),
    "fcos logit, transposed": fcos(scores="logit", transposed=True),
    "rtdetr": dense("rtdetr", "cxcywh", rows=True, joined=False, boxes="normalised", scores="logit"),
    "rtdetr in one": dense("rtdetr", "cxcywh", rows=True, joined=True, boxes="normalised"),
    "rtdetr background": dense("rtdetr", "cxcywh", rows=True, joined=False, label_offset=1),
}


def decode(writing: Writing, outputs: list[F32], threshold: float) -> tuple[F32, F32, Any]:
    return FAMILIES[writing.family].decode(outputs, network(writing.family, **writing.decode), threshold)


def test_every_family_of_the_manifest_has_a_decoder_and_a_writing() -> None:
    assert set(FAMILIES) == set(get_args(FamilyName)) == {w.family for w in WRITINGS.values()}


@pytest.mark.parametrize("name", WRITINGS)
@settings(max_examples=25)
@given(truth=truths())
def test_known_boxes_come_back(name: str, truth: Truth) -> None:
    writing = WRITINGS[name]
    outputs = writing.encode(truth)
    before = [output.copy() for output in outputs]
    boxes, scores, classes = decode(writing, outputs, 0.5)
    wanted = np.flatnonzero(truth.scores > 0.5)
    assert [a.dtype.name for a in (boxes, scores, classes)] == ["float32", "float32", "int32"]
    if writing.family == "rtdetr":  # the only one that gives them in another order: by class
        order = np.lexsort((wanted, truth.classes[wanted]))
        wanted = wanted[order]
    np.testing.assert_allclose(boxes, truth.boxes[wanted], atol=1e-3)
    np.testing.assert_allclose(scores, truth.scores[wanted], atol=1e-4)
    assert classes.tolist() == truth.classes[wanted].tolist()
    for output, copy in zip(outputs, before, strict=True):
        np.testing.assert_array_equal(output, copy, "decoding does not write to the network's memory")
        assert not any(np.shares_memory(output, result) for result in (boxes, scores, classes))
        output[:] = 7
    np.testing.assert_allclose(boxes, truth.boxes[wanted], atol=1e-3)
    assert boxes.flags.writeable and boxes.flags.c_contiguous and boxes.base is None


@pytest.mark.parametrize("name", WRITINGS)
@settings(max_examples=25)
@given(truth=truths(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_higher_threshold_leaves_a_part_of_the_candidates(name: str, truth: Truth, low: float, high: float) -> None:
    low, high = sorted((low, high))
    outputs = WRITINGS[name].encode(truth)
    many, few = (decode(WRITINGS[name], outputs, t) for t in (low, high))
    assert (few[1] >= high - 1e-6).all()
    rows = {(*b, s, c) for b, s, c in zip(many[0].tolist(), many[1].tolist(), many[2].tolist(), strict=True)}
    if WRITINGS[name].family != "rtdetr":
        for b, s, c in zip(few[0].tolist(), few[1].tolist(), few[2].tolist(), strict=True):
            assert (*b, s, c) in rows
    assert len(few[0]) <= len(many[0])


POISON = st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38])


@pytest.mark.parametrize("name", WRITINGS)
@settings(max_examples=25)
@given(truth=truths(), data=st.data())
def test_numbers_out_of_all_bounds_never_raise_and_never_come_out(name: str, truth: Truth, data: st.DataObject) -> None:
    outputs = WRITINGS[name].encode(truth)
    for output in outputs:
        for place in data.draw(st.lists(st.integers(0, max(output.size - 1, 0)), max_size=8)):
            if output.size:
                output.ravel()[place] = data.draw(POISON)
    boxes, scores, classes = decode(WRITINGS[name], outputs, 0.05)
    assert np.isfinite(boxes).all() and (scores >= 0).all() and (scores <= 1).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all(), "a box has an area"
    assert ((classes >= 0) & (classes < CLASSES)).all()


def shaped(*shapes: tuple[int, ...]) -> list[F32]:
    return [np.zeros(shape, np.float32) for shape in shapes]


WRONG = {
    "yolov8": [shaped((1, 8, 20)), shaped((2, 7, 20)), shaped((7, 20)), shaped((1, 4, 20), (1, 3, 21)), []],
    "yolox": [shaped((1, CELLS, 9)), shaped((1, CELLS - 1, 8)), shaped((1, 8, CELLS)), shaped((CELLS, 8))],
    "yolov5": [shaped((1, 3, 4, 4, 8)), shaped((1, 8, 50)), shaped((1, 50, 8), (1, 50, 8))],
    "ssd": [
        shaped((1, 5, 4), (1, 5), (1, 5)),
        shaped((1, 5, 4), (1, 5), (1, 4), (1,)),
        shaped((1, 5, 4), (1, 5), (1, 5), (2,)),
        shaped((1, 5), (1, 5, 4), (1, 5), (1,)),
    ],
    "yolov10": [shaped((1, 6, 300)), shaped((1, 300, 7)), shaped((300, 6))],
    "boxes_labels_scores": [
        shaped((5, 4), (5,)),
        shaped((5, 4), (4,), (5,)),
        shaped((2, 5, 4), (5,), (5,)),
        shaped((), (), ()),
    ],
    "yolov4": [shaped((1, 9, 1, 4), (1, 9, 4)), shaped((1, 9, 2, 4), (1, 9, 3)), shaped((1, 8, 4), (1, 9, 3))],
    "rtdetr": [shaped((1, 9, 4), (1, 9, 4)), shaped((1, 9, 8)), shaped((1, 8, 4), (1, 9, 3))],
    "yolonas": [shaped((1, 4, 9), (1, 3, 9)), shaped((1, 9, 7))],
    "fcos": [
        shaped((1, 4, CELLS)),
        shaped((1, 4, CELLS - 1), (1, 3, CELLS - 1)),
        shaped((1, 4, CELLS), (1, 2, CELLS)),
        shaped((1, CELLS, 4), (1, CELLS, 3)),
    ],
}


@pytest.mark.parametrize(("family", "outputs"), [(f, o) for f, many in WRONG.items() for o in many])
def test_a_wrong_shape_is_an_error_that_names_what_came_and_what_should(family: str, outputs: list[F32]) -> None:
    with pytest.raises(InferenceError) as caught:
        FAMILIES[family].decode(outputs, network(family), 0.5)
    text = str(caught.value)
    assert text.startswith(f"tiny@1: family {family} expects ")
    for output in outputs:
        assert str(list(output.shape)) in text


def test_detection_transformers_give_their_best_pairs_and_no_more_than_queries() -> None:
    scores = np.linspace(0.2, 0.9, 12, dtype=np.float32).reshape(1, 4, 3)
    outputs = [np.full((1, 4, 4), 0.5, np.float32), scores]
    _, found, classes = FAMILIES["rtdetr"].decode(outputs, network("rtdetr"), 0.1)
    assert sorted(found.tolist()) == sorted(scores.ravel().tolist())[-4:]
    assert sorted(classes.tolist()) == [0, 1, 2, 2]


def test_a_quantised_score_a_little_over_one_is_one() -> None:
    output = np.array([[[10, 10, 4, 4, 1.0039, 0, 0]]], np.float32).transpose(0, 2, 1)
    assert FAMILIES["yolov8"].decode([output], network("yolov8"), 0.5)[1].tolist() == [1.0]


@pytest.mark.parametrize("number", [-1, 3, 90, 2.0001, 1e12])
def test_a_class_number_without_a_label_is_no_detection(number: float) -> None:
    output = np.array([[[1, 1, 5, 5, 0.9, number]]], np.float32)
    classes = FAMILIES["yolov10"].decode([output], network("yolov10"), 0.5)[2]
    assert classes.tolist() == ([2] if 2 < number < 3 else [])


def test_only_networks_that_did_it_themselves_go_without_suppression() -> None:
    assert {name for name, family in FAMILIES.items() if not family.suppress} == {
        "ssd",
        "yolov10",
        "boxes_labels_scores",
        "rtdetr",
    }
