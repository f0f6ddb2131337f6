"""Installs the stand-in for TensorRT into a folder, under any version."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.fake_cuda import with_driver


def install(site: Path, version: str, *, library: str = "") -> None:
    """Put it into ``site`` as ``version``; another ``library`` version is what the module itself says. Replaces an older one."""
    for old in site.glob("tensorrt-*.dist-info"):
        shutil.rmtree(old)
    info = site / f"tensorrt-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n")
    text = Path(__file__).with_name("module.py").read_text()
    (site / "tensorrt.py").write_text(text.replace('"0.0.0"', f'"{library or version}"'))
    shutil.rmtree(site / "__pycache__", ignore_errors=True)


def with_tensorrt(site: Path, driver: Path, root: Path) -> dict[str, str]:
    """An environment in which a process finds both stand-ins, and the tests."""
    environment = with_driver(driver)
    paths = [str(site), str(root), *filter(None, [environment.get("PYTHONPATH", "")])]
    return {**environment, "PYTHONPATH": ":".join(paths), "TENSORRT_SITE": str(site)}
