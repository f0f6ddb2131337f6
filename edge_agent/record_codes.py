"""Codes in a ``--record`` file: by their names, so that a record holds nothing that could be shown to a camera again."""

from __future__ import annotations

import math
import re
from typing import Any, get_args

from edge_agent.types import Code, CodeKind, Token, TokenState

_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")


def code_written(code: Code) -> dict[str, Any]:
    """As JSON."""
    said: dict[str, Any] = {
        "kind": code.kind,
        "name": code.name,
        "box": [round(value, 1) for value in code.box],
        "angle_deg": round(code.angle_deg, 1),
        "t": round(code.t, 6),
    }
    if code.groups:
        said["groups"] = list(code.groups)
    token = code.token
    if token is not None:
        said["token"] = {
            "state": token.state,
            "id": token.ident,
            "for": token.purpose,
            "holder": token.holder,
            "once": token.once,
            "issued": token.issued,
            "expires": token.expires,
        }
    return said


def code_read(said: dict[str, Any]) -> Code:
    """From JSON. Raises KeyError, TypeError and ValueError for what is none."""
    x1, y1, x2, y2 = (_number(value) for value in said["box"])
    kind, name = said["kind"], said["name"]
    if kind not in get_args(CodeKind) or not _NAME.fullmatch(name):
        raise ValueError("a code's kind or name is none")
    token = _token(said["token"]) if "token" in said else None
    groups = tuple(str(group)[:63] for group in said.get("groups", [])[:200])
    return Code(kind, name, (x1, y1, x2, y2), _number(said["angle_deg"]), _number(said["t"]), token, groups)


def _token(said: dict[str, Any]) -> Token:
    if said["state"] not in get_args(TokenState):
        raise ValueError("a token's state is none")
    times = int(_number(said["issued"])), int(_number(said["expires"]))
    texts = str(said["id"])[:16], str(said["for"])[:31], str(said["holder"])[:48]
    return Token(said["state"], *texts, said["once"] is True, *times)


def _number(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and abs(number) <= 1e11):
        raise ValueError("a code's number is out of its range")
    return number
