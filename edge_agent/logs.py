"""Log lines on standard error: text for people, JSON for machines; under systemd, the journal with its fields."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable

from edge_agent import journal
from edge_agent.config import LoggingConfig, redact
from edge_agent.types import rfc3339


class _Redacted(logging.Formatter):
    """Text, with the credentials of URLs left out: a library may log an address that we gave it."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _Json(_Redacted):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if kind := getattr(record, "kind", ""):
            line |= {"kind": kind, **{name: redact(str(fact)) for name, fact in getattr(record, "facts", {}).items()}}
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line)


class _Prefixed(_Redacted):
    """Each line with its priority in front, as sd-daemon(3) has it: what the journal can tell without the package ``systemd``."""

    def format(self, record: logging.LogRecord) -> str:
        number = journal.priority(record.levelno)
        return "\n".join(f"<{number}>{line}" for line in super().format(record).splitlines())


class _Journal(logging.Handler):
    """Into the journal by libsystemd, with fields."""

    def __init__(self, send: Callable[..., object]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {name: redact(value) for name, value in journal.fields(record).items()}
            # A number, or it takes its own place for where the line was written.
            place: dict[str, object] = {"CODE_LINE": record.lineno}
            self._send(self.format(record), SYSLOG_IDENTIFIER="edge-agent", **(fields | place))
        except Exception:  # noqa: BLE001 - as every handler of logging does
            self.handleError(record)


def _handler(config: LoggingConfig) -> logging.Handler:
    stream = logging.StreamHandler(sys.stderr)
    if config.format == "json":
        stream.setFormatter(_Json())
        return stream
    if not journal.is_journal():
        stream.setFormatter(_Redacted("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
        return stream
    try:
        from systemd.journal import send
    except ImportError:
        stream.setFormatter(_Prefixed("%(message)s"))
        return stream
    handler = _Journal(send)
    handler.setFormatter(_Redacted("%(message)s"))
    return handler


def setup_logging(config: LoggingConfig) -> logging.Handler:
    """Install the one handler of the root logger and return it."""
    handler = _handler(config)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    # Each connection attempt of these is told by us, once, in our words.
    for noisy in ("asyncio", "uvicorn", "paho"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return handler
