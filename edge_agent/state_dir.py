"""The state folder belongs to one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from edge_agent.errors import UsageError


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this process: two agents on one outbox would give one sequence number twice."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        file = (state_dir / "lock").open("w")
    except OSError as error:
        raise UsageError(f"state_dir {state_dir}: {error.strerror}; name a folder that can be written to") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"state_dir {state_dir} is in use by another agent; stop it, or give this one its own"
            ) from error
        yield


def is_held(state_dir: Path) -> bool | None:
    """Whether an agent holds the state folder now; None where that cannot be told. Changes nothing and creates nothing."""
    try:
        file = (state_dir / "lock").open("rb")
    except FileNotFoundError:
        return False
    except OSError:
        return None
    with file:
        try:
            # Shared, so that two who ask do not take each other for an agent.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False
