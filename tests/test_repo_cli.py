"""``edge-agent repo`` as an operator types it: passphrases, thresholds, what is told when something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.cli import main
from tests.ota_models import NAME, good, write_detector

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """In a folder with one model; what was said on either stream."""
    monkeypatch.chdir(tmp_path)
    write_detector(tmp_path / "models", "1.0", good())
    (tmp_path / "secret").write_text("correct horse battery staple\n")

    def call(*words: str) -> tuple[int, str]:
        code = main(["repo", *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


SECRET = ("--passphrase-file", "secret")


def test_a_repository_from_its_beginning(run: Run, tmp_path: Path) -> None:
    code, said = run("init", "r", "--root-keys", "3", *SECRET)
    assert code == 0 and "give each box r/public/metadata/1.root.json as ota.root_file" in said
    code, said = run("publish", "r", f"{NAME}@1.0", "--channel", "stable", "--min-agent", "0.1", *SECRET)
    assert code == 0 and "eyes@1.0 is offered in stable; SHA-256 " in said
    code, said = run("status", "r", "--json")
    found = json.loads(said)
    assert found["channels"] == [{"team": "models", "channel": "stable", "bundles": {NAME: "1.0"}}]
    assert found["published"] == {"models": ["models/bundles/eyes/1.0.tar"]}
    assert [role["threshold"] for role in found["roles"] if role["role"] == "root"] == [2]
    signed = json.loads((tmp_path / "r/public/metadata/2.models.json").read_text())["signed"]["targets"]
    assert signed["models/bundles/eyes/1.0.tar"]["custom"] == {
        "name": NAME,
        "version": "1.0",
        "kind": "model",
        "min_agent": "0.1",
        "backends": ["onnxruntime"],
        "hardware": [],
        "installed_bytes": 0,
    }


def test_keys_that_lie_elsewhere_sign_later(run: Run, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    assert run("init", "r", "--root-keys", "2", *SECRET)[0] == 0
    stick.mkdir()
    shutil.move(tmp_path / "r/keys/root-2.pem", stick / "root-2.pem")
    code, said = run("add-key", "r", "--role", "timestamp", *SECRET)
    assert (
        code == 2 and "root version 2 waits in r/waiting/root.json: 1 more signature(s) needed, of root-2.pem" in said
    )
    assert "1 more signature(s) needed, of root-2.pem" in run("status", "r")[1]
    assert run("sign", "r", *SECRET)[0] == 2
    assert run("sign", "r", "--keys", str(stick), *SECRET) == (0, "complete: root\n")
    assert run("sign", "r", *SECRET) == (0, "complete: nothing waited\n")
    assert run("remove-key", "r", "--role", "timestamp", "timestamp-1", "--keys", str(stick), *SECRET)[0] == 0


def test_passphrases_are_asked_for_and_never_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = iter(["correct horse battery"] * 100)

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    monkeypatch.setattr("getpass.getpass", ask)
    code, said = run("init", "r")
    assert code == 2 and "cannot be asked for here: give --passphrase-file, or set EDGE_AGENT_REPO_PASSPHRASE" in said
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    code, said = run("init", "r")
    assert code == 0 and "battery" not in said
    assert asked[:2] == ["New passphrase of root-1: ", "Once more: "]
    asked.clear()
    assert run("publish", "r", f"{NAME}@1.0", "--channel", "stable")[0] == 0
    assert asked == ["Passphrase of team-models: ", "Passphrase of snapshot: ", "Passphrase of timestamp: "]
    answers = iter(["one of them is", "not the other"])
    code, said = run("init", "other")
    assert code == 2 and "the two were not the same" in said


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("publish", "r", "eyes", "--channel", "stable"), "eyes: give NAME@VERSION"),
        (("publish", "r", "eyes@9.0", "--channel", "stable"), "No such file or directory"),
        (("publish", "r", "eyes@1.0", "--channel", "stable", "--team", "nobody"), "there is no role 'nobody'"),
        (("publish", "r", "eyes@1.0", "--channel", "no such", "--min-agent", "0"), "channel"),
        (("publish", "r", "eyes@1.0", "--channel", "stable", "--min-agent", "new"), "--min-agent 'new'"),
        (("refresh", "r", "--days", "timestamp"), "give ROLE=DAYS"),
        (("refresh", "r", "--days", "timestamp=0"), "give ROLE=DAYS"),
        (("add-key", "r", "--role", "root", "--uri", "hsm:"), "--uri needs --public"),
        (("add-key", "r", "--role", "root", "--public", "secret"), "no public key in PEM format"),
        (("remove-key", "r", "--role", "root", "nothing"), "is no key of this repository"),
        (("status", "nowhere"), "no repository"),
        (("init", "r"), "this is a repository"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(words: tuple[str, ...], text: str, run: Run, tmp_path: Path) -> None:
    assert run("init", "r", *SECRET)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    code, said = run(*words, *SECRET)
    assert code in (2, 3) and text in said
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before
