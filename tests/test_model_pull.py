"""``model pull``: the very file of the catalogue becomes a model that runs, from wherever it comes; anything else leaves nothing."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.cli import main, model_pull
from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.detector import ModelDetector
from edge_agent.detect.manifest import InputSpec, Model, find_model, list_models
from edge_agent.errors import DownloadError, EdgeAgentError, ModelError, UsageError
from edge_agent.model_tools import download as net
from edge_agent.model_tools.catalogue import CATALOGUE, Entry, find_entry
from edge_agent.model_tools.download import Known, download, mirror
from edge_agent.model_tools.pull import Pulled, PullRequest, pull
from edge_agent.types import Detections, Frame
from tests import model_networks
from tests.certificates import Pair, server_context
from tests.file_server import Server, body, leads_to, serve, unsized

NETWORKS = Path(__file__).parent / "decoder_networks"
FIXTURE = NETWORKS / "yolox_raw" / "1" / "model.onnx"
CONTENT = FIXTURE.read_bytes()
FILE = "/model.onnx"
ENTRY = Entry(
    name="small-yolox",
    version="1.0",
    url=f"https://models.invalid{FILE}",
    file=Known("model.onnx", len(CONTENT), hashlib.sha256(CONTENT).hexdigest()),
    licence="Apache-2.0",
    family="yolox",
    size=(160, 128),
    labels=tuple(f"label{n}" for n in range(5)),
    facts=(
        ("input.colour", "BGR"),
        ("input.mean", [0.0] * 3),
        ("input.std", [1.0] * 3),
        ("input.fit", "stretch"),
        ("decode.decoded", False),
    ),
    note="Untrained, for tests",
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's machine has must not come between."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def left(models: Path) -> list[str]:
    """Everything in the models folder."""
    return sorted(str(path.relative_to(models)) for path in models.rglob("*")) if models.exists() else []


def fetch(models: Path, source: str | Path, entry: Entry = ENTRY, *, replace: bool = False) -> Pulled:
    return pull(PullRequest(entry, models, source, replace))


def run_cli(models: Path, *words: str) -> int:
    """The verb with the test's catalogue beside the real one."""
    parser = argparse.ArgumentParser()
    model_pull.add(parser.add_subparsers(required=True))
    args = parser.parse_args(["pull", *words, "--models-dir", str(models)])
    return model_pull.pull_from((*CATALOGUE, ENTRY), args)


def found_by(model: Model, cache: Path) -> Detections:
    config = DetectConfig.model_validate({"score_threshold": 0.62695, "nms_iou": 0.6, "max_detections": 300})
    detector = ModelDetector("onnxruntime", LoadRequest(model.network("onnxruntime"), config, cache))
    image = cv2.imread(str(NETWORKS / "picture.png"))
    assert image is not None
    found = detector.detect(Frame("c", 0, 0.0, 0.0, image))
    detector.close()
    return found


# ---- the way there


@pytest.mark.slow
def test_what_was_pulled_runs_and_a_second_pull_fetches_nothing(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve({FILE: body(CONTENT)}) as server:
        command = ("small-yolox", "--url", server.url + FILE, "--json")
        assert run_cli(models, *command) == 0
        first = json.loads(capsys.readouterr().out)
        assert (first["model"], first["already_here"], first["source"]) == (ENTRY.label, False, server.url + FILE)
        assert run_cli(models, *command) == 0
        second = json.loads(capsys.readouterr().out)
        assert (second["model"], second["already_here"], second["folder"]) == (ENTRY.label, True, first["folder"])
        assert server.asked == [FILE]
        assert run_cli(models, *command, "--replace") == 0
        assert server.asked == [FILE, FILE]
    model = find_model("small-yolox", models)
    manifest = model.manifest
    assert (manifest.licence, manifest.labels, manifest.input.fit) == (ENTRY.licence, ENTRY.labels, "stretch")
    assert manifest.description == f"Untrained, for tests; from {ENTRY.url}"
    assert [file.sha256 for file in manifest.files] == [ENTRY.file.sha256]
    assert left(models) == [
        "small-yolox",
        "small-yolox/1.0",
        "small-yolox/1.0/manifest.yaml",
        "small-yolox/1.0/model.onnx",
    ]
    ours, known = found_by(model, tmp_path), found_by(find_model("yolox_raw", NETWORKS), tmp_path)
    assert len(ours) == len(known) >= 10
    np.testing.assert_array_equal(ours.boxes, known.boxes)


@pytest.mark.slow
def test_the_facts_of_yolox_reach_the_manifest(models: Path, tmp_path: Path) -> None:
    content, file = model_networks.yolox(decoded=False), tmp_path / "brought.onnx"
    file.write_bytes(content)
    entry = dataclasses.replace(
        CATALOGUE[0],
        file=Known("yolox_nano.onnx", len(content), hashlib.sha256(content).hexdigest()),
        size=model_networks.SIZE,
        labels=model_networks.LABELS,
    )
    pulled = fetch(models, file, entry)
    manifest = pulled.model.manifest
    assert (manifest.name, manifest.version, manifest.family) == ("yolox-nano", "0.1.1rc0", "yolox")
    expected = InputSpec(name="images", size=model_networks.SIZE, colour="BGR", position="top_left", pad=114)
    assert manifest.input.model_copy(update={"name": "images"}) == expected
    assert not manifest.decode.decoded
    assert pulled.imported is not None and pulled.imported.sight is not None
    assert [s.label for s in pulled.imported.sight.seen or () if s.score > 0.5] == ["cat", "hen"]
    assert all(other.facts == entry.facts for other in CATALOGUE)


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side for localhost whose certificate is trusted."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 2 -keyout {key} -out {cert}"
    subprocess.run([*make.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    return server_context(Pair(cert, key))


@pytest.mark.slow
def test_without_options_the_makers_address_is_asked_by_https(models: Path, tls: ssl.SSLContext) -> None:
    with serve({"/released": leads_to(FILE), FILE: body(CONTENT)}, tls) as server:
        done = pull(PullRequest(dataclasses.replace(ENTRY, url=f"{server.url}/released"), models))
    assert done.source == f"{server.url}/released"
    assert server.asked == ["/released", FILE]
    assert find_model("small-yolox", models).manifest.files[0].sha256 == ENTRY.file.sha256


def test_https_is_not_left_and_a_certificate_that_is_not_trusted_is_told(
    models: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve({FILE: body(CONTENT)}) as plain, serve({FILE: leads_to(plain.url + FILE)}, tls) as server:
        with pytest.raises(DownloadError, match="localhost leads on to localhost without HTTPS: refused"):
            fetch(models, server.url + FILE)
        assert plain.asked == []
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(DownloadError, match=r"localhost cannot be reached.*certificate verify failed"):
            fetch(models, server.url + FILE)
    assert left(models) == []


def test_a_redirect_to_a_file_of_this_machine_is_refused(models: Path) -> None:
    with serve({FILE: leads_to(FIXTURE.as_uri())}) as server, pytest.raises(DownloadError, match="status 302"):
        fetch(models, server.url + FILE)
    assert left(models) == []


@pytest.mark.slow
def test_the_proxy_of_the_environment_is_used(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({f"http://models.invalid{FILE}": body(CONTENT)}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert fetch(models, f"http://models.invalid{FILE}").imported is not None
        assert proxy.asked == [f"http://models.invalid{FILE}"]
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:secret@"))
    with pytest.raises(DownloadError, match=r"models\.invalid \(by the proxy localhost\) cannot be reached") as caught:
        fetch(models, f"http://models.invalid{FILE}", replace=True)
    assert "secret" not in str(caught.value)
    assert find_model("small-yolox", models).manifest.version == "1.0"  # what was there is only replaced by what came


@pytest.mark.slow
def test_a_file_that_was_brought_needs_no_network(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(models, ENTRY.label, "--file", str(FIXTURE)) == 0
    assert "SHA-256 as it must be" in capsys.readouterr().out
    assert run_cli(models, "small-yolox", "--url", FIXTURE.as_uri()) == 0
    assert "already" in capsys.readouterr().out


# ---- what is not the file


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("other", ModelError, f"its SHA-256 is [0-9a-f]{{64}}, it must be {ENTRY.file.sha256}; refused"),
        ("longer", ModelError, f"gives {len(CONTENT) + 1} bytes for it, model.onnx has {len(CONTENT)}"),
        ("endless", ModelError, f"more than the {len(CONTENT)} bytes of model.onnx came"),
        ("shorter", ModelError, f"gives {len(CONTENT) - 1} bytes for it"),
        ("cut", DownloadError, f"localhost broke off after 1000 of {len(CONTENT)} bytes"),
        ("cut, unsized", DownloadError, f"localhost broke off after 1000 of {len(CONTENT)} bytes"),
        ("missing", DownloadError, r"localhost answers with status 404\. Without internet here: fetch https://"),
        ("round", DownloadError, "localhost answers with status 302"),
    ],
)
def test_what_is_not_the_file_leaves_nothing(models: Path, name: str, error: type[EdgeAgentError], text: str) -> None:
    answers = {
        "/other": body(bytes(len(CONTENT))),
        "/longer": body(CONTENT + b"x"),
        "/endless": unsized(CONTENT * 3),
        "/shorter": body(CONTENT[:-1]),
        "/cut": body(CONTENT[:1000], says=len(CONTENT)),
        "/cut,%20unsized": unsized(CONTENT[:1000]),
        "/round": leads_to("/round"),
    }
    with serve(answers) as server, pytest.raises(error, match=text) as caught:
        fetch(models, f"{server.url}/{name.replace(' ', '%20')}")
    assert type(caught.value) is error
    assert left(models) == []


def test_a_brought_file_that_is_another_leaves_nothing(models: Path, tmp_path: Path) -> None:
    brought = tmp_path / "brought.onnx"
    for content, text in (
        (bytes(len(CONTENT)), f"it must be {ENTRY.file.sha256}"),
        (CONTENT[:-1], f"it has {len(CONTENT) - 1} bytes, model.onnx has {len(CONTENT)}"),
        (CONTENT + b"x", "more than"),
        (b"", "it is empty"),
    ):
        brought.write_bytes(content)
        with pytest.raises(ModelError, match=rf"brought\.onnx.*{text}"):
            fetch(models, brought)
    with pytest.raises(ModelError, match="No such file"):
        fetch(models, tmp_path / "none.onnx")
    assert left(models) == []


@pytest.fixture
def stalling() -> Iterator[Server]:
    """Sends nothing, half of the file and then nothing, or a byte now and then."""

    def nothing(_: BaseHTTPRequestHandler) -> None:
        server.over.wait(120)

    def half(handler: BaseHTTPRequestHandler) -> None:
        body(CONTENT[: len(CONTENT) // 2], says=len(CONTENT))(handler)
        server.over.wait(120)

    def nano(handler: BaseHTTPRequestHandler) -> None:
        body(bytes(100_000), says=CATALOGUE[0].file.size)(handler)
        server.over.wait(120)

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        body(b"", says=len(CONTENT))(handler)
        while not server.over.wait(0.05):
            handler.wfile.write(b"x")

    answers = {"/nothing": nothing, "/half": half, "/nano": nano, "/trickle": trickle}
    with serve(answers) as server:
        yield server


def test_a_server_that_stalls_is_given_up(stalling: Server, tmp_path: Path) -> None:
    for path, text in (("/nothing", "cannot be reached: silent"), ("/half", "broke off after [0-9]+ bytes: silent")):
        with pytest.raises(DownloadError, match=text):
            download(stalling.url + path, tmp_path / path[1:], ENTRY.file, lambda _: None, silence_s=0.5)
    with pytest.raises(DownloadError, match="too slow"):
        download(stalling.url + "/trickle", tmp_path / "trickle", ENTRY.file, lambda _: None, total_s=0.5)


def test_progress_is_told_up_to_the_whole(tmp_path: Path) -> None:
    seen: list[int] = []
    with serve({FILE: body(CONTENT)}) as server:
        download(server.url + FILE, tmp_path / "file", ENTRY.file, seen.append)
    assert seen == sorted(seen) and seen[-1] == len(CONTENT)
    assert (tmp_path / "file").read_bytes() == CONTENT


# ---- the program


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interruption_leaves_nothing(stalling: Server, models: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "edge_agent.cli", "model", "pull", "yolox-nano", "--url", f"{stalling.url}/nano"]
    with subprocess.Popen([*command, "--models-dir", str(models)], stderr=subprocess.PIPE, text=True) as program:
        deadline = time.monotonic() + 90
        while not any(path.suffix == ".onnx" for path in models.rglob("*")):
            assert program.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        program.send_signal(number)
        _, said = program.communicate(timeout=60)
    assert program.returncode == code
    assert "Traceback" not in said
    assert left(models) == []


def test_what_fails_on_the_network_ends_with_1_and_says_how_else(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve({}) as server:
        pass  # nobody listens there any more
    command = ["model", "pull", "yolox-tiny", "--url", server.url + FILE, "--models-dir", str(models)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert re.search(r"localhost cannot be reached: .*refused", said)
    assert CATALOGUE[1].url in said and "edge-agent model pull yolox-tiny --file yolox_tiny.onnx" in said
    assert main([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "DownloadError"
    assert left(models) == []


def test_a_name_that_the_catalogue_has_not_ends_with_2(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "pull", "yolov9", "--models-dir", str(models)]) == 2
    assert "it has: yolox-nano, yolox-tiny, yolox-s" in capsys.readouterr().err
    assert main(["model", "pull", "--file", "x.onnx", "--models-dir", str(models)]) == 2
    assert "need the NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "model.onnx", "http://", "http://me:pw@host/x", "http://host/a b", "http://host:x/", "//h/x"],
)
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(UsageError, match="--url: ") as caught:
        mirror(url)
    assert "pw" not in str(caught.value)


def test_the_list_says_what_there_is_and_what_is_here(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "yolox-s" / "0.1.1rc0").mkdir(parents=True)
    (models / "yolox-s" / "0.1.1rc0" / "manifest.yaml").touch()
    assert main(["model", "pull", "--models-dir", str(models)]) == 0
    table = capsys.readouterr().out
    assert re.search(r"yolox-nano +0\.1\.1rc0 +416x416 +3\.7 +Apache-2\.0 +no", table)
    assert re.search(r"yolox-s +0\.1\.1rc0 +640x640 +35\.9 +Apache-2\.0 +yes", table)
    assert main(["model", "pull", "--list", "--json", "--models-dir", str(models)]) == 0
    rows = json.loads(capsys.readouterr().out)["catalogue"]
    assert [(row["name"], row["file"]["sha256"], row["here"]) for row in rows] == [
        (entry.name, entry.file.sha256, entry.name == "yolox-s") for entry in CATALOGUE
    ]


@pytest.mark.slow
def test_what_is_there_but_is_not_that_file_is_not_taken_for_it(models: Path) -> None:
    fetch(models, FIXTURE)
    other = dataclasses.replace(ENTRY, file=dataclasses.replace(ENTRY.file, sha256="0" * 64))
    with pytest.raises(UsageError, match="made of another file: --replace"):
        fetch(models, FIXTURE, other)
    network = models / "small-yolox" / "1.0" / "model.onnx"
    network.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match=r"damaged.*SHA-256.*--replace"):
        fetch(models, FIXTURE)
    fetch(models, FIXTURE, replace=True)
    assert network.read_bytes() == CONTENT
    assert [m.name for m in list_models(models)] == ["small-yolox"]


@pytest.mark.slow
def test_a_full_disk_is_told(models: Path) -> None:
    models.mkdir()
    with serve({FILE: body(bytes(CATALOGUE[0].file.size))}) as server:
        words = f"mount -t tmpfs -o size=1m none {models} && {sys.executable} -m edge_agent.cli model pull yolox-nano"
        user = [] if os.geteuid() == 0 else ["-r"]
        script = f"{words} --url {server.url}{FILE} --models-dir {models}; echo $?; ls -A {models}"
        command = ["unshare", *user, "-m", "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "no room for the 3659407 bytes of yolox_nano.onnx in the models directory" in done.stderr, done.stderr
    assert done.stdout == "3\n"


# ---- the catalogue


def test_the_catalogue_is_well_formed() -> None:
    for entry in CATALOGUE:
        assert entry.url.startswith("https://") and entry.url.endswith(f"/{entry.file.name}")
        assert re.fullmatch(r"[0-9a-f]{64}", entry.file.sha256)
        assert 1_000_000 < entry.file.size < 100_000_000
        assert find_entry(entry.name, CATALOGUE) is find_entry(entry.label, CATALOGUE) is entry
    assert len({entry.file.sha256 for entry in CATALOGUE}) == len(CATALOGUE)
    assert max(entry.file.size for entry in CATALOGUE) < net.SLOWEST * 3 * 3600  # nobody waits longer than an afternoon
