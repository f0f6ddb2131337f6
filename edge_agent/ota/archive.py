"""A release in a file that root names: no repository is asked, and nothing vouches for it but that."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from edge_agent.errors import UpdateError, UsageError
from edge_agent.ota.bundle import RELEASE, member
from edge_agent.ota.client import Offer
from edge_agent.ota.offer import Bundle
from edge_agent.ota.release import Release, archive_sha256
from edge_agent.ota.transfer import check_room


class Archive:
    """Fulfils ``Repository``. ``folder`` takes the copy that is worked with."""

    def __init__(self, path: Path, folder: Path, keep_free_mb: int) -> None:
        self._path, self._folder, self._keep_free = path, folder, keep_free_mb << 20

    def look(self, name: str = "", version: str | None = None) -> Offer:
        """What the file is. Raises UsageError, Tampered (no release, or not for this box)."""
        del name, version
        sha256 = archive_sha256(self._path)
        release = Release.parse(member(self._path, RELEASE), self._path.name)
        release.check_fits()
        try:
            bundle = Bundle(name=release.name, version=release.version, sha256=sha256)
        except ValidationError as error:
            raise UsageError(f"{self._path}: {error.errors()[0]['msg']}") from error
        return Offer(bundle, self._path.stat().st_size, str(self._path), release.installed_bytes)

    def fetch(self, offer: Offer, progress: Callable[[float], None], cancel: threading.Event) -> Path:
        """See ``Repository``. Raises NoRoom, UpdateError."""
        del progress, cancel
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            check_room(self._folder, 2 * offer.length + offer.installed_bytes, self._keep_free)
            copy = self._folder / f"{offer.bundle.sha256}.part"
            copy.unlink(missing_ok=True)
            try:
                os.link(self._path, copy)
            except OSError:  # another disk
                shutil.copyfile(self._path, copy)
        except OSError as error:
            raise UpdateError(f"{self._path}: cannot be copied to {self._folder}: {error.strerror}") from error
        return copy
