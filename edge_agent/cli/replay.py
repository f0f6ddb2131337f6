"""``replay``: tracking and rules on a record."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from edge_agent import config_file
from edge_agent.cli.common import add_verb
from edge_agent.config import Config


def add(verbs: Any) -> None:
    """Add ``replay``."""
    parser = add_verb(
        verbs, "replay", _replay, "run tracking and use cases on a --record file", "replay out.jsonl --json"
    )
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    parser.add_argument(
        "--model",
        metavar="NAME[@VERSION]|auto",
        help="see that the use cases know its labels; default: the record's are taken",
    )
    parser.add_argument("--record", type=Path, metavar="OUT.jsonl", help="write tracks and pairs anew")


def _replay(args: argparse.Namespace) -> int:
    from edge_agent.chains import check_labels
    from edge_agent.detect.default_model import take_model
    from edge_agent.run_display import run_replay

    config: Config = config_file.load(args.config)
    if args.model is not None:
        check_labels(config, take_model(args.model, config.models_dir, config.detect).model.manifest)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    return run_replay(args.file, config, record=args.record, as_json=args.json)
