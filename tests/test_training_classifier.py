"""Training's classifier as a network: its files compute what it does, a run goes on and ends in a model the agent runs. Needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("ai_edge_litert")

from edge_agent.config import DetectConfig  # noqa: E402
from edge_agent.detect.backends import LoadRequest  # noqa: E402
from edge_agent.detect.classifier import ModelClassifier  # noqa: E402
from edge_agent.detect.manifest import load_model as load_manifest  # noqa: E402
from tests.test_training_heads import LABELS, dataset, source  # noqa: E402
from training import edge_tpu  # noqa: E402
from training.bundle import finish, measure_files, write_files  # noqa: E402
from training.checkpoint import load_model  # noqa: E402
from training.classifier import Classifier, attribute_losses  # noqa: E402
from training.cli import main  # noqa: E402
from training.equalise import equalise  # noqa: E402
from training.export_onnx import SCORES, export_onnx  # noqa: E402
from training.export_tflite import export_tflite  # noqa: E402
from training.graph import run, to_input, trace  # noqa: E402
from training.loop import start, train  # noqa: E402
from training.network import FULL_HIDDEN, NetworkSpec, Trunk, load_weights  # noqa: E402
from training.quantise import centred, quantise  # noqa: E402
from training.runtimes import file_judge, file_outputs  # noqa: E402
from training.settings import Crops, Network, Schedule, Settings  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
torch.set_num_threads(1)
SIZE = 64
HIDDEN = (16,) * 8


def small(seed: int = 0) -> Any:
    """A narrow one whose batch norms have seen something."""
    torch.manual_seed(seed)
    model = Classifier(NetworkSpec(2, HIDDEN, top=0, width=16), SIZE).train()
    torch.nn.init.normal_(model.score.weight, std=4.0)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, SIZE, SIZE))
    return model.eval()


def pictures(count: int = 2, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def test_every_file_gives_what_the_network_gives(tmp_path: Path) -> None:
    model, images = small(), pictures(24)
    x = to_input(images)
    graph = equalise(trace(model), [x])
    quantised = quantise(graph, [x])
    for kind, integers in (("f", None), ("i", quantised)):
        export_onnx(graph if integers is None else quantised.graph, SIZE, tmp_path / f"{kind}.onnx", integers)
        export_tflite(graph if integers is None else quantised.graph, SIZE, tmp_path / f"{kind}.tflite", integers)
    with torch.no_grad():
        wanted = model((torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127.5) / 127.5)[0][0].flatten(1).numpy()
        rough = run(quantised.simulated(), x, lambda name, value: quantised.maps[name].fake(value))
    rough = rough[graph.scores[0]].flatten(1).numpy()
    spread = float(np.ptp(wanted))
    assert spread > 0.2, "a network that says the same of everything proves nothing"
    for i, image in enumerate(images[:6]):
        for name in ("f.onnx", "f.tflite"):
            np.testing.assert_allclose(file_outputs(tmp_path / name, (SCORES,))(image)[0], wanted[i], atol=0.02)
        onnx, tflite = (file_outputs(tmp_path / name, (SCORES,))(image)[0] for name in ("i.onnx", "i.tflite"))
        step = quantised.maps[graph.scores[0]].scale
        np.testing.assert_allclose(onnx, tflite, atol=1.01 * step)
        np.testing.assert_allclose(tflite, rough[i], atol=3.01 * step)
    operations = edge_tpu.inspect(tmp_path / "i.tflite")
    assert {operation.name for operation in operations} == {"ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "RESHAPE"}
    assert edge_tpu.faults(operations) == []


def test_a_channel_that_is_off_stays_off_in_integers(tmp_path: Path) -> None:
    model, images = small(3), pictures(8)
    with torch.no_grad():  # as three channels of Google's stem are: next to no weights, a bias far below zero
        model.trunk.stem.conv.weight[2] *= 1e-5
        model.trunk.stem.conv.bias[2] = -90.0
    x = to_input(images)
    quantised = quantise(trace(model), [x])
    export_onnx(quantised.graph, SIZE, tmp_path / "i.onnx", quantised)
    export_tflite(quantised.graph, SIZE, tmp_path / "i.tflite", quantised)
    with torch.no_grad():
        rough = run(quantised.simulated(), x, lambda name, value: quantised.maps[name].fake(value))
    name = quantised.graph.scores[0]
    for i, image in enumerate(images):
        for file in ("i.onnx", "i.tflite"):
            got = file_outputs(tmp_path / file, (SCORES,))(image)[0]
            np.testing.assert_allclose(got, rough[name][i].flatten(), atol=3.01 * quantised.maps[name].scale)


def test_only_what_is_known_of_a_head_moves_the_network() -> None:
    logits = torch.zeros(4, 2, requires_grad=True)
    known = torch.tensor([[1, -1], [0, -1], [-1, -1], [-1, 1]], dtype=torch.int8)
    helmet, mask = attribute_losses(logits, known, torch.tensor([0.5, 0.5]))
    assert helmet.item() == pytest.approx(2 * mask.item()) == pytest.approx(np.log(2))
    (helmet + mask).backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[True, False], [True, False], [False, False], [False, True]]
    assert logits.grad[0, 0] < 0 < logits.grad[1, 0]


def test_the_rarer_kind_weighs_as_much_as_the_other() -> None:
    logits = torch.zeros(10, 1, requires_grad=True)
    known = torch.tensor([[1]] * 2 + [[0]] * 8, dtype=torch.int8)
    (loss,) = attribute_losses(logits, known, torch.tensor([0.2]))
    loss.backward()
    assert logits.grad is not None and float(logits.grad.sum()) == pytest.approx(0, abs=1e-6)


def test_what_rounding_shifts_a_score_by_is_made_up_for() -> None:
    model, x = small(2), to_input(pictures(32))
    graph = trace(model)
    plain = quantise(graph, [x])
    better = centred(plain, [x])
    name = graph.scores[0]

    def mean(of: Any, see: Any = None) -> Any:
        with torch.no_grad():
            return run(of, x, see)[name].mean((0, 2, 3))

    off = []
    for quantised in (plain, better):
        rough = mean(quantised.simulated(), lambda n, value, maps=quantised.maps: maps[n].fake(value))
        off.append(float((rough - mean(graph)).abs().max()))
    assert off[1] <= off[0] and off[1] < plain.maps[name].scale


def test_a_size_that_does_not_fit_and_a_top_are_refused() -> None:
    with pytest.raises(ValueError, match="size 72 does not fit 11 blocks"):
        Classifier(NetworkSpec(2, FULL_HIDDEN[:11], top=0), 72)
    with pytest.raises(ValueError, match="no top"):
        Classifier(NetworkSpec(2, FULL_HIDDEN), SIZE)
    with pytest.raises(ValueError, match="all for a top"):
        Trunk(FULL_HIDDEN[:11], 1280)


def test_the_first_blocks_take_googles_weights_of_theirs() -> None:
    whole, part = Trunk(FULL_HIDDEN, 1280), Trunk(FULL_HIDDEN[:3], 0)
    weights = {}
    for name, value in whole.state_dict().items():
        layer = name.replace("blocks.0.", "expanded_conv/").replace("stem.", "Conv.").replace("top.", "Conv_1.")
        if layer.startswith("blocks."):
            _, number, rest = layer.split(".", 2)
            layer = f"expanded_conv_{number}/{rest}"
        weights[layer.replace(".conv.", ".")] = value.numpy()
    load_weights(part, weights)
    x = torch.rand(1, 3, SIZE, SIZE)
    wanted = whole.stem(x)
    for block in whole.blocks[:3]:
        wanted = block(wanted)[0]
    assert torch.equal(part(x)[-1], wanted) and part.stride == 4


def test_a_run_learns_goes_on_and_ends_in_a_model_the_agent_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.loop._fill_trunk", lambda *_: None)  # nothing is fetched: it begins with chance
    data, folder = dataset(tmp_path / "data", 12), tmp_path / "run"
    settings = Settings(
        task="classify",
        name="tiny",
        labels=LABELS,
        size=SIZE,
        network=Network(hidden=HIDDEN, top=0, width=16),
        train=(source(data),),
        validate_on=(source(data, name="drawn"),),
        crops=Crops(shift=0.05, scale=(0.9, 1.1), coarse=0, colour=0, degrade=0, grey=0, tint=0),
        schedule=Schedule(images=640, batch=16, lr=1e-2, trunk_lr=1.0, frozen_blocks=0, warmup=64, ema=0.9),
    )
    first = start(settings, folder)
    train(first, 320)
    assert first.seen == 640 and first.best > 0.9, "two kinds of drawing are told apart"
    longer = settings.model_copy(update={"schedule": settings.schedule.model_copy(update={"images": 672})})
    again = start(longer, folder)
    assert again.seen == 640
    train(again, 1000)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"helmet", "mask"} <= set(log[0]) and "drawn: helmet" in log[-1]

    made = write_files(folder / "last.pt", None, tmp_path / "models")
    measure_files(made, ("fp32.onnx", "int8.tflite"), rounds=9)
    bundle = finish(made)
    assert "| fp32.onnx | drawn: helmet | " in (bundle / "README.md").read_text()
    model = load_manifest(bundle)
    assert model.manifest.is_classifier and model.manifest.crop is not None
    picture = pictures(1)[0]
    canvas = np.ascontiguousarray(picture[:, :, ::-1])  # the agent's are BGR
    for backend in ("onnxruntime", "tflite"):
        for network in model.networks(backend):
            classifier = ModelClassifier(backend, LoadRequest(network, DetectConfig(), tmp_path))
            np.testing.assert_allclose(
                classifier.classify(canvas), file_judge(network.path)(picture[None])[0], atol=1e-4
            )
            classifier.close()

    restored, original = load_model(bundle / "tiny-64-fp32.onnx")[0], load_model(folder / "last.pt")[0]
    x = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        np.testing.assert_allclose(restored(x)[0][0].numpy(), original(x)[0][0].numpy(), atol=2e-2)

    capsys.readouterr()
    assert main(["evaluate", str(folder / "last.pt"), str(bundle / "tiny-64-int8.tflite"), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert len(measured) == 2 and all(v["drawn: mask"]["heads"] == 24 for v in measured.values())
    for arguments, said in (
        (
            ["finetune", str(data), "--from", str(folder / "last.pt"), "--name", "x", "--out", str(tmp_path)],
            "is a classifier",
        ),
        (["persons", str(data), "--from", str(folder / "last.pt")], "no detector of persons"),
        (["evaluate", str(folder / "last.pt"), "--size", "96"], "made for one size"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
