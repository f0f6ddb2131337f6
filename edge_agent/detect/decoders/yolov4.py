"""YOLOv4 and Scaled-YOLOv4 as their ONNX exports write them: boxes (1, N, 1, 4) or (1, N, 4), confidences (1, N, C).

Boxes are xyxy, most often fractions of the input (``boxes: normalised``); a confidence is objectness times class.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.detect.decoders.dense import candidates
from edge_agent.detect.decoders.parts import Candidates, boxes_and_scores, columns, wrong
from edge_agent.detect.manifest import Network
from edge_agent.types import F32


def decode(outputs: Sequence[F32], network: Network, threshold: float) -> Candidates:
    """Candidates at or above ``threshold``, each with its best class."""
    # Boxes come in rows here: the family's usual way round is the transposed one of YOLOv8.
    across, classes = not network.decode.transposed, columns(network)
    if len(outputs) == 2:
        four = outputs[0]
        if four.ndim == 4 and four.shape[2] == 1:
            four = four[:, :, 0]
        if (both := boxes_and_scores((four, outputs[1]), network, transposed=across)) is not None:
            return candidates(*both, network, threshold, "xyxy")
    shape = "[1, N, 1, 4] or [1, N, 4] and [1, N, {}]" if across else "[1, 4, N] and [1, {}, N]"
    raise wrong(network, outputs, shape.format(classes))
