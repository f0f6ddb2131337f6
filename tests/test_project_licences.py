"""No dependency of the core or of a runtime extra may be under GPL or AGPL."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.licences import closure, installed, offenders, refused

ROOT = Path(__file__).parent.parent
PROJECT = "edge-agent"

# Read from the releases that the lock names, for packages that are in an extra few boxes install.
REVIEWED = {
    "ai-edge-litert": "Apache-2.0",
    "backports-strenum": "MIT",
    "certifi": "MPL-2.0",
    "colorama": "BSD-3-Clause",  # Windows only
    "cuda-bindings": "Apache-2.0",
    "cuda-pathfinder": "Apache-2.0",
    "exceptiongroup": "MIT AND PSF-2.0",
    "influxdb-client": "MIT",
    "ml-dtypes": "Apache-2.0",
    "openvino": "Apache-2.0",
    "openvino-telemetry": "Apache-2.0",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "reactivex": "MIT",
    "six": "MIT",
    "systemd-python": "LGPL-2.1-or-later",
    # NVIDIA's own, for building tests only, never on a box; what `make check` does not install it cannot read.
    "tensorrt-rtx-cu12": "LicenseRef-NVIDIA-Proprietary",
    "tensorrt-rtx-cu12-bindings": "LicenseRef-NVIDIA-Proprietary",
    "tensorrt-rtx-cu12-libs": "LicenseRef-NVIDIA-Proprietary",
    "tqdm": "MPL-2.0 AND MIT",
    "tzdata": "Apache-2.0",
    "urllib3": "MIT",
}


def runtime_extras() -> dict[str, list[str]]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = {name: value.split("\n") for name, value in config["options.extras_require"].items() if name != "dev"}
    return {name: [line for line in lines if line.strip()] for name, lines in extras.items()}


def locked(path: Path) -> set[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(found[1]) for line in lines if (found := re.match(r"([A-Za-z0-9._-]+)==", line))}


def test_no_dependency_is_gpl() -> None:
    packages = installed()
    names = set(closure(PROJECT, runtime_extras(), packages))
    assert {"numpy", "paho-mqtt", "pydantic-core", "opencv-python-headless", "onnxruntime"} <= names
    assert not offenders(sorted(names), packages, REVIEWED)


def test_no_locked_package_of_an_extra_is_gpl() -> None:
    """The lock knows the whole tree of the extras that are not installed here."""
    packages = installed()
    for extra in set(runtime_extras()) - {"opencv", "onnx"}:
        names = locked(ROOT / "requirements" / f"extra-{extra}.txt")
        required = {canonicalize_name(Requirement(line).name) for line in runtime_extras()[extra]}
        assert required <= names, "run: make lock"
        assert not offenders(sorted(names), packages, REVIEWED), extra


def test_a_gpl_dependency_is_caught_at_any_depth(tmp_path: Path) -> None:
    """The check itself, on real metadata: an extra's dependency of a dependency, by expression and by classifier."""
    packages = {
        "app": "Requires-Dist: middle; extra == 'x'\nLicense-Expression: MIT",
        "middle": "Requires-Dist: deep[y]\nLicense: MIT",
        "deep": "Requires-Dist: by-classifier; extra == 'y'\nRequires-Dist: unused; extra == 'z'\nLicense-Expression: AGPL-3.0-only",
        "by-classifier": "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
        "unused": "License-Expression: GPL-3.0-only",
    }
    for name, metadata in packages.items():
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        folder.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}\n", encoding="utf-8"
        )
    found = installed([str(tmp_path)])
    names = list(closure("app", ["x"], found))
    assert names == ["by-classifier", "deep", "middle"]
    assert [line.split(":")[0] for line in offenders(names, found, {})] == ["by-classifier", "deep"]
    assert list(closure("app", [], found)) == []
    assert offenders(["nowhere"], found, {}) == [
        "nowhere: states no licence; look at it and add it to the reviewed ones"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GPL-3.0-or-later", True),
        ("GPLv2", True),
        ("GNU General Public License v2 or later (GPLv2+)", True),
        ("GNU Affero General Public License v3", True),
        ("MIT AND GPL-2.0-only", True),
        ("(MIT OR Apache-2.0) AND AGPL-3.0-only", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("GNU Library or Lesser General Public License (LGPL)", False),
        ("EPL-2.0 OR BSD-3-Clause", False),
        ("MIT OR GPL-2.0-only", False),
        ("(GPL-2.0-only OR MIT) AND BSD-3-Clause", False),
        ("BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("MIT License", False),
    ],
)
def test_verdicts(text: str, expected: bool) -> None:
    assert refused(text) is expected
