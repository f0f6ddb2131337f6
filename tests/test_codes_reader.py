"""Codes in pictures: what is there is read, at its place; what cannot be read hides nothing else."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.codes.naming import Naming
from edge_agent.codes.reader import MAX_TEXT_BYTES, Reader, Reading
from edge_agent.errors import HardwareError
from edge_agent.types import U8
from tests.code_fixtures import KEY, marker, qr, scene, signed

NOW = 1_800_000_000.0


def read(picture: U8, markers: bool = False) -> list[Reading]:
    return Reader(qr=True, markers="apriltag_36h11" if markers else None).read(picture)


@pytest.mark.parametrize("px", [3, 4, 6, 10])
def test_a_token_is_read_from_three_pixels_for_each_module(px: int) -> None:
    text = signed(now=NOW)
    found = read(scene((qr(text, px), 300, 120)))
    assert [reading.text for reading in found] == [text]
    side = qr(text, px).shape[0]
    assert np.allclose(
        found[0].box, (300 + 4 * px, 120 + 4 * px, 300 + side - 4 * px, 120 + side - 4 * px), atol=2 * px
    )


def test_several_codes_are_read_at_once() -> None:
    picture = scene((qr("badge 1"), 100, 100), (qr("badge 2"), 700, 300), (marker(17), 1000, 100), (marker(3), 60, 500))
    found = read(picture, markers=True)
    assert {(reading.kind, reading.text) for reading in found} == {
        ("qr", "badge 1"),
        ("qr", "badge 2"),
        ("marker", "17"),
        ("marker", "3"),
    }


@pytest.mark.parametrize(("quarters", "angle"), [(0, 0.0), (1, 270.0), (2, 180.0), (3, 90.0)])
def test_where_a_marker_points_to(quarters: int, angle: float) -> None:
    [found] = read(scene((np.rot90(marker(17), quarters), 400, 300)), markers=True)
    assert (found.angle_deg - angle + 180) % 360 - 180 == pytest.approx(0, abs=2)


@pytest.mark.parametrize("seed", range(6))
def test_turned_tilted_and_noisy_codes_are_read(seed: int) -> None:
    rng = np.random.default_rng(seed)
    flat, side = qr("badge 17", 5), qr("badge 17", 5).shape[0]
    corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(-30, 30), 1)
    tilted = np.c_[corners + rng.uniform(-0.06, 0.06, (4, 2)) * side, np.ones(4)] @ turn.T + (500, 250)
    bend = cv2.getPerspectiveTransform(corners, tilted.astype(np.float32))
    picture = scene(seed=seed)
    drawn = cv2.warpPerspective(flat, bend, (1280, 720))
    where = cv2.warpPerspective(np.full_like(flat, 255), bend, (1280, 720)) > 127
    picture[where] = drawn[where][:, None]
    assert [reading.text for reading in read(picture)] == ["badge 17"]


def test_what_is_no_text_or_too_long_is_left_out_and_hides_nothing() -> None:
    long = qr("x" * (MAX_TEXT_BYTES + 1), 3)
    picture = scene((long, 20, 20), (qr("short"), 900, 100), size=(1280, 720))
    assert [reading.text for reading in read(picture)] == ["short"]


def test_a_reader_that_cannot_decode_one_still_reads_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(qr=True, markers=None)
    real: Any = reader._qr
    calls: list[object] = []

    class Stumbling:
        def detectMulti(self, grey: U8) -> object:
            return real.detectMulti(grey)

        def decode(self, grey: U8, square: object) -> object:
            calls.append(square)
            if len(calls) == 1:
                raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
            return real.decode(grey, square)

    monkeypatch.setattr(reader, "_qr", Stumbling())
    found = reader.read(scene((qr("badge 1"), 100, 100), (qr("badge 2"), 700, 300)))
    assert len(calls) == 2 and len(found) == 1


@pytest.mark.parametrize("shape", [(0, 0, 3), (1, 500, 3), (15, 15, 3), (16, 16, 3), (720, 16, 3), (40, 40)])
def test_odd_pictures_hold_nothing(shape: tuple[int, ...]) -> None:
    assert read(np.zeros(shape, np.uint8), markers=True) == []
    assert read(np.random.default_rng(0).integers(0, 255, shape, np.uint8), markers=True) == []


def test_an_opencv_without_markers_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "aruco")
    Reader(qr=True, markers=None)
    with pytest.raises(
        HardwareError, match=r"codes.markers: this box's OpenCV .* cannot read markers: versions before 4.7"
    ):
        Reader(qr=True, markers="apriltag_36h11")


def naming(
    clock: bool = True, spent: frozenset[str] = frozenset(), groups: dict[str, list[str]] | None = None
) -> Naming:
    return Naming(b"names", [KEY], lambda _: clock, spent.__contains__, groups or {})


def name(text: str, **settings: object) -> str:
    reading = Reading("qr", text, np.zeros((4, 2), np.float32))
    return naming(**settings).code(reading, 0.0, NOW).name  # type: ignore[arg-type]


def test_a_name_stands_for_a_text_and_does_not_tell_it() -> None:
    assert name("badge 17") == name("badge 17") != name("badge 18")
    assert name("badge 17").startswith("qr-") and len(name("badge 17")) == 19
    other = Naming(b"other", [], lambda _: True, lambda _: False, {})
    assert other.code(Reading("qr", "badge 17", np.zeros((4, 2), np.float32)), 0.0, NOW).name != name("badge 17")


def test_groups_are_those_that_hold_the_name() -> None:
    number = Reading("marker", "17", np.zeros((4, 2), np.float32))
    named = naming(groups={"drivers": ["marker-17", "marker-18"], "all": ["marker-17"]})
    assert named.code(number, 0.0, NOW).groups == ("drivers", "all")


@pytest.mark.parametrize(
    ("state", "issued", "clock", "spent"),
    [
        ("valid", NOW - 10, True, False),
        ("valid", NOW + 60, True, False),  # the issuer's clock is a little ahead
        ("early", NOW + 600, True, False),
        ("expired", NOW - 4000, True, False),
        ("spent", NOW - 10, True, True),
        ("no_clock", NOW - 10, False, False),
        ("no_clock", NOW - 4000, False, True),
    ],
)
def test_what_becomes_of_a_token(state: str, issued: float, clock: bool, spent: bool) -> None:
    text = signed(now=issued)
    reading = Reading("qr", text, np.zeros((4, 2), np.float32))
    first = naming().code(reading, 0.0, NOW)
    assert first.token is not None
    used = frozenset([first.token.ident]) if spent else frozenset()
    code = naming(clock, used).code(reading, 0.0, NOW)
    assert code.token is not None and code.token.state == state
    assert code.name == f"token-{code.token.ident}"


def test_a_token_of_somebody_else_is_bad_and_nothing_of_it_is_taken() -> None:
    reading = Reading("qr", "EA1:" + "A" * 84, np.zeros((4, 2), np.float32))
    code = naming().code(reading, 0.0, NOW)
    assert code.token is not None and code.token.state == "bad" and code.token.purpose == ""
    assert code.name.startswith("qr-")
