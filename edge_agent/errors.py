"""The error tree. What a caller can do about an error is its type, never its text.

::

    EdgeAgentError
    ├── ConfigError              fatal: the operator's file is wrong; exit code 2, nothing was started
    ├── UsageError               fatal: the command line is wrong; exit code 2
    ├── HardwareError            fatal: something this box lacks (a runtime, a device, a group); exit code 3
    │   └── ModelError           fatal: no such model, a wrong or damaged file, a manifest that does not fit; exit code 3
    ├── DownloadError            retriable: a file on the network cannot be had now, or not by this way
    ├── SourceError              a camera or a file
    │   ├── SourceNotFound       fatal for a file (it does not exist or cannot be decoded), retriable for a live source
    │   └── SourceLost           retriable: refused, stalled, ended, hung; the capture worker reopens
    ├── SensorError              retriable: it cannot be read now, or what it says is no value; the next try tells
    ├── InferenceError           retriable once: a frame failed in the backend; a run of them is fatal for the worker
    ├── OutboxError              the store: retriable (busy, full disk); the queue in front of it holds what came
    │   └── OutboxCorrupt        the database was damaged: moved aside, a new one begun
    ├── SinkError                delivery to the outside
    │   ├── SinkUnavailable      retriable: the broker is away; the outbox keeps
    │   └── SinkRejected         fatal for this message only: it will never be taken
    ├── ListenError              fatal: the REST API cannot have its address and port
    └── WorkerDied               fatal: a worker could not be revived; the process exits non-zero for systemd

``retriable`` says whether doing the same again later can help. Foreign exceptions (cv2, onnxruntime, sqlite3, paho)
become one of these at the seam and never travel further.
"""

from __future__ import annotations


class EdgeAgentError(Exception):
    """Root of everything this package raises on purpose."""

    retriable: bool = False
    exit_code: int = 1


class ConfigError(EdgeAgentError):
    """The configuration is wrong; ``problems`` lists every fault found in one pass."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UsageError(EdgeAgentError):
    """The command line asks for something that does not exist or fit."""

    exit_code = 2


class HardwareError(EdgeAgentError):
    """This box lacks something: a runtime library, a device, a permission."""

    exit_code = 3


class ModelError(HardwareError):
    """A model is missing, damaged, or does not fit its manifest."""


class DownloadError(EdgeAgentError):
    """A file on the network cannot be had: no way there, refused, silent, broken off."""

    retriable = True


class SourceError(EdgeAgentError):
    """A camera or a video file."""


class SourceNotFound(SourceError):
    """The source does not exist or cannot be decoded."""

    exit_code = 2


class SourceLost(SourceError):
    """A live source refused, stalled, ended or hung."""

    retriable = True


class SensorError(EdgeAgentError):
    """A sensor cannot be read now, or what it says is no value."""

    retriable = True


class InferenceError(EdgeAgentError):
    """The backend failed on one frame."""

    retriable = True


class OutboxError(EdgeAgentError):
    """The durable store could not do its work now."""

    retriable = True


class OutboxCorrupt(OutboxError):
    """The database file is damaged."""

    retriable = False


class SinkError(EdgeAgentError):
    """Delivery to the outside failed."""


class SinkUnavailable(SinkError):
    """The other side is away; keep and try again, after ``retry_after_s`` seconds where it said so."""

    retriable = True

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SinkRejected(SinkError):
    """The other side will never take this message."""


class ListenError(EdgeAgentError):
    """The REST API cannot have its address and port: another program has it, or the box has no such address."""


class WorkerDied(EdgeAgentError):
    """A worker thread failed more often than its restart budget allows, or is stuck."""
