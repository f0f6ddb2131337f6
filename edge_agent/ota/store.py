"""Models that came by update, on the disk: ``bundles/<sha256>/<name>/<version>/``, and one small file that says which is what.

The file is replaced as a whole, by one rename that is on the disk before anything builds on it. A bundle is made beside and
renamed to its place. So after a power cut at any moment every slot names a bundle that is there and whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from edge_agent.durable import sync_folder, write_file
from edge_agent.errors import Busy, NoRoom, UpdateError, UsageError
from edge_agent.ota.bundle import digest, unpack
from edge_agent.ota.job import SLOTS, Stored, lost
from edge_agent.ota.offer import Bundle

STATE = "state.json"
MAX_STATE_BYTES = 1 << 16
log = logging.getLogger(__name__)


class ModelStore:
    """Below ``folder`` (``state_dir/models``). Who changes it holds ``lock``; reading is free."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._bundles = folder, folder / "bundles"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only one to change it. Raises Busy, UpdateError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = (self._folder / "lock").open("w")
        except OSError as error:
            raise UpdateError(f"{self._folder}: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Busy("another process is updating the models of this box") from error
            yield

    # ---- the state

    def read(self) -> Stored:
        """What is remembered. A damaged file counts as none: then what the box came with holds."""
        return self._read() or Stored()

    def _read(self) -> Stored | None:
        """None: it is damaged."""
        path = self._folder / STATE
        try:
            with path.open("rb") as file:
                return Stored.model_validate_json(file.read(MAX_STATE_BYTES))
        except FileNotFoundError:
            return Stored()
        except (OSError, ValidationError) as error:
            log.error("%s cannot be read, so nothing came by update: %s", path, error)
            return None

    def write(self, stored: Stored) -> None:
        """Remember; on the disk when this returns. Raises UpdateError, then the old state holds."""
        with self._told():
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(self._folder / STATE, stored.model_dump_json(indent=1).encode())

    # ---- the bundles

    def place(self, bundle: Bundle) -> Path:
        """The folder of a model, as ``load_model`` takes it."""
        return self._bundles / bundle.sha256 / bundle.name / bundle.version

    def add(self, archive: Path, bundle: Bundle) -> None:
        """Unpack a bundle that was checked; on the disk when this returns. Raises Tampered, NoRoom, UpdateError."""
        if self.is_whole(bundle):
            return
        with self._told():
            final, work = self._bundles / bundle.sha256, self._bundles / f"new-{bundle.sha256}"
            for old in (final, work):
                shutil.rmtree(old, ignore_errors=True)
            model = work / bundle.name
            try:
                model.mkdir(parents=True)
                unpack(archive, model / bundle.version, bundle.sha256)
                sync_folder(model)
                sync_folder(work)
                work.rename(final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            sync_folder(self._bundles)
            sync_folder(self._folder)  # in which the folder of bundles may be new

    def is_whole(self, bundle: Bundle) -> bool:
        """Whether it is there and still the very content that was signed. Reads all of it."""
        try:
            return digest(self.place(bundle)) == bundle.sha256
        except (OSError, UsageError):
            return False

    def recover(self) -> Stored:
        """At the start: what is remembered, put right where a bundle it names is gone or damaged, and the rest cleared away."""
        known = self._read()
        if known is None:
            self.write(Stored())  # the bundles stay for this time: somebody may want to look
            return Stored()
        stored = known
        for slot in SLOTS:
            bundle: Bundle | None = getattr(stored, slot)
            if bundle is not None and not self.is_whole(bundle):
                log.error("%s, %s, is gone or damaged", bundle.label, slot)
                stored = lost(stored, slot)
        if stored != known:
            self.write(stored)
        self.collect(stored)
        return stored

    def collect(self, stored: Stored) -> None:
        """Remove the bundles that no slot names."""
        for path in self._bundles.glob("*"):
            if path.name not in stored.kept:
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = NoRoom if error.errno in {errno.ENOSPC, errno.EDQUOT} else UpdateError
            raise kind(f"{self._folder}: {error.strerror or error}") from error
