"""YOLOX-nano's architecture with random weights, the yardstick for speed. Built from its paper (Ge et al. 2021,
arXiv:2107.08430) and CSPNet's: CSPDarknet of width 0.25 and depth 0.33 with depthwise convolutions and SiLU, PAFPN,
decoupled heads of 64 channels, 80 classes. Output (B,85,3549) at 416, as its published ONNX file before its transposition.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def _conv(cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups), nn.SiLU())


def _separable(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(cin, cin, 3, stride, cin), _conv(cin, cout))


class _Bottleneck(nn.Module):
    def __init__(self, width: int, *, shortcut: bool) -> None:
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(_conv(width, width), _separable(width, width)), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


class _Csp(nn.Module):
    def __init__(self, cin: int, cout: int, depth: int, *, shortcut: bool) -> None:
        super().__init__()
        half = cout // 2
        self.left, self.right, self.join = _conv(cin, half), _conv(cin, half), _conv(cout, cout)
        self.inner = nn.Sequential(*(_Bottleneck(half, shortcut=shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.join(torch.cat((self.inner(self.left(x)), self.right(x)), 1))
        return y


class _Spp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.shrink, self.join = _conv(width, width // 2), _conv(width * 2, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shrink(x)
        y: Tensor = self.join(torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], 1))
        return y


class YoloxNano(nn.Module):
    """The whole network; only its speed means anything."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.stem = _conv(12, 16, 3)
        self.dark2 = nn.Sequential(_separable(16, 32, 2), _Csp(32, 32, 1, shortcut=True))
        self.dark3 = nn.Sequential(_separable(32, 64, 2), _Csp(64, 64, 3, shortcut=True))
        self.dark4 = nn.Sequential(_separable(64, 128, 2), _Csp(128, 128, 3, shortcut=True))
        self.dark5 = nn.Sequential(_separable(128, 256, 2), _Spp(256), _Csp(256, 256, 1, shortcut=False))
        self.lateral, self.reduce = _conv(256, 128), _conv(128, 64)
        self.p4, self.p3 = _Csp(256, 128, 1, shortcut=False), _Csp(128, 64, 1, shortcut=False)
        self.bu2, self.bu1 = _separable(64, 64, 2), _separable(128, 128, 2)
        self.n3, self.n4 = _Csp(128, 128, 1, shortcut=False), _Csp(256, 256, 1, shortcut=False)
        self.stems = nn.ModuleList(_conv(c, 64) for c in (64, 128, 256))
        self.branches = nn.ModuleList(nn.Sequential(_separable(64, 64), _separable(64, 64)) for _ in range(6))
        self.outs = nn.ModuleList(nn.Conv2d(64, c, 1) for _ in range(3) for c in (4, 1, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(B,3,H,W) to (B,5+classes,N)."""
        x = torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)
        c3 = self.dark3(self.dark2(self.stem(x)))
        c4 = self.dark4(c3)
        p5 = self.lateral(self.dark5(c4))
        p4 = self.reduce(self.p4(torch.cat((F.interpolate(p5, scale_factor=2.0), c4), 1)))
        n2 = self.p3(torch.cat((F.interpolate(p4, scale_factor=2.0), c3), 1))
        n3 = self.n3(torch.cat((self.bu2(n2), p4), 1))
        n4 = self.n4(torch.cat((self.bu1(n3), p5), 1))
        found = []
        for i, level in enumerate((n2, n3, n4)):
            stem = self.stems[i](level)
            score, box = self.branches[2 * i](stem), self.branches[2 * i + 1](stem)
            box_out, object_out, class_out = self.outs[3 * i : 3 * i + 3]
            found.append(torch.cat((box_out(box), object_out(box).sigmoid(), class_out(score).sigmoid()), 1).flatten(2))
        return torch.cat(found, 2)


def export_reference(path: Path, size: int = 416) -> None:
    """Write it as ONNX with batch 1."""
    torch.manual_seed(0)
    model = YoloxNano().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter needs a further package
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, size, size),),
            path,
            input_names=["images"],
            output_names=["output"],
            opset_version=13,
            dynamo=False,
        )
