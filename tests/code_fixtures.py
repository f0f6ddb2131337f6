"""Codes as a camera sees them: drawn by OpenCV, turned, tilted, made small and noisy; and as use cases are shown them."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from edge_agent.codes import token
from edge_agent.types import U8, Code, Token

KEY = b"0123456789abcdef0123456789abcdef"
OTHER_KEY = b"another key of at least 32 bytes, really"


def qr(text: str, px: int = 6) -> U8:
    """Grey, ``px`` pixels for each module, with a white border."""
    modules = np.pad(np.asarray(cv2.QRCodeEncoder.create().encode(text), np.uint8), 2, constant_values=255)
    return np.asarray(np.kron(modules, np.ones((px, px), np.uint8)), np.uint8)


def marker(number: int, side: int = 90, dictionary: int = cv2.aruco.DICT_APRILTAG_36H11) -> U8:
    """Grey, with a white border."""
    drawn = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(dictionary), number, side)
    return np.pad(np.asarray(drawn, np.uint8), side // 6, constant_values=255)


def scene(*placed: tuple[U8, int, int], size: tuple[int, int] = (1280, 720), seed: int = 0) -> U8:
    """A picture of (width, height) of something grey and noisy, with codes at their places."""
    rng = np.random.default_rng(seed)
    picture = np.clip(rng.normal(120, 6, (size[1], size[0])), 0, 255).astype(np.uint8)
    for code, x, y in placed:
        picture[y : y + code.shape[0], x : x + code.shape[1]] = code
    return np.asarray(cv2.cvtColor(cv2.GaussianBlur(picture, (3, 3), 0.6), cv2.COLOR_GRAY2BGR), np.uint8)


def signed(
    purpose: str = "door",
    *,
    once: bool = True,
    life_s: float = 3600,
    now: float | None = None,
    holder: str = "guest-17",
) -> str:
    """A token, as text."""
    issued = time.time() if now is None else now
    return token.make(KEY, purpose=purpose, holder=holder, once=once, now=issued, life_s=life_s)


def key_file(folder: Path, key: bytes = KEY) -> Path:
    """Of tokens."""
    file = folder / "token.key"
    file.write_bytes(key + b"\n")
    return file


def seen(
    name: str = "marker-17",
    at: tuple[float, float] = (0.5, 0.5),
    t: float = 0.0,
    *,
    said: Token | None = None,
    groups: tuple[str, ...] = (),
    angle_deg: float = 0.0,
    size: tuple[int, int] = (1600, 900),
) -> Code:
    """A code whose middle is ``at`` fractions of the frame."""
    x, y = at[0] * size[0], at[1] * size[1]
    kind = "marker" if name.startswith("marker") else "qr"
    return Code(kind, name, (x - 20, y - 20, x + 20, y + 20), angle_deg, t, said, groups)  # type: ignore[arg-type]


def valid(purpose: str = "door", ident: str = "00112233aabbccdd", *, once: bool = True, holder: str = "") -> Token:
    """A token as it comes from the stage that reads codes."""
    return Token("valid", ident, purpose, holder, once, 1_800_000_000, 1_900_000_000)
