"""What log lines carry for machines: the kind of message and its facts. In systemd's journal they are fields of their own.

A kind's ``MESSAGE_ID`` is a UUID of version 5 of its name, so that it never changes; docs/service.md lists them.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Mapping
from typing import Any

NAMESPACE = uuid.UUID("6b0d7c0e-8a39-5a55-9d62-0f4f2b3f7e11")
KINDS: Mapping[str, str] = {
    "agent.ready": "it has started",
    "agent.stopping": "it ends in order, or starts again by itself",
    "agent.failed": "it ends, as it cannot go on",
    "worker.stuck": "a thread is in one unit of work for too long; where, the message says",
    "worker.failed": "a thread crashed and is not started again",
    "worker.crashed": "a thread crashed and is started again",
    "process.frozen": "the whole process stood still: the box is overloaded or was suspended",
}
"""Beside these each event is a kind, named as its ``type`` is."""
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def told(kind: str, **facts: str | float) -> dict[str, Any]:
    """For ``extra`` of a log call. ``kind`` of ``KINDS``, or the type of an event; ``facts`` in the words of the contract."""
    return {"kind": kind, "facts": facts}


def message_id(kind: str) -> str:
    """32 hexadecimal digits (sd_journal_send(3)): the same for ever."""
    return uuid.uuid5(NAMESPACE, kind).hex


def fields(record: logging.LogRecord) -> dict[str, str]:
    """The fields of a line beside its text, as the journal has them."""
    found = {
        "PRIORITY": str(priority(record.levelno)),
        "LOGGER": record.name,
        "THREAD_NAME": record.threadName or "",
        "CODE_FILE": record.pathname,
        "CODE_FUNC": record.funcName or "",
    }
    if kind := getattr(record, "kind", ""):
        found |= {"MESSAGE_ID": message_id(kind), "EDGE_AGENT_KIND": kind}
        found |= {f"EDGE_AGENT_{name.upper()}": str(value) for name, value in getattr(record, "facts", {}).items()}
    return found


def priority(level: int) -> int:
    """syslog's number for a level of ``logging``."""
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def is_journal() -> bool:
    """Whether standard error goes to the journal (systemd.exec(5), ``$JOURNAL_STREAM``)."""
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{stat.st_dev}:{stat.st_ino}"
