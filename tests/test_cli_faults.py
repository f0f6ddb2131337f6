"""The command line where something is missing, narrow, or interrupted."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from edge_agent import config_file
from edge_agent.cli import main
from edge_agent.detect.manifest import Model
from edge_agent.doctor import service
from edge_agent.doctor.box import Box, RunningAgent
from edge_agent.model_tools.show import checks_table, models_table
from edge_agent.model_tools.verify import Check
from tests.agent_process import COMMAND, write_config

# Stands for a box on which the imports take seconds: one of them does not come back, and says when it has begun.
SLOW_IMPORT = "import sys, time\nprint('importing', flush=True)\ntime.sleep(60)\n"


def test_interrupted_while_it_still_loads_it_ends_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text(SLOW_IMPORT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, "check"], stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "")


def test_check_refuses_a_model_without_a_file_for_the_backend(
    root: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = models / "person-n" / "1.0.0" / "manifest.yaml"
    fields = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    fields["files"] = [file for file in fields["files"] if file["backend"] == "onnxruntime"]
    manifest.write_text(yaml.safe_dump(fields), encoding="utf-8")
    change = {"models_dir": str(models), "model": "person-n"}
    assert main(["check", "-c", str(write_config(root, tmp_path, detect={"backend": "tflite"}, **change))]) == 3
    said = capsys.readouterr().err
    assert "no file for backend 'tflite' (it has: onnxruntime)" in said
    assert "model import FILE --add-to person-n" in said  # what to do
    reads_onnx = write_config(root, tmp_path, detect={"backend": "openvino"}, **change)
    assert main(["check", "-c", str(reads_onnx)]) == 0


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_check_refuses_a_model_whose_file_is_gone(
    root: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    for file in (models / "person-n" / "1.0.0").glob("person-n-*"):
        file.unlink()
    change = {"models_dir": str(models), "model": "person-n"}
    assert main(["check", "-c", str(write_config(root, tmp_path, detect={"backend": backend}, **change))]) == 3
    assert ".onnx: no such file; the manifest names it" in capsys.readouterr().err


def test_check_names_sinks_and_refuses_one_that_cannot_be(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("hunter2")
    hook = {"enabled": True, "url": "https://hooks.example/x?key=hunter2", "secret_file": str(tmp_path / "secret")}
    path = write_config(root, tmp_path, influxdb={"enabled": True}, webhook=hook)
    assert main(["check", "-c", str(path)]) == 2
    said = capsys.readouterr().err
    assert (
        re.search(r"config.yaml:\d+:\d+: webhook.secret_file: what is in it is no key", said) and "hunter2" not in said
    )
    (tmp_path / "secret").write_text("whsec_" + "A" * 40)
    assert main(["check", "-c", str(path)]) == 0
    said = capsys.readouterr().out
    assert "influxdb: http://localhost:8086" in said and "webhook: https://hooks.example\n" in said


def test_a_name_to_be_typed_is_whole_on_a_narrow_screen(bundled: Model) -> None:
    name, version = "person-tills", "1.0.0-openvino"
    manifest = bundled.manifest.model_copy(update={"name": name, "version": version})
    check = Check(f"{name}@{version}", f"{name}.onnx", "onnxruntime", "ok", "cpu, 45.7 ms, 26 boxes")
    for table in (models_table([manifest]), checks_table([check])):
        screen = io.StringIO()
        Console(file=screen, width=80).print(table)
        assert f"{name}@{version} " in screen.getvalue()


def test_a_folder_without_models_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "list", "--models-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"there is no model in {tmp_path}\n"


def test_a_network_is_not_compared_with_itself(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    command = ["model", "parity", "person-n", "person-n@1.0.0", "--models-dir", str(root / "models")]
    assert main([*command, "--images", str(tmp_path)]) == 2
    assert "both sides are person-n@1.0.0 on onnxruntime" in capsys.readouterr().err


def test_an_agent_that_is_too_busy_to_answer_is_not_said_to_have_no_api(root: Path, tmp_path: Path) -> None:
    agent = RunningAgent(None, "its REST API does not answer: timed out")
    for port, words in ((8080, "overloaded"), (0, "http.port")):
        path = write_config(root, tmp_path, http={"port": port})
        found = service.running(Box(config=config_file.load(path), config_path=path, agent=agent))
        assert found.state == "warn" and words in found.fix


def test_a_picture_that_is_none_is_the_users_mistake_and_not_the_models(
    root: Path, bundled: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bundled.network("onnxruntime").path
    picture = tmp_path / "gone.jpg"
    assert main(["model", "verify", "person-n", "--models-dir", str(root / "models"), "--image", str(picture)]) == 2
    assert capsys.readouterr().err.startswith(f"edge-agent: --image {picture}: no such file")
    make = ["model", "import", str(file), "--name", "x", "--labels", "person", "--models-dir", str(tmp_path / "models")]
    assert main([*make, "--image", str(picture)]) == 2
    assert capsys.readouterr().err.startswith(f"edge-agent: --image {picture}: no such file")


@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [("schema config", ">&-", 0), ("model show nothing --models-dir .", "<&- >&- 2>&-", 3)],
)
def test_a_standard_stream_that_the_caller_closed_changes_nothing(
    tmp_path: Path, arguments: str, closed: str, code: int
) -> None:
    words = f"{shlex.join(COMMAND)} {arguments} {closed}"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, "")


def test_nobody_is_told_to_install_a_strangers_package(root: Path) -> None:
    # The package of our name in the Python index is another project: with the system's pip that is what would come.
    files = [*(root / "edge_agent").rglob("*.py"), *(root / "docs").rglob("*.md"), root / "README.md"]
    told = re.compile(r"pip install (?:-\S+ )*'?edge-agent[\['\s]")
    assert [path.name for path in files if told.search(path.read_text(encoding="utf-8"))] == []
