"""``sop check``: the procedures of a configuration, drawn and in sentences."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edge_agent import config_file
from edge_agent.cli.common import add_verb, out
from edge_agent.errors import ConfigError


def add(verbs: Any) -> None:
    """Add ``sop`` and its own verb."""
    parser = verbs.add_parser("sop", help="check and explain standard operating procedures")
    own = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    about = "draw the procedures of a configuration as Mermaid text and explain them; exit code 2 where one is wrong"
    check = add_verb(own, "check", _check, about, "sop check docs/examples/sop-hand-wash.yaml", config=False)
    check.add_argument("config", type=Path, metavar="FILE", help="a configuration with use_cases.sop")


def _check(args: argparse.Namespace) -> int:
    from edge_agent.detect.manifest import list_models
    from edge_agent.usecases.sop_explain import mermaid, sentences

    config = config_file.load(args.config)
    if config.use_cases.sop is None:
        raise ConfigError([f"{args.config}: names no procedure; there is no use_cases.sop"])
    models = list_models(config.models_dir)
    told = []
    for procedure in config.use_cases.sop.procedures:
        fit = [f"{m.name}@{m.version}" for m in models if set(procedure.requires_labels) <= set(m.labels)]
        there = f"Models here that know these: {', '.join(fit)}." if fit else "No model here knows all of these."
        words = [*sentences(procedure), f"It needs the labels {', '.join(procedure.requires_labels)}. {there}"]
        told.append({"name": procedure.name, "mermaid": mermaid(procedure), "sentences": words, "models": fit})
        if not args.json:
            out("\n".join([f"# {procedure.name}", "", *words, "", mermaid(procedure), ""]))
    if args.json:
        out(json.dumps({"ok": True, "config": str(args.config), "procedures": told}))
    return 0
