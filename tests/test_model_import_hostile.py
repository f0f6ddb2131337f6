"""Files that want to do harm, or are no networks: each is refused with its reason, quickly, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_agent.cli import main
from edge_agent.model_tools import facts, sandbox
from tests import model_networks as networks
from tests import onnx_writer as onnx

Make = Callable[[Path], Path]
CASES: dict[str, tuple[Make, str]] = {}


def case(says: str) -> Callable[[Make], Make]:
    """Register a maker of a hostile file: it gets a folder and returns the file; ``says`` is in the answer."""

    def add(make: Make) -> Make:
        CASES[make.__name__] = (make, says)
        return make

    return add


def put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def conv_with(*tensors: bytes, nodes: tuple[bytes, ...] = (), shape: tuple[int, ...] = (1, 3, 64, 64)) -> bytes:
    """A network that has the picture as input, and besides what is given."""
    own = onnx.node("Identity", ["images"], ["out"])
    image, out = onnx.value_info("images", 1, shape), onnx.value_info("out", 1, shape)
    return onnx.model(onnx.graph([own, *nodes], [image], [out], tensors))


def archive(folder: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "model.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return folder / "model.zip"


# ---- no networks


@case("damaged|truncated")
def truncated(folder: Path) -> Path:
    content = networks.yolov8()
    return put(folder, "half.onnx", content[: len(content) // 2])


@case("none of ONNX, TFLite, OpenVINO IR")
def picture(folder: Path) -> Path:
    return put(folder, "cat.jpg", b"\xff\xd8\xff\xe0" + os.urandom(1000))


@case("no ONNX file, or a damaged one")
def noise_called_onnx(folder: Path) -> Path:
    return put(folder, "noise.onnx", b"\xff\xd8\xff\xe0" + os.urandom(1000))


@case("truncated one: it holds no network")
def onnx_without_a_graph(folder: Path) -> Path:
    return put(folder, "none.onnx", onnx.field(1, 8))


@case("it is empty")
def empty(folder: Path) -> Path:
    return put(folder, "empty.onnx", b"")


@case("can run any program when it is loaded")
def pickled(folder: Path) -> Path:
    return put(folder, "model.pkl", pickle.dumps({"weights": [1.0]}))


@case("can run any program when it is loaded")
def pytorch_checkpoint(folder: Path) -> Path:
    archive(folder, {"best/data.pkl": b"\x80\x02.", "best/data/0": b"0"})
    return (folder / "model.zip").rename(folder / "best.pt")


@case("fits one GPU and one TensorRT version")
def tensorrt_engine(folder: Path) -> Path:
    return put(folder, "model.engine", b"ftrt" + os.urandom(500))


@case("no TFLite file, or a damaged one")
def tflite_garbage(folder: Path) -> Path:
    return put(folder, "bad.tflite", b"\x1c\0\0\0TFL3" + os.urandom(4000))


@case("no TFLite file, or a damaged one")
def tflite_truncated(folder: Path) -> Path:
    whole = (Path(__file__).parent / "tflite_networks" / "int8.tflite").read_bytes()
    return put(folder, "half.tflite", whole[: len(whole) // 2])


@case("no regular file but a pipe")
def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.onnx")
    return folder / "pipe.onnx"


@case("no regular file but a device")
def device(_: Path) -> Path:
    return Path("/dev/zero")


@case("no regular file but a folder")
def a_folder(folder: Path) -> Path:
    return folder


@case("No such file")
def nothing(folder: Path) -> Path:
    return folder / "nothing.onnx"


@case("at most 1024 MiB are taken")
def larger_than_the_limit(folder: Path) -> Path:
    path = put(folder, "large.onnx", b"\x08")
    os.truncate(path, facts.MAX_FILE_BYTES + 1)  # a hole, no blocks on the disk
    return path


# ---- ONNX that reaches out


@case("outside its own folder")
def external_data_up_the_tree(folder: Path) -> Path:
    return put(folder, "up.onnx", conv_with(onnx.external("w", [3], "../../../../etc/passwd")))


@case("outside its own folder")
def external_data_at_an_absolute_path(folder: Path) -> Path:
    return put(folder, "absolute.onnx", conv_with(onnx.external("w", [3], "/etc/passwd")))


@case("symbolic link")
def external_data_by_a_symlink(folder: Path) -> Path:
    (folder / "weights.bin").symlink_to("/etc/passwd")
    return put(folder, "link.onnx", conv_with(onnx.external("w", [3], "weights.bin")))


@case("outside its own folder")
def external_data_in_a_subgraph(folder: Path) -> Path:
    inner = onnx.graph([], [], [onnx.value_info("w", 1, [3])], [onnx.external("w", [3], "/etc/shadow")])
    branch = onnx.node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return put(folder, "branch.onnx", conv_with(nodes=(branch,)))


@case("but not in which")
def external_data_nowhere(folder: Path) -> Path:
    return put(folder, "nowhere.onnx", conv_with(onnx.field(1, 3) + onnx.field(2, 1) + onnx.field(14, 1)))


@case("No such file")
def external_data_missing(folder: Path) -> Path:
    return put(folder, "alone.onnx", conv_with(onnx.external("w", [3], "weights.bin")))


# ---- bombs


@case("at most 4096 pixels a side")
def a_picture_of_a_terapixel(folder: Path) -> Path:
    return put(folder, "tera.onnx", conv_with(shape=(1, 3, 1 << 20, 1 << 20)))


@case("memory|Memory")
def a_tensor_of_a_terabyte(folder: Path) -> Path:
    shape = np.array([1 << 20, 1 << 18], np.int64)
    nodes = [
        onnx.node("ConstantOfShape", ["s"], ["huge"]),
        onnx.node("ReduceMean", ["huge"], ["m"], keepdims=0),
        onnx.node("Add", ["images", "m"], ["out"]),
    ]
    image, out = onnx.value_info("images", 1, [1, 3, 64, 64]), onnx.value_info("out", 1, [1, 3, 64, 64])
    return put(folder, "huge.onnx", onnx.model(onnx.graph(nodes, [image], [out], [onnx.tensor("s", shape)])))


@case("more than 200000 operations")
def a_million_operations(folder: Path) -> Path:
    return put(folder, "many.onnx", onnx.model(onnx.graph([b""] * 1_000_000, [], [onnx.value_info("o", 1, [1])])))


@case("no ONNX file, or a damaged one")
def nested_three_thousand_deep(folder: Path) -> Path:
    inner = onnx.graph([], [], [])
    for _ in range(3000):
        inner = onnx.graph([onnx.node("If", ["c"], ["y"], then_branch=inner)], [], [])
    return put(folder, "deep.onnx", onnx.model(inner))


@case("would be written outside the folder")
def zip_slip(folder: Path) -> Path:
    return archive(folder, {"model.onnx": networks.yolov8(), "../../escaped.onnx": b"x"})


@case("would be written outside the folder")
def zip_with_an_absolute_path(folder: Path) -> Path:
    return archive(folder, {"/tmp/escaped.onnx": networks.yolov8()})


@case("unpacks to more than 1024 MiB")
def zip_bomb(folder: Path) -> Path:
    path = archive(folder, {f"{i}.onnx": b"" for i in range(2)})
    content = bytearray(path.read_bytes())
    for start in [i for i in range(len(content)) if content.startswith(b"PK\1\2", i)]:
        content[start + 24 : start + 28] = (0x60000000).to_bytes(4, "little")  # what it claims to unpack to
    path.write_bytes(content)
    return path


@case("damaged")
def zip_that_lies_about_its_size(folder: Path) -> Path:
    path = archive(folder, {"model.onnx": bytes(50_000_000)})
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\1\2")
    content[start + 24 : start + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    return path


@case("symbolic link or device")
def zip_with_a_symlink(folder: Path) -> Path:
    link = zipfile.ZipInfo("model.onnx")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "model.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    return folder / "model.zip"


@case("1001 entries; at most 1000")
def zip_with_many_entries(folder: Path) -> Path:
    return archive(folder, {f"{i}.txt": b"" for i in range(1001)})


@case("must hold one network")
def zip_with_two_networks(folder: Path) -> Path:
    return archive(folder, {"a.onnx": b"1", "b.tflite": b"2"})


@case("another archive")
def zip_in_a_zip(folder: Path) -> Path:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("model.onnx", b"x")
    return archive(folder, {"model.onnx": inner.getvalue()})


# ---- IRs


def ir(folder: Path, text: str, weights: bytes = b"\0" * 16) -> Path:
    put(folder, "model.bin", weights)
    return put(folder, "model.xml", text.encode())


@case("entities could be declared there")
def billion_laughs(folder: Path) -> Path:
    lines = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    return ir(folder, f'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY l0 "ha">{lines}]><net>&l9;</net>')


@case("entities could be declared there")
def external_entity(folder: Path) -> Path:
    return ir(folder, '<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="&x;"/>')


@case("begins with <html>, not <net>")
def a_web_page(folder: Path) -> Path:
    return ir(folder, "<html><body/></html>")


@case("nests deeper")
def xml_nested_deep(folder: Path) -> Path:
    return ir(folder, "<net>" + "<a>" * 5000 + "</a>" * 5000 + "</net>")


@case("OpenVINO IR, or a damaged one")
def xml_truncated(folder: Path) -> Path:
    return ir(folder, '<?xml version="1.0"?><net name="x" version="11"><layers>')


@case("No such file")
def ir_without_weights(folder: Path) -> Path:
    return put(folder, "alone.xml", b'<net name="x" version="11"/>')


@case("OpenVINO cannot read it")
def ir_that_reads_past_its_weights(folder: Path) -> Path:
    port = '<port id="0" precision="FP32"><dim>1</dim><dim>3</dim><dim>64</dim><dim>64</dim></port>'
    layers = (
        '<layer id="0" name="images" type="Parameter" version="opset1"><data shape="1,3,64,64" element_type="f32"/>'
        f"<output>{port}</output></layer>"
        '<layer id="1" name="w" type="Const" version="opset1">'
        '<data element_type="f32" shape="1,3,64,64" offset="0" size="49152"/>'
        f"<output>{port}</output></layer>"
        '<layer id="2" name="sum" type="Add" version="opset1"><data auto_broadcast="numpy"/>'
        f"<input>{port}{port.replace('0', '1', 1)}</input><output>{port.replace('0', '2', 1)}</output></layer>"
        '<layer id="3" name="out" type="Result" version="opset1">'
        f"<input>{port}</input></layer>"
    )
    edges = "".join(
        f'<edge from-layer="{a}" from-port="{p}" to-layer="{b}" to-port="{q}"/>'
        for a, p, b, q in ((0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 3, 0))
    )
    return ir(
        folder, f'<?xml version="1.0"?><net name="x" version="11"><layers>{layers}</layers><edges>{edges}</edges></net>'
    )


# ---- networks that do not work


@case("not finite")
def answers_with_nan(folder: Path) -> Path:
    boxes = np.full((1, 7, len(networks.cells())), np.nan, np.float32)
    return put(folder, "nan.onnx", onnx.network({"output0": boxes}, size=networks.SIZE))


@case("none of|no family that is known")
def a_classifier(folder: Path) -> Path:
    return put(folder, "classes.onnx", onnx.network({"probabilities": np.full((1, 1000), 0.001, np.float32)}))


@case("no family that is known")
def four_numbers_beside_a_table(folder: Path) -> Path:
    answers = {"boxes": np.ones(4, np.float32), "scores": np.ones((1, 10, 3), np.float32)}
    return put(folder, "four.onnx", onnx.network(answers))


@case("ONNX Runtime cannot load it")
def an_operation_nobody_knows(folder: Path) -> Path:
    return put(folder, "custom.onnx", conv_with(nodes=(onnx.node("Exfiltrate", ["images"], ["y"]),)))


@case("is no name")
def a_name_that_writes_to_the_terminal(folder: Path) -> Path:
    return put(folder, "title.onnx", onnx.network({"o": np.zeros((1, 7), np.float32)}, name="\x1b]0;pwned\x07"))


@case("weights lie in 65 files")
def weights_all_over_the_folder(folder: Path) -> Path:
    return put(folder, "many.onnx", conv_with(*[onnx.external(f"w{i}", [3], f"w{i}.bin") for i in range(65)]))


@case("a colour picture")
def no_picture_as_input(folder: Path) -> Path:
    return put(folder, "speech.onnx", conv_with(shape=(1, 80, 300)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_and_leaves_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, says = CASES[name]
    folder, models = tmp_path / "from", tmp_path / "models"
    folder.mkdir()
    source = make(folder)
    before = sorted(folder.rglob("*"))
    arguments = [
        "model",
        "import",
        str(source),
        "--name",
        "bad",
        "--labels",
        "a,b,c",
        "--models-dir",
        str(models),
        "--json",
    ]
    code = main(arguments)
    answer = json.loads(capsys.readouterr().out)
    assert code == 3, answer
    assert answer["ok"] is False
    assert re.search(says, answer["problems"][0]), answer
    assert len(answer["problems"][0]) < 2000
    assert answer["problems"][0].isprintable()
    assert answer["problems"][0].startswith(f"{source.name}: ")
    assert list(models.iterdir()) == []
    assert sorted(folder.rglob("*")) == before
    assert not (tmp_path / "escaped.onnx").exists()


@pytest.mark.slow
def test_a_network_that_never_ends_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "TIMEOUT_S", 4.0)
    body = onnx.graph(
        [onnx.node("Identity", ["c"], ["c2"]), onnx.node("Identity", ["v"], ["v2"])],
        [onnx.value_info("i", 7, []), onnx.value_info("c", 9, []), onnx.value_info("v", 1, [1, 3, 64, 64])],
        [onnx.value_info("c2", 9, []), onnx.value_info("v2", 1, [1, 3, 64, 64])],
    )
    loop = onnx.node("Loop", ["", "", "images"], ["out"], body=body)
    image, out = onnx.value_info("images", 1, [1, 3, 64, 64]), onnx.value_info("out", 1, [1, 3, 64, 64])
    path = put(tmp_path, "loop.onnx", onnx.model(onnx.graph([loop], [image], [out])))
    models = tmp_path / "models"
    code = main(["model", "import", str(path), "--name", "x", "--labels", "a", "--models-dir", str(models)])
    assert code == 3
    assert "no result after 4 s" in capsys.readouterr().err
    assert list(models.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", ["[" * 100_000, "-" * 200_000 + "1", "{0: 'x' * 10**9}", "__import__('os').abort()", repr({0: "a\nb"})]
)
def test_metadata_is_never_evaluated(names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path, "x.onnx", networks.yolov8(metadata={"names": names}))
    code = main(["model", "import", str(path), "--name", "x", "--models-dir", str(tmp_path / "models")])
    assert code == 2  # it asks for labels, as if nothing had been written there
    assert "--labels" in capsys.readouterr().err
