"""Pictures kept for training, on disk: a ring. A sample is a JPEG and, written after it, a JSON file of the same name.

So a sample is whole where its JSON file is there; what a crash left of others is cleared away. Names begin with the time in UTC:
their order is that of age. Whoever lists or exports needs no agent, and the agent none of them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge_agent.durable import write_file

log = logging.getLogger(__name__)

Reason: TypeAlias = Literal["uncertain", "lost", "shadow"]
"""A box that the model is unsure of; a track that it did not see in this frame; another model sees other things."""
MAX_BYTES = 1 << 20
"""Of one JSON file."""
MAX_BOXES = 2000
_NAME = re.compile(r"\d{8}T\d{9}Z-[a-z0-9_-]+-\d+", re.IGNORECASE)
_BUDGET = "budget.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Box(_Strict):
    """xyxy in pixels. ``by``: the model at work, its track which predicts it, or the model in shadow that alone is sure of it."""

    box: tuple[float, float, float, float]
    label: Annotated[str, StringConstraints(max_length=200)]
    score: float
    by: Literal["model", "track", "shadow"] = "model"


class Sample(_Strict):
    """What is known of a picture. Its boxes are predictions, and nobody has looked at them."""

    format: Literal[1] = 1
    camera: str
    frame: int
    kept: float
    """POSIX seconds, by the clock of the box; ``utc`` is the frame's own time."""
    utc: float
    size: tuple[int, int]
    reason: Reason
    model: str
    shadow: str = ""
    pixelated: bool
    """Whether what was found in it was made unrecognisable."""
    sure: float
    """Score from which the model's boxes count (``track.high_score``)."""
    boxes: Annotated[tuple[Box, ...], Field(max_length=MAX_BOXES)]

    @property
    def name(self) -> str:
        """Of its files."""
        moment = datetime.fromtimestamp(self.kept, timezone.utc)
        return f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03}Z-{self.camera}-{self.frame}"


class SampleStore:
    """Below ``folder`` (``state_dir/samples``). One process writes; any may read and remove."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # ---- for whoever reads

    def names(self) -> list[str]:
        """Of all that are whole, the oldest first."""
        return sorted(path.stem for path in self.folder.glob("*.json") if _NAME.fullmatch(path.stem))

    def read(self, name: str) -> Sample | None:
        """None where it is gone, or is none; that is logged."""
        try:
            with self._facts(name).open("rb") as file:
                return Sample.model_validate_json(file.read(MAX_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("%s: no sample: %s", self._facts(name), error)
            return None

    def picture(self, name: str) -> Path:
        """Its JPEG."""
        return self.folder / f"{name}.jpg"

    def size(self, name: str) -> int:
        """Bytes of both files."""
        total = 0
        for path in (self.picture(name), self._facts(name)):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    def remove(self, name: str) -> None:
        """Gone with the JSON file, which goes first. Raises OSError."""
        self._facts(name).unlink(missing_ok=True)
        self.picture(name).unlink(missing_ok=True)

    # ---- for the agent

    def add(self, sample: Sample, jpeg: bytes) -> None:
        """On disk when this returns. Raises OSError, then nothing of it is there."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            write_file(self.picture(sample.name), jpeg, 0o600)
            write_file(self._facts(sample.name), sample.model_dump_json().encode(), 0o600)
        except OSError:
            for path in self.folder.glob(f"{sample.name}.*"):
                with contextlib.suppress(OSError):
                    path.unlink()
            raise

    def tidy(self, *, max_bytes: float, keep_free: float, oldest_utc: float, extra: int = 0) -> bool:
        """Remove what is older, and the oldest while with ``extra`` bytes more they would take more, or leave less of the disk.

        Whether there is room for those now. Raises OSError.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clear_halves()
        sizes = {name: self.size(name) for name in self.names()}
        total, free = sum(sizes.values()) + extra, shutil.disk_usage(self.folder).free - extra
        since = f"{datetime.fromtimestamp(max(0.0, oldest_utc), timezone.utc):%Y%m%dT%H%M%S}"
        for name in list(sizes):
            if total <= max_bytes and free >= keep_free and name >= since:
                break
            self.remove(name)
            size = sizes.pop(name)
            total, free = total - size, free + size
        return total <= max_bytes and free >= keep_free

    def _clear_halves(self) -> None:
        """What a crash left: pictures whose JSON file was not written. Only the one process that writes may do this."""
        for path in self.folder.iterdir():
            whole = path.suffix == ".json" or (path.suffix == ".jpg" and self._facts(path.stem).exists())
            if not whole and path.suffix in {".jpg", ".new"}:
                path.unlink(missing_ok=True)

    def taken(self, day: str) -> int:
        """Samples that were kept on this day (``YYYY-MM-DD``, UTC), also those that are gone."""
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            known = json.loads((self.folder / _BUDGET).read_bytes()[:1000])
            if known["day"] == day:
                return int(known["taken"])
        return 0

    def take(self, day: str) -> None:
        """One more, before it is kept: a crash loop does not keep more than a day's. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(self.folder / _BUDGET, json.dumps({"day": day, "taken": self.taken(day) + 1}).encode(), 0o600)

    def _facts(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def utc_day(utc: float | None = None) -> str:
    """``YYYY-MM-DD``."""
    return time.strftime("%Y-%m-%d", time.gmtime(utc))


def every(store: SampleStore) -> Iterator[tuple[str, Sample]]:
    """All that can be read, the oldest first."""
    for name in store.names():
        if (sample := store.read(name)) is not None:
            yield name, sample
