"""Pictures of a run: losses and AP over images seen, and precision over recall."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training.attributes import Verdict
from training.metrics import RECALLS, Scores


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``log.jsonl``; a last line cut short by a crash is left out."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def draw_run(folder: Path) -> Path:
    """``curves.png`` from the folder's ``log.jsonl``."""
    plt = _pyplot()
    log = read_log(folder / "log.jsonl")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for key in _keys(log, training=True):
        points = [(line["seen"], line[key]) for line in log if line.get(key)]
        if points:
            x, y = np.array(points).T
            window = max(1, len(y) // 40)
            left.plot(x[window - 1 :], np.convolve(y, np.ones(window) / window, "valid"), label=key)
    left.set(xlabel="images seen", title="loss")
    if left.lines:  # a short run logs no step
        left.legend()
    for key in _keys(log, training=False):
        points = [(line["seen"], line[key]) for line in log if key in line]
        right.plot(*np.array(points).T, marker=".", label=key)
    right.set(xlabel="images seen", title="validation")
    if right.lines:
        right.legend()
    return _save(plt, figure, folder / "curves.png")


def _keys(log: list[dict[str, Any]], *, training: bool) -> list[str]:
    """What the lines of a training step (they say the learning rate) or of an evaluation hold, in their order."""
    lines = [line for line in log if ("lr" in line) == training]
    return [key for key in dict.fromkeys(k for line in lines for k in line) if key not in ("seen", "seconds", "lr")]


def draw_precision(scores: Mapping[str, Scores | Verdict], path: Path) -> Path:
    """Precision over recall (a detector's at IoU 0.5), a line for each data set."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(5.5, 4.5))
    for name, value in scores.items():
        if value.curve:
            axes.plot(RECALLS, value.curve, label=f"{name} {value.legend}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if axes.lines:
        axes.legend()
    return _save(plt, figure, path)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(plt: Any, figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path
