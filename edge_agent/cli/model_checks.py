"""``model verify``, ``compile`` and ``parity``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

from edge_agent.cli.common import out, positive
from edge_agent.cli.model_common import MODEL, cache, detect_config, model_verb, models_dir, show_on_screen
from edge_agent.detect.manifest import BackendName
from edge_agent.errors import ModelError, UsageError


def add(verbs: Any) -> None:
    """Add the verbs."""
    about = "check hashes, run each file that this box can run, and judge it by the model's golden pictures"
    parser = model_verb(verbs, "verify", _verify, about, "person-n")
    parser.add_argument("model", nargs="?", metavar=MODEL, help="default: all")
    parser.add_argument("--image", type=Path, help="picture to run on; default: a drawing of four people")
    about = "make the file for a device from a model's ONNX or TFLite file"
    parser = model_verb(verbs, "compile", _compile, about, "person-n --target openvino")
    parser.add_argument("model", metavar=MODEL)
    parser.add_argument("--target", required=True, choices=["tensorrt", "coral", "openvino"])
    parser.add_argument(
        "--as-version", metavar="VERSION", help="of the copy that is made; default: the old one, -TARGET"
    )
    parser.add_argument("--replace", action="store_true", help="if that version is there already")
    _add_parity(verbs)


def _add_parity(verbs: Any) -> None:
    about = "compare two models, or one model on two backends, picture by picture"
    example = "person-n person-n --backend-b openvino --images pictures/"
    parser = model_verb(verbs, "parity", _parity, about, example)
    parser.add_argument("a", metavar="A", help=MODEL)
    parser.add_argument("b", metavar="B", help=MODEL)
    parser.add_argument("--images", required=True, type=Path, metavar="DIR|VIDEO")
    for side in ("a", "b"):
        parser.add_argument(
            f"--backend-{side}", choices=get_args(BackendName), help="default: that of the model's first file"
        )
    parser.add_argument(
        "--labels", type=Path, metavar="COCO.json", help="true boxes; default: what A sees counts as true"
    )
    parser.add_argument("--criterion", choices=["fp32", "fp16", "int8"], help="default: by the less precise of the two")
    parser.add_argument(
        "--max-images", type=positive, default=200, metavar="N", help="spread evenly; default: %(default)s"
    )


# ---- verify


def _verify(args: argparse.Namespace) -> int:
    from edge_agent.detect.manifest import find_model
    from edge_agent.model_tools.show import checks_table
    from edge_agent.model_tools.verify import Check, everything, verify

    folder, detect = models_dir(args), detect_config(args)
    checks: list[Check] = []
    for found in [find_model(args.model, folder)] if args.model else everything(folder):
        checks += [found] if isinstance(found, Check) else verify(found, detect, args.image)
    if not checks:
        raise ModelError(f"there is no model in {folder}")
    ok = all(check.state != "fail" for check in checks)
    if args.json:
        out(json.dumps({"ok": ok, "checks": [dataclasses.asdict(check) for check in checks]}))
    else:
        show_on_screen(checks_table(checks))
    return 0 if ok else 3


# ---- compile


def _compile(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from edge_agent.detect.manifest import find_model
    from edge_agent.model_tools.compile import CompileRequest, compile_model

    folder = models_dir(args)
    request = CompileRequest(
        model=find_model(args.model, folder),
        target=args.target,
        models_dir=folder,
        config=detect_config(args),
        cache=cache(args),
        version=args.as_version,
        replace=args.replace,
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal or args.json) as progress:
        task = progress.add_task("compiling", total=None)

        def show(doing: str, done: float | None) -> None:
            progress.update(task, description=doing, completed=done or 0.0, total=1.0 if done is not None else None)

        result = compile_model(dataclasses.replace(request, progress=show))
    if args.json:
        out(json.dumps({"ok": True, **dataclasses.asdict(result)}))
    else:
        out(f"{result.made}: {result.text}")
        for line in result.warnings:
            out(f"warning: {line}")
    return 0


# ---- parity


def _parity(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from edge_agent.model_tools import parity
    from edge_agent.model_tools.show import parity_table

    truths = parity.read_truth(args.labels) if args.labels else None
    total = parity.count_pictures(args.images, args.max_images)
    sides = _side(args, "a"), _side(args, "b")
    if sides[0] == sides[1] and truths is None:
        # It would be the same, and a script on a device would take that for a proof. With true boxes it is a measurement.
        name = f"{sides[0].network.label} on {sides[0].backend}"
        raise UsageError(f"both sides are {name}: name two versions, or two backends with --backend-a and --backend-b")
    with parity.open_pair(*sides, detect_config(args)) as (a, b, usual):
        if set(a.labels).isdisjoint(b.labels):
            raise UsageError(f"{args.a} and {args.b} have no label in common")
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal or args.json) as progress:
            task = progress.add_task("comparing", total=total)
            pictures = parity.read_pictures(args.images, args.max_images)
            criterion = args.criterion or usual
            report = parity.compare(a, b, pictures, criterion, truths, lambda: progress.advance(task))
        names = [f"{d.network.label} on {d.backend_name} ({d.backend.device})" for d in (a, b)]
    if args.json:
        out(json.dumps({"ok": report.passed, "a": names[0], "b": names[1], **dataclasses.asdict(report)}))
    else:
        show_on_screen(parity_table(names, report))
    return 0 if report.passed else 1


def _side(args: argparse.Namespace, side: str) -> Any:
    from edge_agent.detect.manifest import find_model
    from edge_agent.model_tools.parity import Side

    model = find_model(getattr(args, side), models_dir(args))
    backend = getattr(args, f"backend_{side}") or model.manifest.files[0].backend
    return Side(model.network(backend), backend, cache(args))
