"""What is in the wheel: every module, the type marker, the files the REST API serves, the licences, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edge_agent"


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source / "edge_agent")  # __pycache__ too, which must stay out
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-w",
            tmp_path,
            source,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("edge_agent-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        commands = archive.read(next(name for name in inside if name.endswith("entry_points.txt"))).decode()
    files = {
        str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"edge_agent/py.typed", "edge_agent/health/assets/docs.html"} <= files
    assert {name for name in inside if ".dist-info/" not in name} == files
    assert {Path(name).name for name in inside if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    assert "edge-agent = edge_agent.cli:main" in commands
