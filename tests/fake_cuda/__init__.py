"""Builds a CUDA driver library without a device, which the real packages load in place of the real one."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

from edge_agent.detect.backends.tensorrt.memory import installed

SOURCE = Path(__file__).with_name("libcuda.c")


def build_driver(folder: Path) -> Path:
    """Compile ``libcuda.so.1`` into ``folder``. Functions that pycuda links to and no test needs answer "not supported"."""
    stubs = folder / "stubs.c"
    stubs.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(_linked() - _defined())))
    library = folder / "libcuda.so.1"
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-O1",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        str(library),
        str(SOURCE),
        str(stubs),
    ]
    subprocess.run([*command, "-ldl"], check=True, timeout=60)
    return library


def with_driver(library: Path) -> dict[str, str]:
    """An environment in which a process finds that driver."""
    return {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}


def _defined() -> set[str]:
    words = SOURCE.read_text().replace("(", " ").split()
    return {word for word in words if word.startswith("cu")}


def _linked() -> set[str]:
    """The driver functions that pycuda's extension needs at load time."""
    if not installed("pycuda"):
        return set()
    import importlib.util

    spec = importlib.util.find_spec("pycuda")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    extension = folder / f"_driver{sysconfig.get_config_var('EXT_SUFFIX')}"
    listed = subprocess.run(["nm", "-D", "--undefined-only", extension], check=True, capture_output=True, text=True)
    return {word for word in listed.stdout.split() if word.startswith("cu")}
