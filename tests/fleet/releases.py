"""Further releases of the agent for the story: the first one's archive with another wheel of the agent in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from edge_agent.ota.release import release_name
from edge_agent.ota.repository.pack import pack

ROOT = Path(__file__).parent.parent.parent
BROKEN = '\n\ndef main(argv: object = None) -> int:\n    """Dies."""\n    return 1 if "run" in sys.argv else _main()\n'
"""Everything can be imported and every verb works but the one that matters."""


def release(first: Path, version: str, out: Path, *, broken: bool = False) -> Path:
    """The archive of another version; ``broken``: it ends as soon as it is to run."""
    work = out / f"work-{version}"
    wheels = work / "wheels"
    wheels.mkdir(parents=True)
    with tarfile.open(first) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None and member.name.endswith(".whl"):
                (wheels / member.name).write_bytes(content.read())
    for wheel in wheels.glob("edge_agent-*"):
        wheel.unlink()
    source = work / "source"
    shutil.copytree(ROOT / "edge_agent", source / "edge_agent", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    (source / "edge_agent/__init__.py").write_text(f'"""A test\'s."""\n\n__version__ = "{version}"\n')
    if broken:
        cli = source / "edge_agent/cli/__init__.py"
        cli.write_text(
            cli.read_text().replace(
                "def main(argv: Sequence[str] | None = None)", "def _main(argv: Sequence[str] | None = None)"
            )
            + BROKEN
        )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-w",
            wheels,
            source,
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    models = [(p.parent.name, p.name, p) for p in sorted((ROOT / "models").glob("person-n/*"))]
    target = out / f"{release_name()}-{version}.tar"
    pack(wheels, target, models=models)
    shutil.rmtree(work)
    return target
