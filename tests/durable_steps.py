"""The power goes at the so-manieth thing that is made durable: calls are counted, and the one that is too many never happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


class PowerCut(BaseException):
    """Nothing more is written."""


class Steps:
    """What was made durable. Called with a number it lets the power go there, with None never; the list then grows anew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._limit: int | None = None
        self.done: list[str] = []

    def count(self, where: object, name: str, argument: int = 0) -> None:
        """Let ``where.name`` be such a thing; ``argument`` says what it is about."""
        work: Callable[..., object] = getattr(where, name)

        def call(*args: object, **kwargs: object) -> object:
            if self._limit is not None and len(self.done) >= self._limit:
                raise PowerCut
            self.done.append(f"{name} {Path(str(args[argument])).name}")
            return work(*args, **kwargs)

        self._patch.setattr(where, name, call)

    def __call__(self, number: int | None) -> list[str]:
        self._limit = number
        self.done.clear()
        return self.done
