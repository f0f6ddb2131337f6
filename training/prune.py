"""A slimmer trunk from Google's: hidden channels left out, the projection after them fitted anew to make up for it.

He et al. 2017 (Channel Pruning, §3.1): channels that carry least are dropped, then the 1×1 convolution that reads them is
solved by least squares so that the block gives what the original's gave on real pictures, errors of earlier blocks included.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from training.network import Block, Conv, Trunk

RIDGE = 1e-5
"""Share of the mean diagonal added to the normal equations."""
POINTS = 6000
"""Places looked at in each batch and block."""


@torch.no_grad()
def prune(full: Trunk, slim: Trunk, pictures: list[Tensor], seed: int = 0) -> list[float]:
    """Fill ``slim`` from ``full`` so that it does the same on ``pictures`` (B,3,H,W each). Gives each block's relative error."""
    generator = torch.Generator().manual_seed(seed)
    errors = []
    originals = [full.stem(x) for x in pictures]
    keep = _worth(originals).topk(slim.stem.conv.out_channels).indices.sort().values
    _take_rows(slim.stem, full.stem, keep)
    slims = [slim.stem(x) for x in pictures]
    for i, (whole, thin) in enumerate(zip(full.blocks, slim.blocks, strict=True)):
        errors.append(_fit(whole, thin, originals, slims, generator=generator, keep=keep if i == 0 else None))
        originals = [whole(x)[0] for x in originals]
        slims = [thin(x)[0] for x in slims]
    if slim.top is not None and full.top is not None:
        count = slim.top.conv.out_channels
        keep = _worth([full.top(x) for x in originals]).topk(count).indices.sort().values
        _take_rows(slim.top, full.top, keep)
    return errors


def _worth(maps: list[Tensor]) -> Tensor:
    """Each channel's spread over the pictures: what is constant can go into a bias."""
    return torch.stack([m.transpose(0, 1).flatten(1).var(dim=1) for m in maps]).mean(0)


def _take_rows(target: Conv, source: Conv, keep: Tensor) -> None:
    target.conv.weight.copy_(source.conv.weight[keep])
    assert target.conv.bias is not None and source.conv.bias is not None
    target.conv.bias.copy_(source.conv.bias[keep])


def _fit(
    whole: Block,
    thin: Block,
    originals: list[Tensor],
    slims: list[Tensor],
    *,
    generator: torch.Generator,
    keep: Tensor | None,
) -> float:
    if keep is None:
        assert whole.expand is not None and thin.expand is not None
        reader = whole.project.conv.weight.flatten(1).norm(dim=0) ** 2
        hidden = [whole.depthwise(whole.expand(x)) for x in slims]
        keep = (_worth(hidden) * reader).topk(thin.expand.conv.out_channels).indices.sort().values
        _take_rows(thin.expand, whole.expand, keep)
    _take_rows(thin.depthwise, whole.depthwise, keep)
    rows = list(_points(whole, thin, originals, slims, generator))
    a, b = torch.cat([r[0] for r in rows]).double(), torch.cat([r[1] for r in rows]).double()
    a = F.pad(a, (0, 1), value=1.0)
    gram = a.T @ a
    gram += torch.eye(len(gram), dtype=gram.dtype) * gram.diagonal().mean() * RIDGE
    solution = torch.linalg.solve(gram, a.T @ b)
    thin.project.conv.weight.copy_(solution[:-1].T[:, :, None, None])
    assert thin.project.conv.bias is not None
    thin.project.conv.bias.copy_(solution[-1])
    return float((a @ solution - b).pow(2).sum() / (b - b.mean(0)).pow(2).sum())


def _points(
    whole: Block, thin: Block, originals: list[Tensor], slims: list[Tensor], generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Hidden values of the slim block, and what its projection has to give there."""
    for original, own in zip(originals, slims, strict=True):
        wanted = whole(original)[0]
        hidden = thin.depthwise(own if thin.expand is None else thin.expand(own))
        if thin.residual:
            wanted = wanted - own
        a, b = (m.permute(0, 2, 3, 1).flatten(0, 2) for m in (hidden, wanted))
        some = torch.randint(len(a), (min(POINTS, len(a)),), generator=generator)
        yield a[some], b[some]
