"""The command line: ``edge-agent <verb> [-c config.yaml]``.

Exit codes: 0 done; 1 failed at run time; 2 bad usage or config (nothing was started); 3 hardware or model missing;
130 interrupted from the keyboard (``run`` stops in order instead, and ends with 0).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.cli.common import Verb
    from edge_agent.errors import EdgeAgentError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the process's exit code."""
    # Before anything can import onnxruntime: it reads this once, and would otherwise call its maker.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    _open_standard_streams()
    try:
        return _run(argv)
    except KeyboardInterrupt:  # ``run`` stops in order once it runs; everything else just ends
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not our failure, but nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _open_standard_streams() -> None:
    # One that our caller closed (`>&-`) is None, and its number would go to the next file that is opened.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - it stays


def _run(argv: Sequence[str] | None) -> int:
    # Imported here: on a small box it takes seconds, and Ctrl-C in them is answered like any other.
    from edge_agent import config_file
    from edge_agent.errors import ConfigError, EdgeAgentError

    args = _parser().parse_args(argv)
    verb: Verb = args.verb
    try:
        return verb(args)
    except ConfigError as error:
        file = getattr(args, "config", None)
        located = config_file.locate(file, error) if file is not None and file.is_file() else error
        return _fail(args, error, located.problems)
    except EdgeAgentError as error:
        return _fail(args, error, [str(error)])


def _fail(args: argparse.Namespace, error: EdgeAgentError, problems: list[str]) -> int:
    from edge_agent.cli.common import out

    if getattr(args, "json", False):
        out(json.dumps({"ok": False, "error": type(error).__name__, "problems": problems}))
    else:
        for problem in problems:
            sys.stderr.write(f"edge-agent: {problem}\n")
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    from edge_agent import __version__
    from edge_agent.cli import (
        bench,
        calibrate,
        codes,
        command,
        config,
        doctor,
        enroll,
        model,
        outbox,
        replay,
        repo,
        run,
        samples,
        sop,
        update,
    )

    parser = argparse.ArgumentParser(
        prog="edge-agent",
        description="Computer vision on the box next to the camera.",
        epilog="Example: edge-agent run -c config.yaml",
    )
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for group in (
        run,
        config,
        command,
        replay,
        sop,
        codes,
        calibrate,
        model,
        samples,
        outbox,
        bench,
        doctor,
        enroll,
        repo,
        update,
    ):
        group.add(verbs)
    return parser
