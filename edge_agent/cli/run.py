"""``run``: the agent itself."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edge_agent.cli.common import add_verb, end, named, positive
from edge_agent.errors import ConfigError
from edge_agent.logs import setup_logging

if TYPE_CHECKING:
    from edge_agent.crash_count import CrashCount


def add(verbs: Any) -> None:
    """Add ``run``."""
    parser = add_verb(verbs, "run", _run, "run the agent", "run --source video.mp4 --record out.jsonl --no-mqtt")
    parser.add_argument("--source", type=named, metavar="URI", help="replaces the source of the first camera")
    parser.add_argument(
        "--model", metavar="NAME[@VERSION]|auto", help="for this run; auto: the one that is right for this box"
    )
    parser.add_argument(
        "--realtime", action="store_true", help="read a file at its own pace, dropping what comes too late"
    )
    parser.add_argument("--max-frames", type=positive, metavar="N", help="stop after N frames of each camera")
    parser.add_argument(
        "--record", type=Path, metavar="FILE.jsonl", help="write what was seen in each frame (no pictures)"
    )
    parser.add_argument(
        "--no-mqtt", action="store_true", help="do not connect to the broker; events wait in the outbox"
    )


def _run(args: argparse.Namespace) -> int:
    from edge_agent import config_trial
    from edge_agent.app import Agent
    from edge_agent.run_display import run_with_display
    from edge_agent.run_options import RunOptions

    config = config_trial.begin(args.config)
    setup_logging(config.logging)
    options = RunOptions(
        source=args.source,
        model=args.model,
        realtime=args.realtime,
        max_frames=args.max_frames,
        record=args.record,
        mqtt=not args.no_mqtt,
        file=args.config,
    )
    crashes = _counted(config.state_dir)
    try:
        try:
            agent = Agent(config, options, crashes=crashes)
        except Exception as error:
            if config_trial.give_up(config.state_dir, f"the agent does not start with it: {error}"):
                crashes.ended(again=True)
                _again()
            raise
        code = run_with_display(agent, as_json=args.json)
    except ConfigError:
        crashes.dismiss()
        raise
    except Exception as error:
        crashes.blame(str(error) or type(error).__name__)
        raise
    if agent.again or agent.supervisor.failure is None:
        crashes.ended(again=agent.again)
    if agent.again:
        _again()
    return end(code)


def _counted(state_dir: Path) -> CrashCount:
    """This start. Crashes count where somebody starts the agent again by itself, and where it is the only one."""
    from edge_agent.crash_count import CrashCount, kernel_boot
    from edge_agent.state_dir import is_held

    counts = os.environ.get("NOTIFY_SOCKET") and not is_held(state_dir)
    return CrashCount(state_dir, kernel_boot() if counts else "")


def _again() -> NoReturn:
    """Start anew in this process: it keeps its number, so that systemd, a container or a shell see one program that goes on."""
    logging.shutdown()
    sys.stdout.flush()
    # What ran this: `python -m`, a script, an option of the interpreter.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves, no shell
