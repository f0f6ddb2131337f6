"""``samples``: the pictures that the agent kept for training."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent import config_file
from edge_agent.cli.common import add_verb, out
from edge_agent.errors import UsageError

if TYPE_CHECKING:
    from edge_agent.sample_store import SampleStore


def add(verbs: Any) -> None:
    """Add ``samples`` and its own verbs."""
    parser = verbs.add_parser("samples", help="pictures kept for training: list, export, clear")
    own = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    add_verb(own, "list", _list, "list the pictures that were kept, and why", "samples list")
    about = "write them and what the model saw in them as a data set in COCO's format"
    export = add_verb(own, "export", _export, about, "samples export my-samples")
    export.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    add_verb(own, "clear", _clear, "remove all of them from this box", "samples clear")


def _store(args: argparse.Namespace) -> SampleStore:
    from edge_agent.sample_store import SampleStore

    return SampleStore(config_file.load(args.config).state_dir / "samples")


def _list(args: argparse.Namespace) -> int:
    from edge_agent.sample_store import every

    store = _store(args)
    found = list(every(store))
    if args.json:
        kept = [{"name": name, **sample.model_dump(mode="json", exclude={"boxes", "format"})} for name, sample in found]
        out(json.dumps({"ok": True, "samples": kept}))
        return 0
    for name, sample in found:
        hidden = "pixelated" if sample.pixelated else "as it was"
        out(f"{name:44} {sample.reason:10} {len(sample.boxes):4} boxes  {sample.model}  {hidden}")
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(s.reason for _, s in found).items())
    size = sum(store.size(name) for name, _ in found)
    out(f"{len(found)} pictures, {size / 1e6:.1f} MB{': ' if reasons else ''}{reasons}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from edge_agent.sample_export import export

    store = _store(args)
    if not store.names():
        raise UsageError(f"{store.folder}: no pictures were kept here (samples, privacy.images)")
    pictures, boxes = export(store, args.folder)
    if args.json:
        out(json.dumps({"ok": True, "folder": str(args.folder), "images": pictures, "annotations": boxes}))
    else:
        out(f"{pictures} pictures with {boxes} boxes in {args.folder}; the boxes are predictions: correct them first")
    return 0


def _clear(args: argparse.Namespace) -> int:
    store = _store(args)
    names = store.names()
    try:
        for name in names:
            store.remove(name)
    except OSError as error:
        raise UsageError(f"{store.folder}: {error.strerror}") from error
    out(json.dumps({"ok": True, "removed": len(names)}) if args.json else f"{len(names)} pictures removed")
    return 0
