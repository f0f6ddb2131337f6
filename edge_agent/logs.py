"""Log lines on standard error: text for people, JSON for machines."""

from __future__ import annotations

import json
import logging
import sys

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
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line)


def setup_logging(config: LoggingConfig) -> logging.Handler:
    """Install the one handler of the root logger and return it."""
    handler = logging.StreamHandler(sys.stderr)
    text = _Redacted("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(_Json() if config.format == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    # Each connection attempt of these is told by us, once, in our words.
    for noisy in ("asyncio", "uvicorn", "paho"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return handler
