"""What the verbs of ``model`` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_agent import config_file
from edge_agent.cli.common import Verb, add_verb
from edge_agent.config import Config, DetectConfig

MODEL = "NAME[@VERSION]"


def model_verb(verbs: Any, name: str, verb: Verb, about: str, example: str) -> argparse.ArgumentParser:
    """A verb of ``model``."""
    parser = add_verb(verbs, name, verb, about, f"model {name} {example}".rstrip())
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="default: that of the configuration")
    return parser


def config(args: argparse.Namespace) -> Config | None:
    """The configuration, where there is one: these verbs work without. Raises ConfigError."""
    return config_file.load(args.config) if args.config.is_file() else None


def models_dir(args: argparse.Namespace) -> Path:
    """Where the models are."""
    if args.models_dir is not None:
        return Path(args.models_dir)
    found = config(args)
    return found.models_dir if found is not None else Path("models")


def detect_config(args: argparse.Namespace) -> DetectConfig:
    """How detectors are to run."""
    found = config(args)
    return found.detect if found is not None else DetectConfig()


def cache(args: argparse.Namespace) -> Path:
    """Where the agent keeps what backends build."""
    found = config(args)
    return (found.state_dir if found is not None else Path(".state")) / "cache"


def show_on_screen(renderable: Any) -> None:
    """Print a table; into a file or a pipe at a width of its own."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=140)).print(renderable)
