"""``bench``: how fast this box is with this model."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from edge_agent import config_file
from edge_agent.cli.common import add_verb, default_config, end, named, out, positive
from edge_agent.config import CameraConfig, Config, DetectConfig, SocialDistancingConfig, UseCasesConfig
from edge_agent.logs import setup_logging

if TYPE_CHECKING:
    from edge_agent.bench.compare import Comparison
    from edge_agent.bench.result import BenchResult

_STREAMS = 64


def add(verbs: Any) -> None:
    """Add ``bench``."""
    parser = add_verb(
        verbs,
        "bench",
        _bench,
        "measure this box: each stage, the model alone, the whole pipeline",
        "bench --seconds 20 --json > bench.json; edge-agent bench --compare bench.json",
    )
    backends = get_args(DetectConfig.model_fields["backend"].annotation)
    parser.add_argument(
        "--source",
        type=named,
        metavar="URI",
        help="in place of the first camera's; a file is looped for as long as it takes",
    )
    parser.add_argument("--model", metavar="NAME[@VERSION]|auto", help="default: the configured one")
    parser.add_argument("--backend", choices=backends, help="default: the configured one")
    parser.add_argument("--streams", type=_streams, default=1, metavar="N", help="the same source N times")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=_seconds, default=15.0, metavar="S", help="how long; default: %(default)g")
    length.add_argument("--frames", type=positive, metavar="N", help="how many frames, in place of --seconds")
    parser.add_argument("--realtime", action="store_true", help="read a file at its own pace, as from a camera")
    parser.add_argument("--compare", type=Path, metavar="EARLIER.json", help="exit code 1 where it has become worse")
    parser.add_argument(
        "--tolerance", type=_tolerance, default=0.1, metavar="SHARE", help="what counts as worse; default: %(default)g"
    )
    parser.add_argument("--from", type=Path, dest="kept", metavar="RESULT.json", help="show this, measure nothing")


def _bench(args: argparse.Namespace) -> int:
    from edge_agent.bench.compare import compare
    from edge_agent.bench.result import read_result

    earlier = None if args.compare is None else read_result(args.compare)
    result = _measure(args) if args.kept is None else read_result(args.kept)
    found = None if earlier is None else compare(earlier, result, args.tolerance)
    if args.json:
        out(json.dumps(result.model_dump(mode="json") | _plain(found)))
    else:
        _show(result, found)
    return end(int(found is not None and bool(found.worse)))


def _measure(args: argparse.Namespace) -> BenchResult:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from edge_agent.bench.measure import Plan, measure

    config = _config(args)
    setup_logging(config.logging.model_copy(update={"level": "warning"}))
    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()
    silent = args.json or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as bar:
        task = bar.add_task("starting", total=1.0)
        return measure(
            config,
            Plan(args.seconds, args.frames, args.realtime),
            args.streams,
            lambda share, what: bar.update(task, completed=share, description=what),
        )


def _config(args: argparse.Namespace) -> Config:
    """The file's, or with ``--source`` and no file anywhere the defaults; the command line wins."""
    if args.source is not None and args.config == default_config() and not args.config.exists():
        config = _default(args.source, args.model, args.backend)
    else:
        config = config_file.load(args.config)
    return config.overridden(source=args.source, model=args.model, backend=args.backend)


def _default(source: str, model: str | None, backend: str | None) -> Config:
    """Without a file: the use case there is, where the model sees people."""
    from edge_agent.detect.default_model import take_model

    cameras, models = [CameraConfig(id="bench", source=source)], Path("models").absolute()
    config = Config(cameras=cameras, models_dir=models, state_dir=Path(".state").absolute())
    config = config.overridden(model=model, backend=backend)
    distancing = SocialDistancingConfig()
    if distancing.label not in take_model(config.model, models, config.detect).model.manifest.labels:
        return config
    return config.model_copy(update={"use_cases": UseCasesConfig(social_distancing=distancing)})


def _plain(found: Comparison | None) -> dict[str, Any]:
    if found is None:
        return {}
    rows = [asdict(row) | {"change": row.change} for row in found.rows]
    worse = [row.name for row in found.worse]
    return {"compare": {"tolerance": found.tolerance, "worse": worse, "rows": rows, "notes": found.notes}}


def _show(result: BenchResult, found: Comparison | None) -> None:
    from rich.console import Console

    from edge_agent.bench.report import comparison, report

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    console.print(report(result))
    if found is not None:
        console.print()
        console.print(comparison(found))


def _streams(text: str) -> int:
    value = positive(text)
    if value > _STREAMS:
        raise argparse.ArgumentTypeError(f"at most {_STREAMS}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 3600")
    return value


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text} is not a share such as 0.1")
    return value
