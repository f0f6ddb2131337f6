"""YOLOv8, v9 and v11, and whatever writes its answer as they do.

One tensor (1, 4+C, N): centre x, centre y, width, height, then a probability for each class. Or two, as exports for
integer arithmetic have it, since pixels and probabilities share no scale: (1, 4, N) and (1, C, N).
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.detect.decoders.dense import candidates
from edge_agent.detect.decoders.parts import Candidates, boxes_and_scores, columns, wrong
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Candidates at or above ``threshold``, each with its best class."""
    across, classes = network.decode.transposed, columns(network)
    if (both := boxes_and_scores(outputs, network, transposed=across)) is not None:
        return candidates(*both, network, threshold, "cxcywh")
    one, four, many = (f"[1, N, {n}]" if across else f"[1, {n}, N]" for n in (4 + classes, 4, classes))
    raise wrong(network, outputs, f"{one} ({classes} classes), or {four} and {many}")
