"""``python -m training``: train, resume, evaluate, distil, quantise, export, persons, finetune, latency."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training.trunk import TrunkError

DETECTORS_SIZE = 416
EXAMPLES = """\
examples:
  python -m training train training/configs/person-s.yaml --data data/ --out runs/person-s
  python -m training resume runs/person-s --images 200000
  python -m training distil training/configs/person-n.yaml --data data/ --teacher runs/person-s/best.pt --out runs/person-n
  python -m training evaluate runs/person-s/best.pt
  python -m training export runs/person-s/best.pt --out models/
  python -m training persons data/hardhat/train data/hardhat/val --from runs/person-s/best.pt
  python -m training train training/configs/ppe-head.yaml --data data/ --out runs/ppe-head
  python -m training finetune my-images/ --from runs/person-s/best.pt --name my-site --out models/
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 done, 1 failed, 2 bad usage, settings or data."""
    args = _parser().parse_args(argv)
    try:
        return int(args.verb(args))
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error}; training needs more than the agent: pip install -r training/requirements.txt\n")
        return 2
    except (ValueError, OSError) as error:  # settings, data and weights: what the message says is for the user
        sys.stderr.write(f"{error}\n")
        return 2
    except TrunkError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m training", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, work: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
        sub.set_defaults(verb=work)
        if work is not _latency:  # which has several
            sub.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
        return sub

    train = verb("train", _train, "train by a settings file; goes on where the run in --out stopped")
    distil = verb("distil", _train, "train with a teacher")
    for sub in (train, distil):
        sub.add_argument("settings", type=Path)
        sub.add_argument("--data", type=Path, help="folder the settings' paths are in; default: the settings' own")
        sub.add_argument("--out", type=Path, required=True, help="folder of the run")
    distil.add_argument("--teacher", type=Path, required=True, help="checkpoint or FP32 ONNX file of the same labels")

    resume = verb("resume", _resume, "go on with a run, perhaps for longer")
    resume.add_argument("run", type=Path)
    resume.add_argument("--images", type=int, help="new length of the whole run")

    evaluate = verb(
        "evaluate", _evaluate, "measure weights or exported files (.pt, .onnx, .tflite) on the validation sets"
    )
    evaluate.add_argument("weights", type=Path, nargs="+")
    evaluate.add_argument("--settings", type=Path, help="default: those inside the weights")
    evaluate.add_argument("--data", type=Path)
    evaluate.add_argument("--size", type=int, help="another input size, for .pt")
    evaluate.add_argument("--json", action="store_true")

    for name, about in (
        ("export", "write a model the agent takes: every format, measured, with manifest and card"),
        ("quantise", "write the files and the layer-by-layer report, without measuring"),
    ):
        sub = verb(name, _export, about)
        sub.add_argument("weights", type=Path)
        sub.add_argument("--settings", type=Path)
        sub.add_argument("--data", type=Path)
        sub.add_argument("--out", type=Path, required=True, help="folder of models: gets NAME/VERSION")
        sub.set_defaults(measured=name == "export")

    persons = verb(
        "persons", _persons, "find the persons on a data set's pictures, whose heads a classifier learns from"
    )
    persons.add_argument("folders", type=Path, nargs="+", help="each with images/; gets persons/")
    persons.add_argument("--from", dest="weights", type=Path, required=True, help="a detector of persons: .pt or .onnx")

    finetune = verb("finetune", _finetune, "adapt a model to your own labelled images and export it")
    finetune.add_argument(
        "images", type=Path, help="folder with images/, and labels/ (YOLO text) or annotations.json (COCO)"
    )
    finetune.add_argument("--from", dest="weights", type=Path, required=True, help="checkpoint or FP32 ONNX file")
    finetune.add_argument("--name", required=True)
    finetune.add_argument("--version", default="1.0.0")
    finetune.add_argument("--labels", help="with commas; default: the model's own")
    finetune.add_argument("--length", type=int, default=4000, help="images to see; default: %(default)s")
    finetune.add_argument("--out", type=Path, required=True)
    finetune.add_argument(
        "--golden",
        type=int,
        metavar="N",
        help="put N of the held-out pictures into the model, where everyone who gets it sees them: each box then tells by them "
        "whether the model sees. Default: pictures that come with this program, where the labels have person; else none",
    )

    latency = verb("latency", _latency, "time files in every runtime, in turns with YOLOX-nano's architecture")
    latency.add_argument("files", type=Path, nargs="+", help=".onnx and .tflite files, or folders with some")
    latency.add_argument("--threads", type=_counts, default=(1, 2), help="with commas; default: 1,2")
    latency.add_argument("--size", type=int, default=416, help="of the reference's input; default: %(default)s")
    latency.add_argument("--rounds", type=int, default=60, help="default: %(default)s")
    latency.add_argument("--json", action="store_true")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(map(int, text.split(",")))
    except ValueError:
        counts = (0,)
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers from 1 on with commas, for example 1,2")
    return counts


def _use(threads: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # pictures are made ready beside the training, not against it


def _run(settings: Any, folder: Path, threads: int) -> int:
    from training.curves import draw_run
    from training.loop import start, train
    from training.progress import RunProgress

    _use(threads)
    run = start(settings, folder)
    with RunProgress(run) as progress:
        train(run, min(8000, max(settings.schedule.images // 8, 1)), progress)
    draw_run(folder)
    return 0


def _train(args: argparse.Namespace) -> int:
    from training.settings import load_settings

    settings = load_settings(args.settings, args.data)
    if getattr(args, "teacher", None):
        if settings.task == "classify":
            raise ValueError(f"{args.settings}: a classifier knows no teacher; distil is for detectors")
        settings = settings.model_copy(update={"teacher": args.teacher.resolve()})
    return _run(settings, args.out, args.threads)


def _resume(args: argparse.Namespace) -> int:
    from training.checkpoint import load_checkpoint
    from training.settings import Settings

    settings = Settings.model_validate_json(load_checkpoint(args.run / "last.pt")["settings"])
    if args.images:
        schedule = settings.schedule.model_copy(update={"images": args.images})
        settings = settings.model_copy(update={"schedule": schedule})
    return _run(settings, args.run, args.threads)


def _settings(args: argparse.Namespace, weights: Path) -> Any:
    from training.checkpoint import load_model
    from training.settings import load_settings

    return load_settings(args.settings, args.data) if args.settings else load_model(weights)[1]


def _evaluate(args: argparse.Namespace) -> int:
    _use(args.threads)
    settings = _settings(args, args.weights[0])
    results: dict[str, Any] = {}
    for path in args.weights:
        measure = _measure_heads if settings.task == "classify" else _measure_boxes
        for title, scores, text in measure(path, settings, args):
            results.setdefault(str(path), {})[title] = scores.as_dict()
            if not args.json:
                sys.stdout.write(f"{path.name} on {title} {text}\n")
    if args.json:
        sys.stdout.write(json.dumps(results) + "\n")
    return 0


def _measure_boxes(path: Path, settings: Any, args: argparse.Namespace) -> Iterator[tuple[str, Any, str]]:
    from training.checkpoint import load_model
    from training.data import read_source
    from training.evaluation import measure
    from training.progress import following
    from training.runtimes import onnx_predictor, tflite_predictor
    from training.tasks import predictor

    size = args.size or settings.size
    if path.suffix == ".pt":
        predict = predictor(load_model(path)[0])
    else:
        predict = (onnx_predictor if path.suffix == ".onnx" else tflite_predictor)(path, size, args.threads)
    for source in settings.validate_on:
        samples = following(read_source(source), f"{path.name} on {source.title}")
        s = measure(predict, samples, size, settings.labels)
        text = (
            f"at {size}: AP50 {s.ap50:.3f} ({s.interval[0]:.3f}–{s.interval[1]:.3f}), AP {s.ap:.3f}, "
            f"small {s.ap_small:.3f}, medium {s.ap_medium:.3f}, large {s.ap_large:.3f}, "
            f"AR {s.recall:.3f}{_points(s)}; {s.images} images, {s.objects} objects"
        )
        yield source.title, s, text


def _measure_heads(path: Path, settings: Any, args: argparse.Namespace) -> Iterator[tuple[str, Any, str]]:
    from training.attributes import measure_heads, read_held
    from training.checkpoint import load_model
    from training.runtimes import file_judge
    from training.tasks import judge_of

    if args.size not in (None, settings.size):
        raise ValueError(f"--size {args.size}: a classifier is made for one size, {settings.size}")
    judge = judge_of(load_model(path)[0]) if path.suffix == ".pt" else file_judge(path, args.threads)
    held = read_held(settings.validate_on, settings.labels, settings.size)
    for title, v in measure_heads(judge, held, settings.labels).items():
        yield title, v, f"at {settings.size}: {v.text}"


def _points(scores: Any) -> str:
    return "".join(f", recall {p.recall:.3f} at precision {p.precision:g} (score {p.score:.2f})" for p in scores.points)


def _export(args: argparse.Namespace) -> int:
    _use(args.threads)
    settings = _settings(args, args.weights) if args.settings else None
    sys.stdout.write(f"{_bundle(args.weights, settings, args.out, measured=args.measured)}\n")
    return 0


def _bundle(weights: Path, settings: Any, out: Path, *, measured: bool, own_golden: int | None = None) -> Path:
    import shutil

    from training import golden_set, latency
    from training.bundle import FILES, finish, measure_files, write_files
    from training.curves import draw_precision
    from training.data import read_source

    bundle = write_files(weights, settings, out)
    curves = []
    if (weights.parent / "curves.png").exists():
        curves.append(Path(shutil.copy(weights.parent / "curves.png", bundle.folder)).name)
    if not measured:
        return finish(bundle, (), curves)
    run = bundle.settings
    pictures = golden_set.bundled() if run.task == "detect" and "person" in run.labels else None
    if own_golden:
        held_out = [sample for source in run.validate_on for sample in read_source(source)]
        pictures = golden_set.of_samples(held_out, run.labels, own_golden)
    measure_files(bundle, list(FILES))
    curves.append(draw_precision(bundle.measured["fp32.onnx"], bundle.folder / "precision.png").name)
    # A crop comes beside a picture: what it costs is told against a detector at the size those run at.
    size = DETECTORS_SIZE if run.task == "classify" else run.size
    timings = latency.measure_files([bundle.path(kind) for kind in FILES], size)
    return finish(bundle, timings, curves, pictures)


def _finetune(args: argparse.Namespace) -> int:
    from training.finetune import fresh_run, settings_for

    settings = settings_for(
        args.images,
        args.weights,
        name=args.name,
        version=args.version,
        labels=tuple(args.labels.split(",")) if args.labels else None,
        images_seen=args.length,
    )
    run = fresh_run(args.out / f".{args.name}-run", settings)
    _run(settings, run, args.threads)
    sys.stdout.write(f"{_bundle(run / 'best.pt', None, args.out, measured=True, own_golden=args.golden)}\n")
    return 0


def _persons(args: argparse.Namespace) -> int:
    from training.checkpoint import load_model
    from training.network import Detector
    from training.persons import find_persons
    from training.runtimes import onnx_predictor
    from training.tasks import predictor

    _use(args.threads)
    model, settings = load_model(args.weights)
    if not isinstance(model, Detector) or "person" not in settings.labels:
        raise ValueError(
            f"{args.weights}: {settings.name} is no detector of persons (labels: {', '.join(settings.labels)})"
        )
    onnx = args.weights.suffix == ".onnx"
    predict = onnx_predictor(args.weights, settings.size, args.threads) if onnx else predictor(model)
    for folder in args.folders:
        count = find_persons(folder, predict, settings.size, args.weights, settings.labels.index("person"))
        sys.stdout.write(f"{folder}: {count} persons\n")
    return 0


def _latency(args: argparse.Namespace) -> int:
    from training.latency import files_of, measure_files, missing, table

    if absent := missing():
        sys.stderr.write(f"left out, as it is not installed: {', '.join(absent)}\n")
    timings = measure_files(files_of(args.files), args.size, args.threads, args.rounds)
    sys.stdout.write(json.dumps([t.as_dict() for t in timings]) + "\n" if args.json else table(timings))
    return 0
