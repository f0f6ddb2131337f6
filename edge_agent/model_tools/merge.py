"""One model, several files: the same network for another device is added to a version that is there, in a new one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from edge_agent.detect.manifest import DecodeSpec, Model, Network
from edge_agent.errors import ModelError, UsageError
from edge_agent.model_tools.golden import read_image
from edge_agent.model_tools.guess import Choices


def choices_of(base: Model, given: Choices) -> Choices:
    """What is known of the further file, as it is the same network. Raises UsageError where something else was said."""
    manifest = base.manifest
    label = f"{manifest.name}@{manifest.version}"
    if given.family not in (None, manifest.family):
        raise UsageError(f"--family {given.family}: {label} is {manifest.family}")
    if given.labels not in ((), manifest.labels):
        raise UsageError(f"--labels: {label} has its own")
    return Choices(manifest.family, manifest.labels, f"as {label}", given.size)


def copy_files(base: Model, folder: Path) -> None:
    """All files of ``base`` beside the new one. Raises UsageError for a name that both have, ModelError for a damaged file."""
    for file in base.manifest.files:
        for name in (file.path, *(part.path for part in file.parts)):
            _copy(base.folder, folder, name)
        with Network(base.manifest, file, folder).verified():
            pass
    for image in base.manifest.golden.images if base.manifest.golden else ():
        _copy(base.folder, folder, image.path)
        read_image(folder, image)


def _copy(source: Path, folder: Path, name: str) -> None:
    if (folder / name).exists():
        raise UsageError(f"both have a file {name}: rename the one that comes in")
    try:
        shutil.copyfile(source / name, folder / name)
    except FileNotFoundError as error:
        raise ModelError(f"{source / name}: {error.strerror}; the manifest names this file") from error


def merged(base: Model, version: str, entry: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The manifest of ``base`` with ``entry`` at its end, and in that what its file has otherwise. Raises UsageError.

    How pictures are prepared (colours, scaling, fit) is a fact of the training and stays as ``base`` has it.
    """
    manifest = base.manifest
    size = tuple(fields["input"]["size"])
    if size != manifest.input.size:
        theirs = "x".join(map(str, manifest.input.size))
        raise UsageError(f"the file takes {size[0]}x{size[1]} and {manifest.name}@{manifest.version} {theirs}")
    own = {key: fields["input"][key] for key in ("name", "layout", "dtype")}
    usual = manifest.input.model_dump(include=set(own))
    different = {key: value for key, value in own.items() if value != usual[key]}
    further: dict[str, Any] = {"input": different} if different else {}
    if tuple(fields["outputs"]) != manifest.outputs:
        further["outputs"] = fields["outputs"]
    if DecodeSpec.model_validate(fields.get("decode", {})) != manifest.decode:
        further["decode"] = fields["decode"]
    raw = yaml.safe_load((base.folder / "manifest.yaml").read_text(encoding="utf-8"))
    return {**raw, "version": version, "files": [*raw["files"], entry | further]}


def doubts(base: Model, fields: dict[str, Any]) -> list[str]:
    """Integers show for which scaling a file was made: a warning where the version it joins scales otherwise."""
    spec = base.manifest.input
    mean, std = tuple(fields["input"]["mean"]), tuple(fields["input"]["std"])
    if fields["input"]["dtype"] not in ("uint8", "int8") or (mean, std) == (spec.mean, spec.std):
        return []
    theirs, ours = f"mean {mean[0]:g} and std {std[0]:g}", f"{spec.mean[0]:g} and {spec.std[0]:g}"
    return [f"by its integers it was made for {theirs}, the version it joins has {ours}: one of them is wrong"]
