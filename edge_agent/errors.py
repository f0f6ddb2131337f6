"""The error tree. What a caller can do about an error is its type, never its text.

::

    EdgeAgentError
    ├── ConfigError              fatal: the operator's file is wrong; exit code 2, nothing was started
    ├── UsageError               fatal: the command line is wrong; exit code 2
    ├── HardwareError            fatal: something this box lacks (a runtime, a device, a group); exit code 3
    │   └── ModelError           fatal: no such model, a wrong or damaged file, a manifest that does not fit; exit code 3
    ├── DownloadError            retriable: a file on the network cannot be had now, or not by this way
    │   └── SlowRetrieval        the other side is silent, or gives next to nothing: given up
    ├── UpdateError              an update did not come about; what is active was not touched; ``code`` says why, for a machine
    │   ├── ClockUnsynchronised  retriable: this box does not know the time, so it cannot tell what has expired
    │   ├── NoRoom               retriable: the disk is too full for it
    │   ├── NotOffered           fatal: the repository has no such channel, model or version
    │   ├── Busy                 retriable: another update is under way
    │   ├── Interrupted          retriable: it was stopped before its end, and can be taken up again
    │   ├── ActivationFailed     fatal for this bundle: it did not do on this box what it must
    │   └── UpdateRefused        fatal: what the repository gives must not be trusted, or is not for this box
    │       ├── MetadataExpired  nobody has vouched for it lately: frozen, or not refreshed
    │       ├── RolledBack       it is older than what this box has seen already
    │       ├── MixedMetadata    its parts belong to different states of the repository
    │       ├── WrongKey         not signed by the keys that this box trusts, or by too few of them
    │       ├── Tampered         it is not what was signed
    │       ├── EndlessData      more bytes came than were signed for
    │       ├── WrongHardware    it is for other hardware
    │       ├── AgentTooOld      it needs a newer agent
    │       └── Rejected         this very bundle was rolled back here before
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
    ├── TokenRefused             fatal for this token: it is not, or no longer, to be believed; ``code`` says why
    ├── CommandError             a command is refused or failed; ``code`` says which, for a machine
    └── WorkerDied               fatal: a worker could not be revived; the process exits non-zero for systemd

``retriable`` says whether doing the same again later can help. Foreign exceptions (cv2, onnxruntime, sqlite3, paho)
become one of these at the seam and never travel further.
"""

from __future__ import annotations

from typing import Literal, TypeAlias


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
    """A file on the network cannot be had: no way there, refused, silent, broken off.

    ``status`` is what an HTTP server answered, None where it did not come to that.
    """

    retriable = True
    code = "unreachable"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class SlowRetrieval(DownloadError):
    """The other side is silent, or gives next to nothing."""

    code = "slow"


class UpdateError(EdgeAgentError):
    """An update did not come about; what is active was not touched. ``code`` is one word, the same for ever."""

    code = "failed"


class ClockUnsynchronised(UpdateError):
    """This box does not know the time, so it cannot tell what has expired."""

    retriable = True
    code = "clock_unsynchronised"


class NoRoom(UpdateError):
    """The disk is too full."""

    retriable = True
    code = "no_room"


class NotOffered(UpdateError):
    """The repository has no such channel, model or version."""

    code = "not_offered"


class Busy(UpdateError):
    """Another update is under way."""

    retriable = True
    code = "busy"


class Interrupted(UpdateError):
    """It was stopped before its end, and can be taken up again."""

    retriable = True
    code = "interrupted"


class ActivationFailed(UpdateError):
    """A bundle did not do on this box what it must."""

    code = "self_test"


class UpdateRefused(UpdateError):
    """What the repository gives must not be trusted, or is not for this box."""

    code = "refused"


class MetadataExpired(UpdateRefused):
    """Nobody has vouched for it lately: somebody holds back what is newer, or the repository was not refreshed."""

    code = "expired"


class RolledBack(UpdateRefused):
    """It is older than what this box has seen already."""

    code = "rolled_back"


class MixedMetadata(UpdateRefused):
    """Its parts belong to different states of the repository."""

    code = "mixed"


class WrongKey(UpdateRefused):
    """Not signed by the keys that this box trusts, or by too few of them."""

    code = "wrong_key"


class Tampered(UpdateRefused):
    """It is not what was signed."""

    code = "tampered"


class EndlessData(UpdateRefused):
    """More bytes came than were signed for."""

    code = "endless"


class WrongHardware(UpdateRefused):
    """It is for other hardware."""

    code = "wrong_hardware"


class AgentTooOld(UpdateRefused):
    """It needs a newer agent."""

    code = "too_new"


class Rejected(UpdateRefused):
    """This very bundle was rolled back here before."""

    code = "rejected"


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


CommandCode: TypeAlias = Literal[
    "malformed",
    "too_large",
    "unknown_command",
    "invalid_args",
    "not_allowed",
    "expired",
    "clock_unsure",
    "id_used",
    "busy",
    "rate_limited",
    "not_recorded",
    "not_supported",
    "not_available",
    "invalid_config",
    "rolled_back",
    "timeout",
    "interrupted",
    "failed",
]
"""Why a command has no result."""


class TokenRefused(EdgeAgentError):
    """A token is not, or no longer, to be believed. ``code`` is one word, the same for ever."""

    def __init__(self, code: str) -> None:
        super().__init__(f"token refused: {code}")
        self.code = code


class CommandError(EdgeAgentError):
    """A command is refused, or failed."""

    def __init__(self, code: CommandCode, message: str) -> None:
        super().__init__(message)
        self.code: CommandCode = code


class WorkerDied(EdgeAgentError):
    """A worker thread failed more often than its restart budget allows, or is stuck."""
