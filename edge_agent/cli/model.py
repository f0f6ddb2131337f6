"""``model list``, ``show`` and ``import``; the other verbs of ``model`` have modules of their own."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.cli import model_checks, model_pull, model_shadow, model_update
from edge_agent.cli.common import out
from edge_agent.cli.model_common import MODEL, model_verb, models_dir, show_on_screen
from edge_agent.errors import UsageError

if TYPE_CHECKING:
    from edge_agent.model_tools.guess import Choices, Question


def add(verbs: Any) -> None:
    """Add ``model`` and its own verbs."""
    parser = verbs.add_parser("model", help="list, fetch, import, verify, compile and compare models")
    own = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_list(own)
    _add_import(own)
    model_pull.add(own)
    model_checks.add(own)
    model_update.add(own)
    model_shadow.add(own)


def _add_list(verbs: Any) -> None:
    model_verb(verbs, "list", _list, "list the models that are here", "")
    parser = model_verb(verbs, "show", _show, "show everything a model's manifest says", "person-n")
    parser.add_argument("model", metavar=MODEL)


def _add_import(verbs: Any) -> None:
    example = "helmets.onnx --labels person,helmet --name helmets --licence MIT"
    parser = model_verb(verbs, "import", _import, "turn somebody's network file into a model", example)
    parser.add_argument("file", type=Path, metavar="FILE", help="ONNX, TFLite, OpenVINO IR (.xml) or a .zip with one")
    parser.add_argument("--name", help="of the new model")
    parser.add_argument(
        "--add-to",
        metavar=MODEL,
        help="the same network for another device: a new --version of that model, with this file",
    )
    parser.add_argument("--version", help="default: 1.0.0; with --add-to there is none")
    parser.add_argument("--family", help="output family, where the file leaves it open")
    parser.add_argument("--labels", help="coco, coco91, voc, a file with one name a line, or names with commas")
    parser.add_argument("--size", metavar="WxH", help="input size, where the file leaves it open")
    parser.add_argument("--licence", help="default: what the file says")
    parser.add_argument("--image", type=Path, help="picture to try it on; default: a drawing of four people")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set a manifest key, as input.colour=BGR"
    )
    parser.add_argument("--replace", action="store_true", help="if this version is there already")


# ---- the work


def _list(args: argparse.Namespace) -> int:
    from edge_agent.detect.manifest import list_models
    from edge_agent.model_tools.show import models_table
    from edge_agent.model_tools.verify import Check, everything

    folder = models_dir(args)
    found = list_models(folder)
    broken = [check for check in everything(folder) if isinstance(check, Check)]
    if args.json:
        models = [m.model_dump(mode="json", exclude_none=True) for m in found]
        out(json.dumps({"ok": True, "models": models, "broken": [dataclasses.asdict(check) for check in broken]}))
    else:
        if found:
            show_on_screen(models_table(found))
        elif not broken:
            out(f"there is no model in {folder}")
        for check in broken:
            sys.stderr.write(f"{check.text}\n")
    return 0


def _show(args: argparse.Namespace) -> int:
    from edge_agent.detect.manifest import find_model
    from edge_agent.model_tools.show import model_table

    model = find_model(args.model, models_dir(args))
    if args.json:
        manifest = model.manifest.model_dump(mode="json", exclude_none=True)
        out(json.dumps({"ok": True, "folder": str(model.folder), "manifest": manifest}))
    else:
        show_on_screen(model_table(model))
    return 0


def _import(args: argparse.Namespace) -> int:
    from edge_agent.detect.manifest import find_model
    from edge_agent.model_tools import show
    from edge_agent.model_tools.guess import Choices
    from edge_agent.model_tools.importer import ImportRequest, import_model
    from edge_agent.model_tools.labels import read_labels

    base = find_model(args.add_to, models_dir(args)) if args.add_to else None
    name = base.manifest.name if base is not None else args.name
    if not name or (base is not None and (args.name or not args.version)):
        raise UsageError("give --name for a new model, or --add-to and the new --version")
    labels = read_labels(args.labels) if args.labels else ()
    choices = Choices(args.family, labels, "--labels", _size(args.size) if args.size else None)
    request = ImportRequest(
        source=args.file,
        name=name,
        version=args.version or "1.0.0",
        models_dir=models_dir(args),
        choices=choices,
        licence=args.licence,
        overrides=tuple(map(_override, args.set)),
        image=args.image,
        replace=args.replace,
        base=base,
    )
    asks = sys.stdin.isatty() and not args.json
    result = import_model(request, _ask if asks else _cannot_ask)
    if args.json:
        facts = {
            "ok": True,
            "model": f"{result.model.manifest.name}@{result.model.manifest.version}",
            "folder": str(result.model.folder),
            "because": [dataclasses.asdict(reason) for reason in result.reasons],
            "trial": dataclasses.asdict(result.sight) if result.sight else None,
            "not_tried": result.why_not,
            "warnings": result.warnings,
        }
        out(json.dumps(facts))
    else:
        show_on_screen(show.reasons_table(result.reasons))
        show_on_screen(show.imported(result))
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text.strip())
    if not found:
        raise UsageError(f"--size {text}: give WIDTHxHEIGHT in pixels, for example 640x640")
    return int(found[1]), int(found[2])


def _override(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"(input|decode)\.[a-z_]+|outputs|description", key):
        raise UsageError(f"--set {text}: give input.KEY=VALUE, decode.KEY=VALUE, outputs=[…] or description=…")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text}: the value is no YAML: {error}") from error


def _cannot_ask(questions: list[Question], _choices: Choices) -> Choices:
    raise UsageError("; ".join(f"give {q.option} ({q.text})" for q in questions))


def _ask(questions: list[Question], choices: Choices) -> Choices:
    from edge_agent.model_tools.labels import read_labels

    for question in questions:
        sys.stdout.write(f"{question.text}\n{question.option}: ")
        sys.stdout.flush()
        answer = sys.stdin.readline().strip()
        if not answer:
            raise UsageError(f"{question.option} was not answered: nothing was imported")
        if question.option == "--labels":
            choices = dataclasses.replace(choices, labels=read_labels(answer), labels_from="as you said")
        elif question.option == "--size":
            choices = dataclasses.replace(choices, size=_size(answer))
        else:
            choices = dataclasses.replace(choices, family=answer)
    return choices
