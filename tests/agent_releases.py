"""Releases for tests: real archives with a real wheel, whose agent is a small program that answers on a real control socket."""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import sys
import sysconfig
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path

from edge_agent.ota.bundle import unpack, write_bundle
from edge_agent.ota.release import archive_sha256
from edge_agent.ota.repository.pack import Packed, pack

_AGENT = '''
"""The agent of release {version}: as much of it as an updater has to do with."""
import json, os, signal, socket, sys, time

VERSION, READINESS, DIES = {version!r}, {readiness!r}, {dies!r}

def main():
    words = sys.argv[1:]
    if words == ["--version"]:
        print("edge-agent", VERSION)
    elif words[:1] == ["run"]:
        return run(words[-1])
    elif words[:2] != ["update", "--status"] and words[:1] != ["check"]:
        return 2
    return 0

def run(state):
    if DIES:
        return 1
    path = os.path.join(state, "control.sock")
    if os.path.exists(path):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen(8)
        while True:
            client, _ = server.accept()
            with client, client.makefile("rwb") as lines:
                lines.readline()
                result = {{"version": VERSION, "readiness": READINESS}}
                lines.write(json.dumps({{"ok": True, "result": result}}).encode() + b"\\n")
                lines.flush()
'''
SERVICE = Path(__file__).with_name("release_service.py")


def write_wheel(
    folder: Path,
    version: str,
    *,
    readiness: str = "ok",
    dies: bool = False,
    more: Mapping[str, str] | None = None,
    says: str | None = None,
) -> Path:
    """The agent's wheel; ``more``: further modules of it, ``says``: the version that it says it is."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"edge_agent-{version}.dist-info"
    agent = _AGENT.format(version=says or version, readiness=readiness, dies=dies)
    files = {
        "edge_agent/__init__.py": f"__version__ = {version!r}\n",
        "edge_agent/cli.py": textwrap.dedent(agent),
        **{f"edge_agent/{name}.py": text for name, text in (more or {}).items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: edge-agent\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nedge-agent = edge_agent.cli:main\n",
    }
    record = "".join(f"{name},sha256={_hash(text)},{len(text)}\n" for name, text in files.items())
    path = folder / f"edge_agent-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def pip_wheel() -> Path:
    """The one that Python's own ``venv`` would take: half the work of a test is to install it."""
    places = (
        sysconfig.get_config_var("WHEEL_PKG_DIR"),
        "/usr/share/python-wheels",
        Path(ensurepip.__file__).parent / "_bundled",
    )
    return next(path for place in places if place for path in sorted(Path(place).glob("pip-*.whl")))


def write_release(folder: Path, version: str, *, pip: Path | None = None, **agent: object) -> Packed:
    """The archive of a release; see ``write_wheel``."""
    wheels = folder / f"wheels-{version}"
    write_wheel(wheels, version, **agent)  # type: ignore[arg-type]
    if pip is not None:
        (wheels / pip.name).symlink_to(pip)
    return pack(wheels, folder / f"{version}.tar")


def swap_wheel(archive: Path, version: str) -> None:
    """Put another wheel into a release's archive, under the old one's name; its list of hashes stays."""
    folder = archive.with_suffix(".swapped")
    unpack(archive, folder, archive_sha256(archive))
    (wheel,) = folder.glob(f"edge_agent-{version}-*.whl")
    with zipfile.ZipFile(wheel, "a") as inside:
        inside.writestr("edge_agent/another.py", "")
    with archive.open("wb") as out:
        write_bundle(folder, out)


def restart_command(home: Path, state: Path) -> str:
    """What starts the service anew: a real process, from the link, as systemd would."""
    return f"{sys.executable} {SERVICE} {home} {state}"


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def write_real_wheel(folder: Path, package: Path, version: str, packages: str, change: Mapping[str, str]) -> Path:
    """The real agent under another version. What it needs is taken from ``packages``; ``change``: appended to some of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    info, path = f"edge_agent-{version}.dist-info", folder / f"edge_agent-{version}-py3-none-any.whl"
    files = {
        str(file.relative_to(package.parent)): file.read_bytes()
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    for name, text in {"edge_agent/__init__.py": f'__version__ = "{version}"\n', **change}.items():
        files[name] += text.encode()
    files |= {
        "from_tests.pth": f"{packages}\n".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: edge-agent\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": b"[console_scripts]\nedge-agent = edge_agent.cli:main\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return path
