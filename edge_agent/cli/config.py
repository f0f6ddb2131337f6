"""``check`` and ``schema``: the configuration, and the contract for machines."""

from __future__ import annotations

import argparse
import json
from typing import Any

from edge_agent import config_trial
from edge_agent.cli.common import add_verb, out
from edge_agent.config import json_schema as config_schema
from edge_agent.config_overlay import keys
from edge_agent.config_trial import Overlay


def add(verbs: Any) -> None:
    """Add ``check`` and ``schema``."""
    add_verb(
        verbs,
        "check",
        _check,
        "validate the configuration and say every problem in it",
        "check -c /etc/edge-agent/config.yaml",
    )
    parser = add_verb(
        verbs, "schema", _schema, "print a JSON Schema", "schema config > config.schema.json", config=False
    )
    choices = ["config", "events", "messages", "asyncapi", "commands"]
    parser.add_argument("of", choices=choices, help="what to describe")


def _check(args: argparse.Namespace) -> int:
    from edge_agent.chains import check
    from edge_agent.config_layer import store_of

    config, overlay = config_trial.effective(args.config)
    facts = check(config)
    signed = store_of(config.state_dir).read()
    if signed.active is not None:
        job = signed.job
        facts.append(f"signed configuration: {signed.active.label} ({'' if job is None else job.state})")
    if overlay.state != "none":
        facts.append(f"changes from afar: {', '.join(keys(overlay.patch)) or 'none'} ({_standing(overlay)})")
    if args.json:
        out(json.dumps({"ok": True, "config": str(args.config), "config_hash": config.digest(), "facts": facts}))
    else:
        out(f"{args.config}: ok (site {config.site}, device {config.device}, {len(config.cameras)} camera(s))")
        for fact in facts:
            out(f"  {fact}")
    return 0


def _standing(overlay: Overlay) -> str:
    state = overlay.state.replace("_", " ")
    return f"the last was {state}: {overlay.reason}" if overlay.state == "rolled_back" else state


def _schema(args: argparse.Namespace) -> int:
    from edge_agent.contract import asyncapi, schemas

    if args.of == "asyncapi" and not args.json:
        out(asyncapi.as_yaml().rstrip())
        return 0
    described = {
        "config": config_schema,
        "events": schemas.events,
        "messages": schemas.messages,
        "asyncapi": asyncapi.document,
        "commands": schemas.command_schemas,
    }
    out(json.dumps(described[args.of](), indent=None if args.json else 2))
    return 0
