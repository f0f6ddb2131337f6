"""Progress bars."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

Item = TypeVar("Item")


class RunProgress:
    """A run's bar: images, losses, speed. Call it after each step."""

    def __init__(self, run: Any) -> None:
        self._progress = Progress(
            TextColumn(run.settings.name),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._from = run.seen, run.seconds
        self._task = self._progress.add_task("", total=run.settings.schedule.images, completed=run.seen, what="")

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, run: Any, losses: Sequence[float]) -> None:
        """Show where it is."""
        speed = (run.seen - self._from[0]) / max(run.seconds - self._from[1], 1e-9)
        parts = " ".join(f"{name} {loss:.2f}" for name, loss in zip(run.task.losses[:2], losses, strict=False))
        what = f"{parts} best {max(run.best, 0):.3f} {speed:.1f}/s"
        self._progress.update(self._task, completed=run.seen, what=what)


def following(items: Sequence[Item], what: str) -> list[Item]:
    """The same items; a bar runs along as they are taken."""
    return list(track(items, what, console=Console(stderr=True), transient=True))
