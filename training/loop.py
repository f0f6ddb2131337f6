"""The training loop: resumable, stoppable at any time, with a running average of the weights (EMA) that is what counts."""

from __future__ import annotations

import contextlib
import copy
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from training.checkpoint import build, load_checkpoint, load_model
from training.classifier import Classifier
from training.network import FULL_HIDDEN, Detector, Trunk, load_weights
from training.prune import prune
from training.settings import Settings
from training.tasks import Task, task_of
from training.trunk import load_trunk

Network: TypeAlias = Detector | Classifier

SAVE_EVERY_S = 180.0
LOG_EVERY = 20


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
    task: Task
    model: Network
    ema: Network
    optimizer: torch.optim.Optimizer
    teacher: Network | None
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


def _optimizer(model: Network, settings: Settings) -> torch.optim.Optimizer:
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
    model, task = build(settings), task_of(settings)
    last = folder / "last.pt"
    state = load_checkpoint(last) if last.exists() else None
    if state is None and settings.start_from is None:
        _fill_trunk(model.trunk, task)
    elif state is None and settings.start_from is not None:
        trained, before = load_model(settings.start_from)
        _load_matching(model, trained.state_dict(), same_labels=before.labels == settings.labels)
    model.trunk.freeze(settings.schedule.frozen_blocks)
    model = model.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    teacher = load_model(settings.teacher)[0] if settings.teacher else None
    run = Run(settings, folder, task, model, ema, _optimizer(model, settings), teacher)
    folder.mkdir(parents=True, exist_ok=True)
    if state is not None:
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.seen, run.best, run.seconds = state["seen"], state["best"], state["seconds"]
    (folder / "settings.json").write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return run


def _fill_trunk(trunk: Trunk, task: Task) -> None:
    """Google's weights; where the trunk is to be slimmer, pruned on a few of the training pictures."""
    full = Trunk(FULL_HIDDEN[: len(trunk.blocks)], 1280 if trunk.top is not None else 0)
    load_weights(full, load_trunk())
    prune(full, trunk, task.pruning_pictures())


def _load_matching(model: Network, state: dict[str, Tensor], *, same_labels: bool) -> None:
    """Everything; for other labels all but the score layers, which know only the old ones."""
    own = model.state_dict()
    fits = {
        k: v for k, v in state.items() if k in own and own[k].shape == v.shape and (same_labels or ".score." not in k)
    }
    strange = [k for k in own if k not in fits and (same_labels or ".score." not in k)]
    if strange:
        raise ValueError(f"the checkpoint is of another network: {strange[0]} does not fit")
    model.load_state_dict(fits, strict=False)


def _step(run: Run, batch: Any) -> tuple[float, ...]:
    share = share_of_lr(run.seen, run.settings)
    for group in run.optimizer.param_groups:
        group["lr"] = run.settings.schedule.lr * group["share"] * share
    run.model.train()
    if run.settings.schedule.frozen_norms:
        for module in run.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    losses = run.task.step(run.model, batch, run.teacher)
    loss = sum(losses, torch.zeros(()))
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in run.model.parameters() if p.grad is not None], 10.0)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {float(loss)} after {run.seen} images")
    run.optimizer.step()
    run.seen += len(batch.images)
    _average(run)
    return tuple(part.item() for part in losses)


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
    saved, recent = time.monotonic(), []
    try:
        with contextlib.closing(run.task.batches(run.seen)) as stream:
            while run.seen < run.settings.schedule.images and not asked:
                began, plateau = time.monotonic(), on_plateau(run.seen, run.settings)
                recent.append(_step(run, next(stream)))
                run.seconds += time.monotonic() - began
                if plateau and not on_plateau(run.seen, run.settings):
                    run.save("plateau.pt")
                if progress is not None:
                    progress(run, recent[-1])
                if len(recent) == LOG_EVERY:
                    means = (round(float(v), 4) for v in np.mean(recent, axis=0))
                    named = dict(zip(run.task.losses, means, strict=True))
                    run.log(**named, lr=share_of_lr(run.seen, run.settings))
                    recent.clear()
                if run.seen % evaluate_every < run.settings.schedule.batch:
                    _evaluate(run)
                if time.monotonic() - saved > SAVE_EVERY_S:
                    run.save("last.pt")
                    saved = time.monotonic()
        if not asked:
            run.save("last.pt")
            _evaluate(run)
    finally:
        run.save("last.pt")
        for number, handler in previous.items():
            signal.signal(number, handler)


def _evaluate(run: Run) -> None:
    figures, figure = run.task.judge(run.ema)
    run.log(**figures)
    if figure > run.best:
        run.best = figure
        run.save("best.pt")
