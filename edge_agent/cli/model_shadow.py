"""``model shadow``: a model that the running agent shall try on its frames, beside the one at work."""

from __future__ import annotations

import argparse
import json
import re
import time
from typing import TYPE_CHECKING, Any

from edge_agent import config_file
from edge_agent.cli.common import add_verb, duration, out
from edge_agent.errors import ActivationFailed, UsageError

if TYPE_CHECKING:
    from edge_agent.cli.model_running import RunningAgent

_POLL_S = 0.5


def add(verbs: Any) -> None:
    """Add the verb."""
    about = "let a model look at a share of the frames beside the one at work, or tell how that goes; nothing else comes of it"
    parser = add_verb(verbs, "shadow", _shadow, about, "model shadow person-s@1.0.0 --for 8h")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("model", nargs="?", metavar="NAME@VERSION", help="default: tell how the last one did")
    what.add_argument("--stop", action="store_true", help="end the one that is in shadow")
    parser.add_argument(
        "--fraction", type=_fraction, default=0.1, metavar="0-1", help="share of the frames; default: %(default)s"
    )
    parser.add_argument("--for", dest="time", type=duration, default=3600.0, metavar="TIME", help="default: 1h")


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share of the frames: more than 0, at most 1")
    return value


def _shadow(args: argparse.Namespace) -> int:
    from edge_agent.cli.model_running import RunningAgent
    from edge_agent.cli.model_update import bar

    if args.model is not None and not re.fullmatch(r"[^@]+@[^@]+", args.model):
        raise UsageError(f"{args.model}: give NAME@VERSION, as edge-agent model list shows them")
    agent = RunningAgent(config_file.load(args.config))
    if args.model is not None:
        agent.ask("model.shadow", model=args.model, fraction=args.fraction, minutes=args.time / 60)
    elif args.stop:
        agent.ask("model.shadow", model=None)
    with bar(quiet=args.json) as progress:
        while (found := _of(agent)) is not None and found["state"] in _waits_for(args):
            progress(f"{found['model']}: {found['state']}", found["progress"])
            time.sleep(_POLL_S)
    if args.model is not None and found is not None and found["reason"] and not found["beside"]:
        raise ActivationFailed(f"{found['model']} is not in shadow ({found['reason']}): {found['detail']}")
    if args.json:
        out(json.dumps({"ok": True, "shadow": found}))
    elif found is None:
        out("no model was in shadow here")
    else:
        _show(found)
    return 0


def _waits_for(args: argparse.Namespace) -> tuple[str, ...]:
    """The states in which what was asked for has not come about."""
    if args.stop:
        return ("preparing", "running")
    return ("preparing",) if args.model is not None else ()


def _of(agent: RunningAgent) -> dict[str, Any] | None:
    found: dict[str, Any] | None = agent.ask("status")["model"]["shadow"]
    return found


def _show(found: dict[str, Any]) -> None:
    why = f" ({found['reason']}: {found['detail']})" if found["reason"] else ""
    share = "" if found["progress"] is None else f", {found['progress']:.0%}"
    out(f"{'model':12} {found['model']}, beside {found['beside'] or '-'}")
    out(f"{'state':12} {found['state']}{why}; {found['fraction']:g} of the frames for {found['minutes']:g} min{share}")
    out(f"{'frames':12} {found['frames']}; it failed on {found['failed']}, had no time for {found['missed']}")
    out(f"{'agreement':12} {_or_not(found['agreement'], '{:.1%}')} of the boxes of both")
    out(f"{'score':12} {_or_not(found['score_difference'], '{:+.3f}')} against the other's, where they agree")
    own, other = (_or_not(found[key], "{:.1f} ms") for key in ("latency_ms", "active_latency_ms"))
    out(f"{'latency':12} {own} at low priority, the other {other}")
    for label, of in found["labels"].items():
        agree = _or_not(of["agreement"], "{:.1%}")
        out(f"{label:12} {of['active']} boxes by the model at work, {of['shadow']} in shadow, agreement {agree}")


def _or_not(value: float | None, words: str) -> str:
    return "-" if value is None else words.format(value)
