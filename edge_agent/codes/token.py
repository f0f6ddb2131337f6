"""Signed tokens: what a code says that this box is to believe, until when, and whether only once.

The text is ``EA1:`` and Base32 (RFC 4648, upper case, no padding), so that a QR code keeps it in its alphanumeric mode:

===============  =====================================================================================
bytes            what
===============  =====================================================================================
1                1: may be used once; 0: until it expires
8                id, random
4, 4             issued and expires, seconds since 1970, big-endian
1 + n            n and the purpose, at most 31 characters of a to z, 0 to 9, ``_``, ``-``
1 + n            n and the holder, at most 48 bytes of UTF-8: who or what it was made for; may be empty
16               HMAC-SHA-256 (RFC 2104) over ``edge-agent token 1``, a zero byte and all before, its first half
===============  =====================================================================================

Half of the MAC is what RFC 2104 §5 allows at least; in a code, every byte more is harder to read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

PREFIX = "EA1:"
MAX_TEXT = 200
"""Characters; the longest there can be has 187."""
MIN_KEY_BYTES = 32
MAX_LIFE_S = 366 * 86400
MAX_HOLDER_BYTES = 48
_CONTEXT = b"edge-agent token 1\0"
_PURPOSE = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")
_MAC = 16
_HEAD = struct.Struct(">B8sII")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. ``issued`` and ``expires`` are POSIX seconds, ``ident`` 16 hexadecimal digits."""

    ident: str
    purpose: str
    holder: str
    once: bool
    issued: int
    expires: int


def make(key: bytes, *, purpose: str, holder: str, once: bool, now: float, life_s: float) -> str:
    """A new token. Raises ValueError that says what of it cannot be."""
    if not _PURPOSE.fullmatch(purpose):
        raise ValueError(f"purpose {purpose!r}: 1 to 31 of a to z, 0 to 9, _ and -, the first no sign")
    name = holder.encode()
    if len(name) > MAX_HOLDER_BYTES or not holder.isprintable():
        raise ValueError(f"holder: at most {MAX_HOLDER_BYTES} bytes that can be printed")
    if not 1 <= life_s <= MAX_LIFE_S:
        raise ValueError(f"valid for {life_s:g} s: 1 second to 366 days are possible")
    head = _HEAD.pack(once, os.urandom(8), int(now), int(now + life_s))
    body = head + _text(purpose.encode()) + _text(name)
    return PREFIX + base64.b32encode(body + _mac(key, body)).decode().rstrip("=")


def read(text: str, keys: Sequence[bytes]) -> Claims | None:
    """What it says, where one of ``keys`` signed it; None else. Whether it has expired is for the caller to see."""
    if not text.startswith(PREFIX) or len(text) > MAX_TEXT:
        return None
    coded = text[len(PREFIX) :]
    try:
        whole = base64.b32decode(coded + "=" * (-len(coded) % 8))
    except (binascii.Error, ValueError):
        return None
    body, mac = whole[:-_MAC], whole[-_MAC:]
    fits = [hmac.compare_digest(_mac(key, body), mac) for key in keys]  # all: time must not tell which
    if not any(fits):
        return None
    return _claims(body)


def _claims(body: bytes) -> Claims | None:
    """None for what we would never have signed: the key is somebody else's as well, or an older format's."""
    try:
        once, ident, issued, expires = _HEAD.unpack_from(body)
        purpose, rest = _taken(body[_HEAD.size :])
        holder, rest = _taken(rest)
        claims = Claims(ident.hex(), purpose.decode("ascii"), holder.decode(), bool(once), issued, expires)
    except (struct.error, IndexError, UnicodeDecodeError):
        return None
    right = once <= 1 and not rest and _PURPOSE.fullmatch(claims.purpose) and claims.holder.isprintable()
    return claims if right and issued < expires <= issued + MAX_LIFE_S else None


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.new(key, _CONTEXT + body, hashlib.sha256).digest()[:_MAC]


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def _taken(data: bytes) -> tuple[bytes, bytes]:
    end = 1 + data[0]
    if len(data) < end:
        raise IndexError(end)
    return data[1:end], data[end:]
