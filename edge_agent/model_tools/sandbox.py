"""Looks at an untrusted network file in a child process with limits on memory, time and what it may write."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_agent.detect.child import run_child
from edge_agent.errors import HardwareError, ModelError
from edge_agent.model_tools.facts import MAX_FILE_BYTES, Facts

MEMORY_MB = 4096
"""Of address space. The runtimes reserve more than they use; a file that wants this much is no edge model."""
CPU_SECONDS = 120
TIMEOUT_S = 300.0
"""Wall time: copying a large file from a slow card counts."""


def inspect_apart(source: Path, folder: Path, work: Path, size: tuple[int, int] | None, image: Path | None) -> Facts:
    """Copy the network in ``source`` to ``folder`` and say what it is; its outputs for one picture go to ``work``.

    Raises ModelError (refused, damaged, too large) and HardwareError (no package that can read it, crashed, too slow).
    """
    request = {
        "source": str(source.absolute()),
        "folder": str(folder.absolute()),
        "work": str(work.absolute()),
        "size": size,
        "image": None if image is None else str(image.absolute()),
    }
    try:
        answer = run_child(
            "edge_agent.model_tools.inspector", request, what=source.name, timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB
        )
    except HardwareError as error:  # ModelError is one: names of the file's are in the text, and go to a terminal
        raise type(error)("".join(c if c.isprintable() else "?" for c in str(error))) from None
    try:
        return Facts.model_validate(answer)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ModelError(f"it declares what no detection network has: {where}: {fault['msg']}") from error


def confine(request: dict[str, Any]) -> None:
    """Called by the child before it opens the file, beside the limit on memory."""
    for what, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (value, value))
    # The vendors' packages write below the home directory; here they write into a folder that is removed.
    os.environ["HOME"] = request["work"]
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
