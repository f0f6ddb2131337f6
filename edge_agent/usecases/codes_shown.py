"""Which codes were shown a moment ago, and by whom.

A code is read now and then, not in every frame, so one that was read counts for ``CODE_S``. It is whoever's in whose box it was
when it came; between two of whom that is equally true, it is unknown whose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.types import F64, I64, Code, Token
from edge_agent.usecases.evidence import FALSE, TRUE, UNKNOWN
from edge_agent.usecases.overlap import has

CODE_S = 3.0
_MOST = 64


def fits(code: Code, asked: str) -> bool:
    """Whether it is what a condition asks for: ``any``, ``token``, ``token:PURPOSE``, a group of ``codes.names``, or a code's name.

    A token that is not valid is nothing at all.
    """
    if code.token is not None and code.token.state != "valid":
        return False
    if asked == "any":
        return True
    kind, _, purpose = asked.partition(":")
    if kind == "token":
        return code.token is not None and purpose in ("", code.token.purpose)
    return asked == code.name or asked in code.groups


@dataclass(slots=True)
class _Shown:
    code: Code
    t: float
    sure: set[int]
    maybe: set[int]


class CodesShown:
    """Of one camera. Not thread-safe, fed in frame order; times are seconds on the camera's clock."""

    def __init__(self) -> None:
        self._shown: dict[str, _Shown] = {}

    def update(self, codes: Sequence[Code], ids: I64, boxes: F64, t: float) -> None:
        """Go on to ``t``: the codes that came with this frame, and ids and boxes (P,4) of the people seen in it."""
        if self._shown:
            self._shown = {name: shown for name, shown in self._shown.items() if t - shown.t <= CODE_S}
        for code in codes:
            if code.name not in self._shown and len(self._shown) >= _MOST:
                continue
            whose = has(boxes, np.array([code.box], np.float64), np.ones(1, bool))
            self._shown[code.name] = _Shown(
                code, t, set(ids[whose == TRUE].tolist()), set(ids[whose == UNKNOWN].tolist())
            )

    def rename(self, renamed: Sequence[tuple[int, int]]) -> None:
        """Newcomers turned out to be somebody known: ids they had, and have now."""
        for newcomer, known in renamed:
            for shown in self._shown.values():
                for ids in (shown.sure, shown.maybe):
                    if newcomer in ids:
                        ids.discard(newcomer)
                        ids.add(known)

    def now(self, asked: str) -> list[Code]:
        """Those that fit, the latest read last."""
        return [shown.code for shown in self._shown.values() if fits(shown.code, asked)]

    def tokens(self, purpose: str) -> list[Token]:
        """The valid tokens for a purpose, the latest read last."""
        return [code.token for code in self.now(f"token:{purpose}") if code.token is not None]

    def by(self, asked: str, ids: I64) -> NDArray[np.int8]:
        """(N,) ``Truth``: whether each of ``ids`` shows one."""
        found = np.full(len(ids), FALSE, np.int8)
        for shown in self._shown.values():
            if fits(shown.code, asked):
                for whose, truth in ((shown.maybe, UNKNOWN), (shown.sure, TRUE)):
                    if whose:
                        found = np.maximum(found, np.where(np.isin(ids, list(whose)), truth, FALSE).astype(np.int8))
        return found
