"""Builds a bundle, all that a box of one kind needs to run the agent, for installation without internet: ``make bundle``.

``dist/edge-agent-<machine>-py<X.Y>-<version>.tar`` is a release as docs/adr/013-releases.md has it: the locked wheels for that
Python and machine, the agent's own, pip's (a box need not have pip), models, and the update repository's root where one is
given. The same file installs a bare box, is published to the update repository, and updates a box by hand.

A platform is ``<python tag>-<machine>`` as in ``cp311-x86_64``, ``cp313-aarch64``; with ``-jetpack`` at the end it is for a
Jetson, whose OpenCV and TensorRT come with JetPack.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from edge_agent.errors import UsageError
from edge_agent.ota.release import release_name
from edge_agent.ota.repository.pack import pack

ROOT = Path(__file__).parent.parent
GLIBC = {"cp310": 35, "cp311": 36, "cp312": 39, "cp313": 41}
"""glibc 2.x of the oldest system that comes with this Python: Ubuntu 22.04, Debian 12, Ubuntu 24.04, Debian 13."""
NOT_ON_JETPACK = {"opencv-python-headless", "numpy"}
"""OpenCV is JetPack's own, and was built for the NumPy 1 that requirements/jetpack.txt names."""
PLATFORM = re.compile(rf"({'|'.join(GLIBC)})-(x86_64|aarch64)(-jetpack)?")


class BundleError(Exception):
    """It can't be built; the message says why, and what to do."""


@dataclass(frozen=True)
class Platform:
    """One kind of box."""

    tag: str
    machine: str
    jetpack: bool

    @classmethod
    def parse(cls, text: str) -> Platform:
        """From ``cp311-x86_64``; raises :class:`BundleError`."""
        match = PLATFORM.fullmatch(text)
        if match is None or (match[3] and match[2] != "aarch64"):
            raise BundleError(
                f"PLATFORM={text}: a platform is {'|'.join(GLIBC)}, then -x86_64 or -aarch64, for a Jetson cp310-aarch64-jetpack "
                "or cp312-aarch64-jetpack"
            )
        return cls(match[1], match[2], bool(match[3]))

    @classmethod
    def here(cls) -> Platform:
        """Of the interpreter that runs this."""
        return cls.parse(f"cp3{sys.version_info.minor}-{platform.machine()}")

    def __str__(self) -> str:
        return f"{self.tag}-{self.machine}{'-jetpack' if self.jetpack else ''}"

    @property
    def python(self) -> str:
        """``3.11``."""
        return f"3.{self.tag[3:]}"

    def markers(self) -> dict[str, str]:
        """What the lock's environment markers are judged by (PEP 508); pip would take those of the interpreter it runs in."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "platform_machine": self.machine,
            "platform_system": "Linux",
            "sys_platform": "linux",
            "os_name": "posix",
            "extra": "",
        }

    def wheel_platforms(self) -> Iterator[str]:
        """Platform tags of wheels that run there (PEP 600), newest first."""
        for minor in range(GLIBC[self.tag], 4, -1):
            yield f"manylinux_2_{minor}_{self.machine}"
        yield f"manylinux2014_{self.machine}"
        if self.machine == "x86_64":
            yield from ("manylinux2010_x86_64", "manylinux1_x86_64")


def main() -> int:
    """The exit code."""
    arguments = _arguments()
    try:
        chosen = Platform.parse(arguments.platform) if arguments.platform else Platform.here()
        archive = build(chosen, arguments)
    except (BundleError, UsageError) as error:
        sys.stderr.write(f"make bundle: {error}\n")
        return 1
    sys.stdout.write(f"{archive}  {archive.stat().st_size / 1e6:.1f} MB\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build a bundle for boxes without internet.")
    parser.add_argument(
        "--platform", default="", help="kind of box, for example cp311-aarch64; default: this machine's"
    )
    parser.add_argument("--extras", nargs="*", default=[], help="coral influxdb openvino tensorrt")
    parser.add_argument("--models", nargs="*", default=[], help="names below models/; default: all")
    parser.add_argument("--root", type=Path, help="root.json of the update repository")
    parser.add_argument("--source", type=Path, default=ROOT, help="the agent's sources; default: this repository")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the archive; default: dist")
    return parser.parse_args()


def build(chosen: Platform, wanted: argparse.Namespace) -> Path:
    """The archive, written whole or not at all; raises :class:`BundleError`, UsageError."""
    source, out, root = wanted.source, wanted.out, wanted.root
    if root is not None and not root.is_file():
        raise BundleError(
            f"ROOT={root}: there is no such file; `edge-agent repo init` makes public/metadata/1.root.json"
        )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".bundle-") as work:
        wheels = Path(work) / "wheels"
        wheels.mkdir()
        version = _build_wheel(source, wheels)
        lock = Path(work) / "requirements.txt"
        lock.write_text("".join(_locked(chosen, wanted.extras)), encoding="utf-8")
        _download(chosen, lock, wheels)
        name = release_name(chosen.machine, chosen.python) + ("-jetpack" if chosen.jetpack else "")
        archive: Path = out / f"{name}-{version}.tar"
        pack(wheels, archive, models=list(_models(source, wanted.models, Path(work) / "models")), root=root, name=name)
    return archive


def _locked(chosen: Platform, extras: list[str]) -> Iterator[str]:
    """The requirements of the locks that hold for that platform, with their hashes."""
    environment = chosen.markers()
    for name in ["run", *(f"extra-{extra}" for extra in extras), "bundle", *(["jetpack"] if chosen.jetpack else [])]:
        lock = ROOT / "requirements" / f"{name}.txt"
        if not lock.is_file():
            raise BundleError(f"EXTRAS={name.removeprefix('extra-')}: there is no {lock.relative_to(ROOT)}")
        for entry in re.split(
            r"\n(?=\S)", re.sub(r"^ *#.*\n", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
        ):
            requirement = Requirement(entry.split(" \\\n")[0])
            if requirement.marker is not None and not requirement.marker.evaluate(environment):
                continue
            if not (chosen.jetpack and requirement.name in NOT_ON_JETPACK and name != "jetpack"):
                yield f"{requirement.name}{requirement.specifier} {' '.join(re.findall(r'--hash=[^ ]+', entry))}\n"


def _download(chosen: Platform, requirements: Path, wheels: Path) -> None:
    places = [argument for name in chosen.wheel_platforms() for argument in ("--platform", name)]
    _run(
        [
            *_PIP,
            "download",
            "-q",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--implementation",
            "cp",
            "--python-version",
            chosen.python,
            "--abi",
            chosen.tag,
            "--abi",
            "abi3",
            "--abi",
            "none",
            *places,
            "-r",
            str(requirements),
            "-d",
            str(wheels),
        ],
        f"the locked wheels for {chosen} can't be had",
    )


_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def _build_wheel(source: Path, wheels: Path) -> str:
    """The agent's own; its version. From a copy, as setuptools leaves its work among the sources."""
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "source"
        shutil.copytree(source / "edge_agent", copy / "edge_agent", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
            shutil.copy(source / name, copy / name)
        _run(
            [*_PIP, "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels), str(copy)],
            "the agent's wheel can't be built",
        )
    (wheel,) = wheels.glob("edge_agent-*.whl")
    return wheel.name.split("-")[1]


def _run(command: list[str], failure: str) -> None:
    # The time in the wheel: the same sources give the same bytes.
    environment = os.environ | {"SOURCE_DATE_EPOCH": "315532800"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603 - our own words
    if done.returncode != 0:
        raise BundleError(f"{failure}:\n{done.stdout}{done.stderr}")


def _models(source: Path, names: list[str], work: Path) -> Iterator[tuple[str, str, Path]]:
    """Name, version, folder of each; without the pictures and measurements of the training, which are for readers."""
    there = {path.name for path in (source / "models").iterdir() if path.is_dir()}
    unknown = sorted(set(names) - there)
    if unknown:
        raise BundleError(f"MODELS={' '.join(unknown)}: models/ has {', '.join(sorted(there))}")
    for name in names or sorted(there):
        for version in sorted(path.name for path in (source / "models" / name).iterdir()):
            folder = work / name / version
            shutil.copytree(
                source / "models" / name / version, folder, ignore=shutil.ignore_patterns("*.png", "metrics.json")
            )
            yield name, version, folder


if __name__ == "__main__":
    sys.exit(main())
