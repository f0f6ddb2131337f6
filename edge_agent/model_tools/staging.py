"""A model version comes to its place whole or not at all: it is made in a folder beside, and renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from edge_agent.detect.manifest import AUTO, Manifest
from edge_agent.errors import HardwareError, ModelError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
STALE_S = 86_400.0


def free_place(models_dir: Path, name: str, version: str, *, replace: bool) -> Path:
    """The folder for a new version. Raises UsageError where a name is none, or the version is there and not to be replaced."""
    for option, text in (("--name", name), ("--version", version)):
        if not NAME.fullmatch(text):
            raise UsageError(f"{option} {text}: letters, digits, '.', '_' and '-' only, at most 64")
    if name == AUTO:
        raise UsageError(f"--name {name}: that is no model's name, it leaves the choice to the agent")
    target = models_dir / name / version
    if target.exists() and not replace:
        raise _taken(target)
    return target


@contextlib.contextmanager
def staging_folder(models_dir: Path) -> Iterator[Path]:
    """A folder on the same disk that is gone afterwards; those that a power failure left are removed. Raises HardwareError.

    It lies so deep that nobody takes what is in it for a model before it is renamed.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        for old in models_dir.glob(".import-*"):
            if time.time() - old.stat().st_mtime > STALE_S:
                shutil.rmtree(old, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=".import-", dir=models_dir))
    except OSError as error:
        raise HardwareError(f"{models_dir}: {error.strerror}; --models-dir names another folder") from error
    try:
        yield staging
    except OSError as error:
        raise HardwareError(f"{models_dir}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def publish(folder: Path, target: Path, staging: Path, *, replace: bool) -> None:
    """Move a finished version to its place; one that it replaces goes with ``staging``.

    Raises UsageError where somebody else made that version meanwhile and it is not to be replaced.
    """
    os.sync()  # a power failure after the rename must not leave a manifest without its network
    target.parent.mkdir(exist_ok=True)
    if replace and target.exists():
        target.rename(staging / "replaced")
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise _taken(target) from error


def _taken(target: Path) -> UsageError:
    return UsageError(f"{target.parent.name}@{target.name} is there already: give another version, or --replace")


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """``manifest.yaml`` in ``folder``, in the order given. Raises ModelError where it is none."""
    try:
        Manifest.model_validate(manifest)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ModelError(f"it cannot be described by a manifest: {faults}") from error
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
    (folder / "manifest.yaml").write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Of a file's content, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
