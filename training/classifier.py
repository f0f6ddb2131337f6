"""The classifier of head crops: the trunk's first blocks, one convolution over the whole last map, independent scores.

Made of the same layers as the detector. What pools is a depthwise convolution as large as the map with a stride as large: one
number a channel, and it learns where in the crop to look, which a mean cannot.

Input (B,3,S,S) as the detector's, S the size it was made for. ``forward`` gives ``(B,A,1,1)`` raw scores, a logit for each attribute,
each by itself: that one is unsure says nothing of the others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from training.network import Conv, NetworkSpec, Trunk

SMOOTH = 0.02
"""Labels are 0.02 and 0.98: some are wrong, and a network that is never quite sure stays readable in eight bits."""


class Classifier(nn.Module):
    """Trunk, mixing convolution, pooling convolution, scores."""

    def __init__(self, spec: NetworkSpec, size: int) -> None:
        super().__init__()
        if spec.top:
            raise ValueError("a classifier has no top: set network.top to 0")
        self.spec = spec
        self.trunk = Trunk(spec.hidden, 0)
        cells = size // self.trunk.stride
        if cells * self.trunk.stride != size or cells < 2:
            raise ValueError(
                f"size {size} does not fit {len(spec.hidden)} blocks, which end at stride {self.trunk.stride}"
            )
        self.mix = Conv(self.trunk.channels[-1], spec.width, norm=True)
        self.pool = Conv(spec.width, spec.width, cells, cells, groups=spec.width, norm=True)
        self.score = nn.Conv2d(spec.width, spec.classes, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tensor) -> list[tuple[Tensor]]:
        """One level with raw scores only."""
        return [(self.score(self.pool(self.mix(self.trunk(x)[-1]))),)]


def attribute_losses(logits: Tensor, attributes: Tensor, shares: Tensor) -> list[Tensor]:
    """Binary cross-entropy of each attribute, over those of whom it is known. ``logits`` (B,A), ``attributes`` (B,A): 1, 0, -1.

    ``shares`` (A,) is how many of those have it: both kinds weigh the same, so that 0.5 leans to neither, whatever the data's mix.
    """
    known, has = attributes >= 0, attributes.clamp(min=0).float()
    wanted = has * (1 - 2 * SMOOTH) + SMOOTH
    weight = torch.where(has > 0, 0.5 / shares, 0.5 / (1 - shares)) * known
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight
    return list(each.sum(0) * (logits.shape[1] / len(logits)))
