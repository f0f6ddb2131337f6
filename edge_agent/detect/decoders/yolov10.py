"""YOLOv10, YOLO26 and other networks that suppress inside: one tensor (1, N, 6).

A row is x1, y1, x2, y2 in input pixels, score, class number. Rows that hold no object have a low score.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.detect.decoders.listed import candidates
from edge_agent.detect.decoders.parts import Candidates, by_column, wrong
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Objects at or above ``threshold``."""
    across = not network.decode.transposed
    rows = by_column(outputs[0], 6, transposed=across) if len(outputs) == 1 else None
    if rows is None:
        raise wrong(network, outputs, "[1, N, 6]" if across else "[1, 6, N]")
    return candidates(rows[:4], rows[4], rows[5], network, threshold, "xyxy")
