"""A small file beside the database that remembers which sequence numbers may have been used, should the database be lost."""

from __future__ import annotations

from pathlib import Path

from edge_agent.durable import write_file
from edge_agent.errors import OutboxError

BLOCK = 1000


class SequenceRecord:
    """Numbers are reserved in blocks, so that one small durable write covers a thousand events. One thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reserved: int | None = None

    @property
    def reserved(self) -> int:
        """No number above this was ever used. 0 without a (readable) file."""
        if self._reserved is None:
            try:
                self._reserved = int(self._path.read_text("ascii")[:20])
            except (OSError, ValueError):
                self._reserved = 0
        return self._reserved

    def reserve(self, sequence: int) -> None:
        """Make sure that ``sequence`` is covered, on disk. Raises OutboxError."""
        if sequence <= self.reserved and self._path.exists():  # it may be removed, together with the database
            return
        upper = sequence + BLOCK
        try:
            write_file(self._path, str(upper).encode("ascii"))
        except OSError as error:
            raise OutboxError(f"cannot write {self._path.name}: {error.strerror}") from error
        self._reserved = upper
