"""What a model must do on a box before it may serve; and what becomes of one that does not, or takes the process with it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent.cli import main
from edge_agent.config import Config
from edge_agent.detect.manifest import Manifest
from edge_agent.errors import ActivationFailed, ConfigError, EdgeAgentError, HardwareError, Interrupted, ModelError
from edge_agent.model_tools import workshop as module
from edge_agent.model_tools.workshop import BoxWorkshop, this_box
from edge_agent.ota.activation import Activation
from edge_agent.ota.store import ModelStore
from tests.ota_fixtures import EasyWorkshop
from tests.ota_models import BAD, NAME, good, write_detector
from tests.tflite_fixtures import compile_c, squares_manifest

pytestmark = pytest.mark.slow


def config(tmp_path: Path, **sections: Any) -> Config:
    fields = {"cameras": [{"id": "a", "source": "x.mp4"}], "state_dir": tmp_path / "state", **sections}
    return Config.model_validate(fields)


def workshop(tmp_path: Path, **sections: Any) -> BoxWorkshop:
    return BoxWorkshop(config(tmp_path, **sections), lambda _: None)


def pass_all(bench: BoxWorkshop, folder: Path) -> None:
    for step in (bench.compile, bench.self_test):
        step(folder, lambda _doing, _done: None, threading.Event())


def test_a_good_model_passes(tmp_path: Path) -> None:
    pass_all(workshop(tmp_path), write_detector(tmp_path / "models", "1.0", good()))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_does_not(name: str, tmp_path: Path) -> None:
    folder = write_detector(tmp_path / "models", "1.0", BAD[name]())
    with pytest.raises(EdgeAgentError) as caught:
        pass_all(workshop(tmp_path), folder)
    assert not caught.value.retriable
    said = {
        "its outputs are no numbers": "its outputs are no numbers",
        "it detects nothing": "AP50 0.000",
        "it detects everywhere": "AP50 0.0",
        "its output has another shape": "expects [1, N, 6], the network gave [1, 3]",
        "it has another output": "output0",
        "it is no network": "network.onnx",
    }
    assert said[name] in str(caught.value)


def test_without_golden_pictures_it_must_still_run_and_give_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pass_all(workshop(tmp_path), write_detector(tmp_path / "models", "1.0", good(), golden=False))
    assert "has no golden pictures" in caplog.text
    folder = write_detector(tmp_path / "models", "2.0", BAD["its outputs are no numbers"](), golden=False)
    with pytest.raises(ActivationFailed, match="its outputs are no numbers"):
        pass_all(workshop(tmp_path), folder)


def test_it_must_keep_to_its_time_and_memory(tmp_path: Path) -> None:
    folder = write_detector(tmp_path / "models", "1.0", good())
    with pytest.raises(ActivationFailed, match=r"ms a picture, more than 0\.0001 \(ota\.max_inference_ms\)"):
        pass_all(workshop(tmp_path, ota={"max_inference_ms": 0.0001}), folder)
    with pytest.raises(ActivationFailed):
        pass_all(workshop(tmp_path, ota={"max_memory_mb": 256}), folder)


def squares(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "squares" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "manifest.yaml").write_text(yaml.safe_dump(squares_manifest(folder, "float")))
    return folder


def driver(tmp_path: Path, act: str) -> dict[str, Any]:
    library = tmp_path / "driver.so"
    compile_c("broken.c", library, f"-DACT={act}")
    return {"backend": "tflite", "tflite": {"delegate": str(library)}}


def test_a_driver_that_crashes_takes_nothing_with_it(tmp_path: Path) -> None:
    with pytest.raises(ActivationFailed, match="killed by SIGABRT"):
        pass_all(workshop(tmp_path, detect=driver(tmp_path, "abort()")), squares(tmp_path))


def test_a_driver_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 8.0)
    with pytest.raises(ActivationFailed, match="no result after 8 s"):
        pass_all(workshop(tmp_path, detect=driver(tmp_path, "sleep(600)")), squares(tmp_path))


def test_it_stops_when_told(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    folder = write_detector(tmp_path / "models", "1.0", good())
    with pytest.raises(Interrupted):
        workshop(tmp_path).self_test(folder, lambda _doing, _done: None, cancel)


def test_what_the_agent_cannot_work_with_is_refused_before_anything_runs(tmp_path: Path) -> None:
    def refuse(manifest: Manifest) -> None:
        raise ConfigError([f"{manifest.name}: no person"])

    folder = write_detector(tmp_path / "models", "1.0", good())
    with pytest.raises(ConfigError, match="no person"):
        pass_all(BoxWorkshop(config(tmp_path), refuse), folder)
    classifier = Path(__file__).parent.parent / "models" / "ppe-head" / "1.0.0"
    with pytest.raises(ModelError, match="is a classifier"):
        pass_all(workshop(tmp_path), classifier)
    with pytest.raises(HardwareError, match="tensorrt"):
        pass_all(workshop(tmp_path, detect={"backend": "tensorrt"}), folder)


def test_this_box_says_what_it_can_run(tmp_path: Path) -> None:
    box = this_box(config(tmp_path, ota={"hardware": ["till"]}))
    assert "onnxruntime" in box.backends and "tensorrt" not in box.backends
    assert "till" in box.hardware and len(box.hardware) == 2


def test_the_story_of_an_update_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/update-models.md tells it: from a new repository to a bad version that does not come through."""
    monkeypatch.setenv("EDGE_AGENT_REPO_PASSPHRASE", "correct horse battery staple")
    monkeypatch.chdir(tmp_path)
    for version, content in (("1.0", good()), ("2.0", BAD["it detects nothing"]()), ("3.0", good() + b"")):
        folder = write_detector(tmp_path / "models", version, content, labels=("person", "dog", "hen"))
        (folder / "NOTES").write_text(version)
    ota = f"repository: 'file://{tmp_path}/repo/public', root_file: repo/public/metadata/1.root.json, clock: battery"
    (tmp_path / "config.yaml").write_text(
        "cameras: [{id: a, source: x.mp4}]\nmodel: eyes@1.0\nuse_cases: {social_distancing: {}}\n"
        f"ota: {{{ota}, keep_free_mb: 0}}\n"
    )

    def run(*words: str) -> tuple[int, dict[str, Any]]:
        code = main([*words, "--json"])
        answer = json.loads(capsys.readouterr().out)
        assert isinstance(answer, dict)
        return code, answer

    def publish(version: str) -> None:
        assert run("repo", "publish", "repo", f"{NAME}@{version}", "--channel", "canary")[0] == 0
        assert run("repo", "promote", "repo", f"{NAME}@{version}", "--channel", "stable")[0] == 0

    def active() -> str | None:
        slot = run("model", "status")[1]["active"]
        return None if slot is None else str(slot["version"])

    assert run("repo", "init", "repo", "--root-keys", "3")[0] == 0
    publish("1.0")
    code, answer = run("model", "install")
    assert (code, answer["active"], answer["job"]["state"]) == (0, None, "warming")
    assert active() is None
    assert run("model", "activate")[1]["job"]["state"] == "probation"
    assert active() == "1.0"
    assert run("model", "install")[0] == 0  # it is active already
    Activation(ModelStore(tmp_path / ".state" / "models"), EasyWorkshop()).confirm()  # as the agent does

    publish("2.0")
    code, answer = run("model", "install", "--activate")
    assert (code, answer["error"]) == (1, "ActivationFailed")
    assert "was not installed (self_test)" in answer["problems"][0] and "AP50 0.000" in answer["problems"][0]
    assert (active(), run("model", "status")[1]["job"]["state"]) == ("1.0", "rolled_back")
    code, answer = run("model", "install")
    assert (code, answer["error"]) == (1, "Rejected")  # it is not tried again and again

    publish("3.0")
    assert run("model", "install", "--activate")[0] == 0
    assert active() == "3.0"
    assert run("model", "rollback")[0] == 0
    assert active() == "1.0"
    assert main(["model", "status"]) == 0
    assert "last       eyes@3.0 rolled back (operator: rolled back by command)" in capsys.readouterr().out
    assert main(["repo", "status", "repo"]) == 0
    assert "eyes@3.0" in capsys.readouterr().out
    assert run("repo", "revoke", "repo", f"{NAME}@3.0")[1]["channels"] == ["canary", "stable"]
    assert run("repo", "refresh", "repo", "--days", "timestamp=60")[1]["roles"] == ["timestamp"]
    assert run("model", "install")[1]["error"] == "NotOffered"
