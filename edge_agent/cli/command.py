"""``command``: ask the agent that is running here, at its control socket."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from edge_agent import config_file
from edge_agent.cli.common import add_verb, out, positive
from edge_agent.errors import CommandError, UsageError

_PAUSE_S = 0.5


def add(verbs: Any) -> None:
    """Add ``command``."""
    parser = add_verb(
        verbs,
        "command",
        _command,
        "give a command to the agent that is running here; exit code 1 where it was refused or failed",
        'command log.level --args \'{"level": "debug", "minutes": 10}\'',
    )
    parser.add_argument("name", metavar="NAME", help="ping, status, restart, …; edge-agent schema commands lists them")
    parser.add_argument("--args", metavar="JSON", default="{}", help="its arguments; - reads them from standard input")
    parser.add_argument("--id", help="of an earlier command, to hear again what became of it; default: a new one")
    parser.add_argument(
        "--wait", type=positive, default=180, metavar="SECONDS", help="for the outcome; default: %(default)s"
    )
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="default: that of the configuration")


def _command(args: argparse.Namespace) -> int:
    text = sys.stdin.read() if args.args == "-" else args.args
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--args: not JSON: {error}") from error
    ident = args.id or f"cli-{secrets.token_hex(8)}"
    folder = args.state_dir if args.state_dir is not None else config_file.load(args.config).state_dir
    answer = ask_agent(folder, {"command": args.name, "id": ident, "args": arguments}, args.wait)
    if args.json:
        out(json.dumps(answer))
    elif answer["ok"]:
        out(json.dumps(answer["result"], indent=2, ensure_ascii=False))
    else:
        sys.stderr.write(f"edge-agent: {args.name}: {answer['error']['code']}: {answer['error']['message']}\n")
    return 0 if answer["ok"] else 1


def ask_agent(folder: Path, request: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """The answer. An agent that ends before it gives one, as it starts again, is asked anew with the same id."""
    from edge_agent.commands.control_socket import ask

    until = time.monotonic() + wait_s
    asked = False
    while (left := until - time.monotonic()) > 0:
        try:
            return ask(folder, request, left)
        except PermissionError as error:
            raise CommandError("not_allowed", f"{folder}: only the agent's own user and root may ask it") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not asked:
                raise CommandError("not_available", f"{folder}: no agent is running there") from error
        except (ConnectionError, BlockingIOError):  # it ended, or has more to do than it can take
            asked = True
        except TimeoutError:
            break
        except OSError as error:
            raise CommandError("not_available", f"{folder}: {error}") from error
        time.sleep(_PAUSE_S)
    raise CommandError("timeout", f"no answer after {wait_s} s; --id {request['id']} asks again")
