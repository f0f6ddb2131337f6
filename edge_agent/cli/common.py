"""What every verb's module builds on."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Verb = Callable[[argparse.Namespace], int]
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_verb(
    verbs: Any, name: str, verb: Verb, about: str, example: str, *, config: bool = True
) -> argparse.ArgumentParser:
    """A verb's parser with the options all have. ``verb`` does the work and returns the exit code."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"Example: edge-agent {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verb=verb)
    if config:
        parser.add_argument("-c", "--config", type=Path, default=default_config(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def default_config() -> Path:
    """``config.yaml`` here, else the system's."""
    here = Path("config.yaml")
    return here if here.exists() else Path("/etc/edge-agent/config.yaml")


def out(text: str) -> None:
    """Print a verb's result."""
    sys.stdout.write(text + "\n")


def end(code: int) -> int:
    """``code``, for a verb that starts threads; does not come back while one of them hangs."""
    if threading.active_count() > 1:
        # In native code (a dead camera, a driver): tearing the interpreter down under it may hang as well.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


def named(text: str) -> str:
    """An argument that must not be empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a URL, a device, a file or a folder")
    return text


def positive(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def duration(text: str) -> float:
    """An argument that is a time, in seconds."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 15m, 8h or 30d")
    return int(match[1]) * _UNITS[match[2]]
