"""The detector: MobileNetV2 trunk, depthwise FPN/PAN neck, decoupled anchor-free head.

Made of what an Edge TPU runs: convolution, depthwise convolution, ReLU6, addition, nearest-neighbour doubling. Padding is
TensorFlow's SAME everywhere (for stride 2 and an even side: nothing before, one after), so that Google's weights fit and
a TFLite file needs no PAD. The trunk has no batch norm (it came folded); neck and head have, folded at export.

Input (B,3,H,W) RGB, ``(value - 127.5) / 127.5``, H and W multiples of 32. ``forward`` gives for each stride 8, 16, 32 the raw maps:
``(B,C,h,w)`` score logits and ``(B,4,h,w)`` logarithms of the distances left, top, right, bottom in strides.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from training.trunk import Weights

STRIDES = (8, 16, 32)
RawMaps = list[tuple[Tensor, Tensor]]
_OUT = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
_STRIDE = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
FULL_HIDDEN = (32, 96, 144, 144, 192, 192, 192, 384, 384, 384, 384, 576, 576, 576, 960, 960, 960)
"""Expanded channels of blocks 0 to 16 in the original; block 0 expands nothing, there they are the stem's."""
_TAPS = (6, 13)
"""Blocks whose expansion feeds the neck at strides 8 and 16."""


@dataclass(frozen=True)
class NetworkSpec:
    """What the network looks like. ``hidden`` below the original's is a pruned trunk; ``top`` 0 leaves out ``Conv_1``.

    For a classifier ``hidden`` may be shorter: the trunk ends after that many blocks.
    """

    classes: int = 1
    hidden: tuple[int, ...] = FULL_HIDDEN
    top: int = 1280
    width: int = 96
    neck_depth: int = 2
    head_depth: int = 2
    kernel: int = 3


class Conv(nn.Module):
    """Convolution with SAME padding, optional batch norm, optional ReLU6."""

    def __init__(
        self, cin: int, cout: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, norm: bool, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups, bias=not norm)
        self.bn: nn.Module = nn.BatchNorm2d(cout, eps=1e-3, momentum=0.03) if norm else nn.Identity()
        self.act: nn.Module = nn.ReLU6() if act else nn.Identity()
        total = max(kernel - stride, 0)
        self.pad = (total // 2, total - total // 2) * 2 if stride > 1 else ()

    def forward(self, x: Tensor) -> Tensor:
        """(B,cin,H,W) to (B,cout,H/stride,W/stride)."""
        if self.pad:
            x = F.pad(x, self.pad)
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class Block(nn.Module):
    """MobileNetV2's inverted residual (Sandler et al. 2018, fig. 3): expand, depthwise, project without activation."""

    def __init__(self, cin: int, hidden: int, cout: int, stride: int, *, expand: bool) -> None:
        super().__init__()
        self.expand = Conv(cin, hidden, norm=False) if expand else None
        self.depthwise = Conv(hidden, hidden, 3, stride, groups=hidden, norm=False)
        self.project = Conv(hidden, cout, norm=False, act=False)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and its expansion for whoever taps it."""
        hidden = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(hidden))
        return (x + y if self.residual else y), hidden


class Trunk(nn.Module):
    """MobileNetV2 from the picture to strides 8, 16 and 32, or its first blocks."""

    def __init__(self, hidden: tuple[int, ...], top: int) -> None:
        super().__init__()
        if not 0 < len(hidden) <= len(_OUT) or (top and len(hidden) < len(_OUT)):
            raise ValueError(
                f"hidden has {len(hidden)} numbers: one for each of up to {len(_OUT)} blocks, all for a top"
            )
        self.stem = Conv(3, hidden[0], 3, 2, norm=False)
        inputs = (hidden[0], *_OUT[:-1])
        self.blocks = nn.ModuleList(
            Block(inputs[i], hidden[i], _OUT[i], _STRIDE[i], expand=i > 0) for i in range(len(hidden))
        )
        last = _OUT[len(hidden) - 1]
        self.top = Conv(last, top, norm=False) if top else None
        self.channels = (*(hidden[i] for i in _TAPS if i < len(hidden)), top or last)
        """Of what ``forward`` gives."""
        self.stride = 2 * math.prod(_STRIDE[: len(hidden)])
        self.frozen = 0

    def freeze(self, blocks: int) -> None:
        """Take stem and the first ``blocks`` blocks out of training."""
        self.frozen = blocks
        for part in (self.stem, *self.blocks[:blocks]):
            part.requires_grad_(False)

    def _run(self, x: Tensor, first: int, last: int, taps: list[Tensor]) -> Tensor:
        for i in range(first, last):
            x, hidden = self.blocks[i](x)
            if i in _TAPS:
                taps.append(hidden)
        return x

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at strides 8, 16, 32, as far as the blocks go; the last one's last."""
        taps: list[Tensor] = []
        if self.frozen:
            with torch.no_grad():
                x = self._run(self.stem(x), 0, self.frozen, taps)
        else:
            x = self.stem(x)
        x = self._run(x, self.frozen, len(self.blocks), taps)
        return [*taps, x if self.top is None else self.top(x)]


def _separable(width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(Conv(width, width, kernel, stride, groups=width, norm=True), Conv(width, width, norm=True))


class Neck(nn.Module):
    """Top-down and bottom-up fusion by addition (FPN, Lin et al. 2017; PAN, Liu et al. 2018), all levels equally wide."""

    def __init__(self, channels: tuple[int, ...], width: int, depth: int, kernel: int) -> None:
        super().__init__()

        def stage() -> nn.Sequential:
            return nn.Sequential(*(_separable(width, kernel) for _ in range(depth)))

        self.lateral = nn.ModuleList(Conv(c, width, norm=True) for c in channels)
        self.down = nn.ModuleList(stage() for _ in channels[1:])
        self.shrink = nn.ModuleList(_separable(width, 3, 2) for _ in channels[1:])
        self.up = nn.ModuleList(stage() for _ in channels[1:])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Three maps of ``width`` channels."""
        fine, middle, coarse = (lateral(f) for lateral, f in zip(self.lateral, features, strict=True))
        middle = self.down[0](middle + F.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        fine = self.down[1](fine + F.interpolate(middle, scale_factor=2.0, mode="nearest"))
        middle = self.up[0](middle + self.shrink[0](fine))
        coarse = self.up[1](coarse + self.shrink[1](middle))
        return [fine, middle, coarse]


class Head(nn.Module):
    """Scores and boxes of one level on separate branches."""

    def __init__(self, width: int, depth: int, kernel: int, classes: int) -> None:
        super().__init__()
        self.score_branch = nn.Sequential(*(_separable(width, kernel) for _ in range(depth)))
        self.box_branch = nn.Sequential(*(_separable(width, kernel) for _ in range(depth)))
        self.score = nn.Conv2d(width, classes, 1)
        self.box = nn.Conv2d(width, 4, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.01)
        # A prior of 1 % (focal loss, Lin et al. 2017, §4.1), and boxes that begin about as large as the level is for.
        nn.init.constant_(self.score.bias, -4.6)
        nn.init.constant_(self.box.bias, 0.9)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw score and box maps."""
        return self.score(self.score_branch(x)), self.box(self.box_branch(x))


class Detector(nn.Module):
    """Trunk, neck and heads."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        if len(spec.hidden) != len(FULL_HIDDEN):
            raise ValueError(f"a detector's hidden needs {len(FULL_HIDDEN)} numbers, has {len(spec.hidden)}")
        self.spec = spec
        self.trunk = Trunk(spec.hidden, spec.top)
        self.neck = Neck(self.trunk.channels, spec.width, spec.neck_depth, spec.kernel)
        self.heads = nn.ModuleList(Head(spec.width, spec.head_depth, spec.kernel, spec.classes) for _ in STRIDES)

    def forward(self, x: Tensor) -> RawMaps:
        """Raw maps by level, finest first."""
        return [head(f) for head, f in zip(self.heads, self.neck(self.trunk(x)), strict=True)]


def decode(maps: RawMaps) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Raw maps flattened, finest level first, row by row: score logits (B,N,C), boxes (B,N,4) xyxy in input pixels,
    cell centres (N,2) in pixels, strides (N,)."""
    logits, boxes, centres, strides = [], [], [], []
    for (score, raw), stride in zip(maps, STRIDES, strict=True):
        h, w = score.shape[-2:]
        ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        centre = (torch.stack((xs, ys), -1).reshape(-1, 2) + 0.5) * stride
        distance = raw.flatten(2).transpose(1, 2).float().clamp(-4.0, 5.0).exp() * stride
        boxes.append(torch.cat((centre - distance[..., :2], centre + distance[..., 2:]), -1))
        logits.append(score.flatten(2).transpose(1, 2).float())
        centres.append(centre)
        strides.append(torch.full((h * w,), float(stride)))
    return torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(centres), torch.cat(strides)


def _target(layer: str) -> str:
    if layer in ("Conv", "Conv_1"):
        return {"Conv": "stem", "Conv_1": "top"}[layer]
    match = re.fullmatch(r"expanded_conv(?:_(\d+))?/(expand|depthwise|project)", layer)
    if match is None:
        raise ValueError(f"layer {layer!r} is not one of the trunk's")
    return f"blocks.{match[1] or 0}.{match[2]}"


def load_weights(trunk: Trunk, weights: Weights) -> None:
    """Put Google's weights in a trunk whose blocks are as wide as theirs."""
    renamed = {}
    for name, value in weights.items():
        layer, kind = name.rsplit(".", 1)
        renamed[f"{_target(layer)}.conv.{kind}"] = torch.from_numpy(value)
    own = trunk.state_dict()
    trunk.load_state_dict({name: value for name, value in renamed.items() if name in own})
