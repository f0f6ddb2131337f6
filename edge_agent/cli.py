"""The command line: ``edge-agent <verb> [-c config.yaml]``.

Exit codes: 0 done; 1 failed at run time; 2 bad usage or config (nothing was started); 3 hardware or model missing;
130 interrupted from the keyboard (``run`` stops in order instead, and ends with 0).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_agent import __version__, config_file
from edge_agent.config import Config, json_schema
from edge_agent.errors import ConfigError, EdgeAgentError
from edge_agent.logs import setup_logging

Verb = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the process's exit code."""
    # Before anything can import onnxruntime: it reads this once, and would otherwise call its maker.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    args = _parser().parse_args(argv)
    verb: Verb = args.verb
    try:
        return verb(args)
    except ConfigError as error:
        located = config_file.locate(args.config, error) if args.config.is_file() else error
        return _fail(args, error, located.problems)
    except EdgeAgentError as error:
        return _fail(args, error, [str(error)])
    except KeyboardInterrupt:  # ``run`` stops in order once it runs; everything else just ends
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not our failure, but nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(args: argparse.Namespace, error: EdgeAgentError, problems: list[str]) -> int:
    if getattr(args, "json", False):
        _out(json.dumps({"ok": False, "error": type(error).__name__, "problems": problems}))
    else:
        for problem in problems:
            sys.stderr.write(f"edge-agent: {problem}\n")
    return error.exit_code


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-agent",
        description="Computer vision on the box next to the camera.",
        epilog="Example: edge-agent run -c config.yaml",
    )
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_run(verbs)
    _add_check(verbs)
    _add_schema(verbs)
    _add_replay(verbs)
    _add_calibrate(verbs)
    return parser


def _add(
    verbs: Any, name: str, verb: Verb, about: str, example: str, *, config: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"Example: edge-agent {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verb=verb)
    if config:
        parser.add_argument("-c", "--config", type=Path, default=_default_config(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _default_config() -> Path:
    """``config.yaml`` here, else the system's."""
    here = Path("config.yaml")
    return here if here.exists() else Path("/etc/edge-agent/config.yaml")


# ---- run


def _add_run(verbs: Any) -> None:
    parser = _add(verbs, "run", _run, "run the agent", "--source video.mp4 --record out.jsonl --no-mqtt")
    parser.add_argument("--source", type=_named, metavar="URI", help="replaces the source of the first camera")
    parser.add_argument("--model", metavar="NAME[@VERSION]", help="use this model for this run")
    parser.add_argument(
        "--realtime", action="store_true", help="read a file at its own pace, dropping what comes too late"
    )
    parser.add_argument("--max-frames", type=_positive, metavar="N", help="stop after N frames of each camera")
    parser.add_argument(
        "--record", type=Path, metavar="FILE.jsonl", help="write what was seen in each frame (no pictures)"
    )
    parser.add_argument(
        "--no-mqtt", action="store_true", help="do not connect to the broker; events wait in the outbox"
    )


def _named(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a URL, a device, a file or a folder")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _run(args: argparse.Namespace) -> int:
    from edge_agent.app import Agent, RunOptions
    from edge_agent.run_display import run_with_display

    config = config_file.load(args.config)
    setup_logging(config.logging)
    options = RunOptions(
        source=args.source,
        model=args.model,
        realtime=args.realtime,
        max_frames=args.max_frames,
        record=args.record,
        mqtt=not args.no_mqtt,
    )
    code = run_with_display(Agent(config, options), as_json=args.json)
    if threading.active_count() > 1:
        # A thread hangs in native code (a dead camera, a driver): tearing the interpreter down under it may hang as well.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


# ---- check and schema


def _add_check(verbs: Any) -> None:
    _add(
        verbs,
        "check",
        _check,
        "validate the configuration and say every problem in it",
        "-c /etc/edge-agent/config.yaml",
    )


def _check(args: argparse.Namespace) -> int:
    from edge_agent.chains import check

    config = config_file.load(args.config)
    facts = check(config)
    if args.json:
        _out(json.dumps({"ok": True, "config": str(args.config), "config_hash": config.digest(), "facts": facts}))
    else:
        _out(f"{args.config}: ok (site {config.site}, device {config.device}, {len(config.cameras)} camera(s))")
        for fact in facts:
            _out(f"  {fact}")
    return 0


def _add_schema(verbs: Any) -> None:
    parser = _add(verbs, "schema", _schema, "print a JSON Schema", "config > config.schema.json", config=False)
    parser.add_argument("of", choices=["config"], help="what to describe")


def _schema(args: argparse.Namespace) -> int:
    _out(json.dumps(json_schema(), indent=None if args.json else 2))
    return 0


# ---- replay


def _add_replay(verbs: Any) -> None:
    parser = _add(verbs, "replay", _replay, "run tracking and use cases on a --record file", "out.jsonl --json")
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--record", type=Path, metavar="OUT.jsonl", help="write tracks and pairs anew")


def _replay(args: argparse.Namespace) -> int:
    from edge_agent.run_display import run_replay

    config: Config = config_file.load(args.config)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    return run_replay(args.file, config, record=args.record, as_json=args.json)


# ---- calibrate


def _add_calibrate(verbs: Any) -> None:
    parser = _add(
        verbs,
        "calibrate",
        _calibrate,
        "fit a camera's ground plane to measured points and show how well they agree",
        '--camera pets --points "502,208=-2,-6; 410,230=-5,-5; 379,266=-8,-6; 298,304=-11,-6"',
    )
    parser.add_argument("--camera", metavar="ID", help="default: the first one")
    parser.add_argument("--points", metavar='"u,v=x,y; …"', help="pixels = metres; default: those of the configuration")
    parser.add_argument(
        "--image-size", metavar="WxH", help="picture the pixels were measured in; default: the configured one"
    )


def _calibrate(args: argparse.Namespace) -> int:
    from edge_agent.calibration import calibrate

    config = config_file.load(args.config)
    result = calibrate(config, args.camera, args.points, args.image_size)
    if args.json:
        _out(json.dumps({"ok": True, **result.facts}))
    else:
        _out(result.table)
        _out("\nFor the configuration:\n")
        _out(result.yaml)
    return 0


if __name__ == "__main__":
    sys.exit(main())
