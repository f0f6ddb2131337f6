"""Tokens: only what a key of ours signed is believed, whatever somebody writes into a code."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.codes import token
from tests.code_fixtures import KEY, OTHER_KEY

NOW = 1_800_000_000.0
purposes = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,30}", fullmatch=True)
holders = st.text(max_size=12).filter(str.isprintable)


@given(purposes, holders, st.booleans(), st.integers(1, token.MAX_LIFE_S))
def test_what_was_signed_is_read_again(purpose: str, holder: str, once: bool, life_s: int) -> None:
    text = token.make(KEY, purpose=purpose, holder=holder, once=once, now=NOW, life_s=life_s)
    claims = token.read(text, [OTHER_KEY, KEY])
    assert claims is not None and len(text) <= token.MAX_TEXT
    assert (claims.purpose, claims.holder, claims.once) == (purpose, holder, once)
    assert (claims.issued, claims.expires) == (int(NOW), int(NOW) + life_s)
    assert token.read(text, [OTHER_KEY]) is None
    assert token.read(text, []) is None


@given(st.data())
def test_no_changed_token_says_anything_else(data: st.DataObject) -> None:
    text = token.make(KEY, purpose="door", holder="guest-17", once=True, now=NOW, life_s=60)
    whole = bytearray(base64.b32decode(text[4:] + "=" * (-len(text[4:]) % 8)))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    assert token.read(token.PREFIX + base64.b32encode(whole).decode().rstrip("="), [KEY]) is None


@given(st.text(max_size=300) | st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=", max_size=220).map(token.PREFIX.__add__))
def test_anything_else_is_no_token(text: str) -> None:
    assert token.read(text, [KEY]) is None


@given(st.binary(max_size=120))
def test_signed_by_us_but_of_another_make_is_no_token(body: bytes) -> None:
    signed = body + token._mac(KEY, body)
    text = token.PREFIX + base64.b32encode(signed).decode().rstrip("=")
    claims = token.read(text, [KEY])
    assert claims is None or claims.issued < claims.expires


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"purpose": "Door"}, "purpose 'Door'"),
        ({"purpose": ""}, "purpose ''"),
        ({"holder": "x" * 49}, "at most 48 bytes"),
        ({"holder": "a\nb"}, "can be printed"),
        ({"life_s": 0.5}, "366 days"),
        ({"life_s": 400 * 86400}, "366 days"),
    ],
)
def test_what_cannot_be_is_not_made(changes: dict[str, object], says: str) -> None:
    wanted = {"purpose": "door", "holder": "", "once": True, "now": NOW, "life_s": 60} | changes
    with pytest.raises(ValueError, match=says):
        token.make(KEY, **wanted)  # type: ignore[arg-type]


def test_two_tokens_for_the_same_differ() -> None:
    one, two = (token.make(KEY, purpose="door", holder="", once=True, now=NOW, life_s=60) for _ in range(2))
    assert one != two
