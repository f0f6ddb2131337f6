"""A model version comes to its place whole, once, and says why where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from edge_agent.errors import UsageError
from edge_agent.model_tools.staging import free_place, publish, staging_folder
from tests import model_networks as networks


def test_of_several_at_once_one_makes_the_version_and_the_others_are_told(tmp_path: Path) -> None:
    together = Barrier(4)

    def make(number: int) -> str:
        target = free_place(tmp_path, "tiny", "1.0.0", replace=False)
        with staging_folder(tmp_path) as staging:
            folder = staging / "tiny" / "1.0.0"
            folder.mkdir(parents=True)
            (folder / "manifest.yaml").write_text(str(number), encoding="utf-8")
            together.wait(30)
            try:
                publish(folder, target, staging, replace=False)
            except UsageError as error:
                return str(error)
        return "made"

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(make, range(4)))
    assert said.count("made") == 1
    assert said.count("tiny@1.0.0 is there already: give another version, or --replace") == 3
    assert (tmp_path / "tiny" / "1.0.0" / "manifest.yaml").read_text(encoding="utf-8") == str(said.index("made"))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_is_to_be_replaced_is(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with staging_folder(tmp_path) as staging:
            folder = staging / "made"
            folder.mkdir()
            (folder / "manifest.yaml").write_text(text, encoding="utf-8")
            publish(folder, free_place(tmp_path, "tiny", "1.0.0", replace=True), staging, replace=True)
    assert (tmp_path / "tiny" / "1.0.0" / "manifest.yaml").read_text(encoding="utf-8") == "new"


@pytest.mark.slow
def test_a_full_disk_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    source, models = tmp_path / "network.onnx", tmp_path / "models"
    source.write_bytes(networks.yolov8())
    models.mkdir()
    size = source.stat().st_size // 2
    words = f"mount -t tmpfs -o size={size} none {models} && {sys.executable} -m edge_agent.cli model import {source}"
    user = [] if os.geteuid() == 0 else ["-r"]
    command = ["unshare", *user, "-m", "sh", "-c", f"{words} --name tiny --models-dir {models}; ls -A {models}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "no room for a copy of it in the models directory" in done.stderr, done.stderr
    assert "cannot be read" not in done.stderr
    assert done.stdout == ""  # nothing stayed
