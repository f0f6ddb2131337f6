"""Which cell answers for which object, and how wrong its answer is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

TOP_K = 10
ALPHA, BETA = 1.0, 6.0
BOX_WEIGHT = 2.5


@dataclass(frozen=True)
class Targets:
    """Of one image: ``scores`` (N,C) in [0,1], ``boxes`` (N,4) where ``positive`` (N,), and ``counts`` (N,): not ignored."""

    scores: Tensor
    boxes: Tensor
    positive: Tensor
    counts: Tensor


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (...,4) xyxy, broadcast."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1) + (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    return overlap / (areas - overlap).clamp(min=1e-6)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes (N,4) paired row by row."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1).clamp(min=1e-6)
    union = ((a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - overlap).clamp(min=1e-6)
    return overlap / union - (hull - union) / hull


@torch.no_grad()
def assign(  # noqa: PLR0917 - the cells' three, then the objects' three
    logits: Tensor, boxes: Tensor, centres: Tensor, truth: Tensor, classes: Tensor, ignore: Tensor
) -> Targets:
    """Task-aligned assignment (Feng et al. 2021, TOOD, §3.2) for one image.

    ``logits`` (N,C), ``boxes`` (N,4), ``centres`` (N,2) of the cells; ``truth`` (M,4), ``classes`` (M,), ``ignore`` (M,).
    """
    n, c = logits.shape
    scores, chosen_boxes = torch.zeros(n, c), torch.zeros(n, 4)
    positive, counts = torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
    if ignore.any():
        hidden = truth[ignore]
        counts = ~((centres[:, None] > hidden[:, :2]) & (centres[:, None] < hidden[:, 2:])).all(-1).any(1)
    truth, classes = truth[~ignore], classes[~ignore]
    if not len(truth):
        return Targets(scores, chosen_boxes, positive, counts)
    inside = ((centres > truth[:, None, :2]) & (centres < truth[:, None, 2:])).all(-1)
    # A box so small that it has no cell's centre inside is given the nearest cell.
    lost = ~inside.any(1)
    if lost.any():
        middle = (truth[lost, :2] + truth[lost, 2:]) / 2
        inside[lost.nonzero().squeeze(1), torch.cdist(middle, centres).argmin(1)] = True
    overlap = iou(truth[:, None], boxes[None])
    aligned = logits.sigmoid()[:, classes].T ** ALPHA * overlap**BETA * inside + 1e-12 * inside
    top = aligned.topk(min(TOP_K, n), dim=1)
    taken = torch.zeros_like(inside).scatter_(1, top.indices, top.values > 0)
    # A cell that several objects want goes to the one it overlaps most.
    owner = torch.where(taken, overlap, -1.0).argmax(0)
    taken &= owner == torch.arange(len(truth))[:, None]
    aligned, best = aligned * taken, (overlap * taken).amax(1, keepdim=True)
    quality = aligned / aligned.amax(1, keepdim=True).clamp(min=1e-12) * best
    positive = taken.any(0)
    mine = owner[positive]
    chosen_boxes[positive] = truth[mine]
    scores[positive, classes[mine]] = quality[mine, positive.nonzero().squeeze(1)]
    return Targets(scores, chosen_boxes, positive, counts | positive)


def detection_loss(logits: Tensor, boxes: Tensor, targets: list[Targets]) -> tuple[Tensor, Tensor]:
    """Score and box loss of a batch; ``logits`` (B,N,C), ``boxes`` (B,N,4)."""
    wanted, counts = torch.stack([t.scores for t in targets]), torch.stack([t.counts for t in targets])
    positive = torch.stack([t.positive for t in targets])
    total = wanted.sum().clamp(min=1.0)
    scores = (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * counts[..., None]).sum() / total
    weight = wanted.sum(-1)[positive]
    truth = torch.stack([t.boxes for t in targets])[positive]
    box = ((1 - giou(boxes[positive], truth)) * weight).sum() / total
    return scores, BOX_WEIGHT * box


def distillation_loss(
    logits: Tensor, boxes: Tensor, teacher_logits: Tensor, teacher_boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """How far the student is from a teacher with the same cells: its scores everywhere, its boxes where it is sure."""
    wanted = teacher_logits.sigmoid()
    total = wanted.sum().clamp(min=1.0)
    gap = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    floor = F.binary_cross_entropy_with_logits(teacher_logits, wanted, reduction="none")
    sure = wanted.amax(-1)
    some = sure > 0.1
    box = ((1 - giou(boxes[some], teacher_boxes[some])) * sure[some]).sum() / total
    return (gap - floor).sum() / total, BOX_WEIGHT * box
