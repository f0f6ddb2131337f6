"""The stages do not know each other, and the agent's modules load on a box that has no vendor's library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VENDORS = (
    *("tensorrt", "pycuda", "cuda", "ai_edge_litert", "tflite_runtime", "pycoral", "openvino", "onnxruntime"),
    *("systemd", "influxdb_client"),
)

LOAD_ALL = """
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {vendors}:
            raise ImportError(f"{{name}} is a vendor's package and is imported when the package loads")
sys.meta_path.insert(0, Refuse())
import edge_agent
names = [module.name for module in pkgutil.walk_packages(edge_agent.__path__, "edge_agent.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_import_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 2 kept, 0 broken" in done.stdout


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    """The contracts as they stand in setup.cfg, beside an empty package of the same shape."""
    tmp_path.joinpath("setup.cfg").write_bytes(ROOT.joinpath("setup.cfg").read_bytes())
    for source in (ROOT / "edge_agent").rglob("*.py"):
        target = tmp_path / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    assert lint_imports(tmp_path).returncode == 0
    return tmp_path


@pytest.mark.parametrize(
    ("module", "imports"),
    [
        ("track/wrong.py", "edge_agent.detect"),
        ("track/wrong.py", "edge_agent.pipeline"),
        ("types.py", "edge_agent.config"),
        ("app.py", "edge_agent.cli"),
        ("outbox/wrong.py", "edge_agent.config_file"),
    ],
)
def test_the_import_contracts_catch_a_wrong_import(shape: Path, module: str, imports: str) -> None:
    shape.joinpath("edge_agent", module).write_text(f"import {imports}\n", encoding="utf-8")
    done = lint_imports(shape)
    assert done.returncode != 0
    assert f"edge_agent.{module.removesuffix('.py').replace('/', '.')} -> {imports}" in done.stdout


def test_a_module_without_a_place_is_caught(shape: Path) -> None:
    shape.joinpath("edge_agent", "stray.py").touch()
    done = lint_imports(shape)
    assert done.returncode != 0
    assert "stray" in done.stdout


@pytest.mark.slow
def test_every_module_loads_without_any_vendor_package() -> None:
    code = LOAD_ALL.format(vendors=VENDORS)
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
