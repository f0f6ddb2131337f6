"""The stages do not know each other, and the agent's modules load on a box that has no vendor's library."""

from __future__ import annotations

import configparser
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


def test_the_import_contracts_catch_a_stage_that_imports_another(tmp_path: Path) -> None:
    """The contracts as they stand in setup.cfg, on a package of the same shape with one wrong import."""
    tmp_path.joinpath("setup.cfg").write_bytes(ROOT.joinpath("setup.cfg").read_bytes())
    package = tmp_path / "edge_agent"
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    stages = config["importlinter:contract:stages"]["modules"].split()
    for name in ("edge_agent", *stages):
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir()
        folder.joinpath("__init__.py").touch()
    layers = config["importlinter:contract:layers"]["layers"].replace("|", " ").split()
    for name in set(layers) - set(stages):
        package.joinpath(f"{name.split('.')[1]}.py").touch()
    package.joinpath("track", "wrong.py").write_text("import edge_agent.detect\n", encoding="utf-8")
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    assert "edge_agent.track.wrong" in done.stdout


@pytest.mark.slow
def test_every_module_loads_without_any_vendor_package() -> None:
    code = LOAD_ALL.format(vendors=VENDORS)
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
