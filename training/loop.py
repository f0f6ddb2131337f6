"""The training loop: resumable, stoppable at any time, with a running average of the weights (EMA) that is what counts."""

from __future__ import annotations

import contextlib
import copy
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.checkpoint import load_checkpoint, load_model, spec_of
from training.data import Batch, Pictures, batches, read_source
from training.evaluation import Predict, measure
from training.loss import assign, detection_loss, distillation_loss
from training.network import FULL_HIDDEN, Detector, Trunk, decode, load_weights
from training.prune import prune
from training.settings import Settings
from training.trunk import load_trunk

SAVE_EVERY_S = 180.0
LOG_EVERY = 20


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """(B,H,W,3) uint8 to the network's (B,3,H,W), channels last in memory."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127.5) / 127.5


def predictor(model: Detector) -> Predict:
    """A network as something to evaluate."""

    def predict(canvas: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.inference_mode():  # in full precision: bfloat16 costs one to three points of AP50
            logits, boxes, _, _ = decode(model(to_input(canvas[None])))
        return boxes[0].numpy(), logits[0].sigmoid().numpy()

    return predict


def share_of_lr(seen: int, settings: Settings) -> float:
    """Factor of the learning rate after ``seen`` images: warm-up, plateau, straight down."""
    s = settings.schedule
    left = (s.images - seen) / max(s.images * s.decay, 1.0)
    return float(max(0.0, min(seen / s.warmup, 1.0, left)))


def on_plateau(seen: int, settings: Settings) -> bool:
    """Whether the final descent of the learning rate has yet to come."""
    return seen < settings.schedule.images * (1 - settings.schedule.decay)


@dataclass
class Run:
    """A run and its folder: ``settings.json``, ``log.jsonl``, ``last.pt``, ``best.pt``.

    ``plateau.pt`` is where the learning rate began to fall: the place to go on from with a longer schedule.
    """

    settings: Settings
    folder: Path
    model: Detector
    ema: Detector
    optimizer: torch.optim.Optimizer
    teacher: Detector | None
    seen: int = 0
    best: float = -1.0
    seconds: float = 0.0

    def save(self, name: str) -> None:
        """Write a checkpoint whole or not at all."""
        state = {
            "format": 1,
            "settings": self.settings.model_dump_json(),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seen": self.seen,
            "best": self.best,
            "seconds": self.seconds,
        }
        temporary = self.folder / f".{name}.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / name)

    def log(self, **values: object) -> None:
        """One line of ``log.jsonl``."""
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seen": self.seen, "seconds": round(self.seconds, 1), **values}) + "\n")


def _optimizer(model: Detector, settings: Settings) -> torch.optim.Optimizer:
    s = settings.schedule
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("trunk."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "share": s.trunk_lr if trunk else 1.0,
                "weight_decay": s.weight_decay if kernel and not trunk else 0.0,
            }
            for (trunk, kernel), parameters in groups.items()
        ],
        lr=s.lr,
    )


def start(settings: Settings, folder: Path) -> Run:
    """A run from Google's trunk or a checkpoint, or, where ``folder`` holds one, that run where it stopped. Raises ValueError."""
    mute = [source.title for source in settings.train if not source.labelled]
    if mute and settings.teacher is None:
        raise ValueError(
            f"{', '.join(mute)}: without labels only a teacher can say what is there; use distil --teacher"
        )
    torch.manual_seed(settings.seed)
    model = Detector(spec_of(settings))
    last = folder / "last.pt"
    state = load_checkpoint(last) if last.exists() else None
    if state is None and settings.start_from is None:
        _fill_trunk(model.trunk, settings)
    elif state is None and settings.start_from is not None:
        trained, before = load_model(settings.start_from)
        _load_matching(model, trained.state_dict(), same_labels=before.labels == settings.labels)
    model.trunk.freeze(settings.schedule.frozen_blocks)
    model = model.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    teacher = load_model(settings.teacher)[0] if settings.teacher else None
    run = Run(settings, folder, model, ema, _optimizer(model, settings), teacher)
    folder.mkdir(parents=True, exist_ok=True)
    if state is not None:
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.seen, run.best, run.seconds = state["seen"], state["best"], state["seconds"]
    (folder / "settings.json").write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return run


def _fill_trunk(trunk: Trunk, settings: Settings) -> None:
    """Google's weights; where the trunk is to be slimmer, pruned on a few of the training pictures."""
    full = Trunk(FULL_HIDDEN, 1280)
    load_weights(full, load_trunk())
    rng, pictures = np.random.default_rng(settings.seed), Pictures(settings.train, settings.labels)
    prune(
        full,
        trunk,
        [to_input(pictures.batch(8, min(settings.size, 320), settings.augment, rng).images) for _ in range(4)],
    )


def _load_matching(model: Detector, state: dict[str, Tensor], *, same_labels: bool) -> None:
    """Everything; for other labels all but the score layers, which know only the old ones."""
    own = model.state_dict()
    fits = {
        k: v for k, v in state.items() if k in own and own[k].shape == v.shape and (same_labels or ".score." not in k)
    }
    strange = [k for k in own if k not in fits and (same_labels or ".score." not in k)]
    if strange:
        raise ValueError(f"the checkpoint is of another network: {strange[0]} does not fit")
    model.load_state_dict(fits, strict=False)


def _step(run: Run, batch: Batch) -> tuple[float, float, float]:
    share = share_of_lr(run.seen, run.settings)
    for group in run.optimizer.param_groups:
        group["lr"] = run.settings.schedule.lr * group["share"] * share
    x = to_input(batch.images)
    run.model.train()
    if run.settings.schedule.frozen_norms:
        for module in run.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    with torch.autocast("cpu", torch.bfloat16):
        maps = run.model(x)
    logits, boxes, centres, _ = decode(maps)
    targets = [
        assign(logits[i], boxes[i], centres, *(torch.from_numpy(a) for a in truth))
        for i, truth in enumerate(
            zip(batch.boxes, (c.astype(np.int64) for c in batch.classes), batch.ignore, strict=True)
        )
    ]
    score, box = detection_loss(logits, boxes, targets)
    loss, taught = score + box, torch.zeros(())
    if run.teacher is not None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            teacher_logits, teacher_boxes, _, _ = decode(run.teacher(x))
        taught = sum(distillation_loss(logits, boxes, teacher_logits, teacher_boxes), torch.zeros(()))
        loss = loss + taught
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in run.model.parameters() if p.grad is not None], 10.0)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {float(loss)} after {run.seen} images")
    run.optimizer.step()
    run.seen += len(batch.images)
    _average(run)
    return score.item(), box.item(), taught.item()


@torch.no_grad()
def _average(run: Run) -> None:
    steps = run.seen / run.settings.schedule.batch
    keep = min(run.settings.schedule.ema, (1 + steps) / (10 + steps))
    for average, now in zip(run.ema.state_dict().values(), run.model.state_dict().values(), strict=True):
        if average.dtype.is_floating_point:
            average.lerp_(now, 1 - keep)


def train(run: Run, evaluate_every: int, progress: Any = None) -> None:
    """Train to the end of the schedule, or until SIGTERM or SIGINT asks to stop; both leave ``last.pt`` behind.

    ``progress(run, losses)`` is called after each step.
    """
    asked: list[int] = []
    previous = {s: signal.signal(s, lambda number, _: asked.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    held = read_source(run.settings.validate_on[0], run.settings.labels)
    saved, recent = time.monotonic(), []
    try:
        with contextlib.closing(batches(run.settings, run.seen)) as stream:
            while run.seen < run.settings.schedule.images and not asked:
                began, plateau = time.monotonic(), on_plateau(run.seen, run.settings)
                recent.append(_step(run, next(stream)))
                run.seconds += time.monotonic() - began
                if plateau and not on_plateau(run.seen, run.settings):
                    run.save("plateau.pt")
                if progress is not None:
                    progress(run, recent[-1])
                if len(recent) == LOG_EVERY:
                    means = [round(float(v), 4) for v in np.mean(recent, axis=0)]
                    run.log(score=means[0], box=means[1], taught=means[2], lr=share_of_lr(run.seen, run.settings))
                    recent.clear()
                if run.seen % evaluate_every < run.settings.schedule.batch:
                    _evaluate(run, held)
                if time.monotonic() - saved > SAVE_EVERY_S:
                    run.save("last.pt")
                    saved = time.monotonic()
        if not asked:
            run.save("last.pt")
            _evaluate(run, held)
    finally:
        run.save("last.pt")
        for number, handler in previous.items():
            signal.signal(number, handler)


def _evaluate(run: Run, held: list[Any]) -> None:
    scores = measure(predictor(run.ema), held, run.settings.size, run.settings.labels, rounds=0)
    run.log(ap50=scores.ap50, ap=scores.ap, ap_small=scores.ap_small)
    if scores.ap50 > run.best:
        run.best = scores.ap50
        run.save("best.pt")
