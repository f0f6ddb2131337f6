"""Reads ``config.yaml``: all its problems in one run, each with file, line, key path, what was given and what is allowed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_agent.config import Config, UseCasesConfig, given_secret, read_secret
from edge_agent.config_base import Strict, TlsConfig
from edge_agent.config_ota import OtaConfig
from edge_agent.config_overlay import REMOTE, SIGNED, Patch, findings, laid_over, looser
from edge_agent.config_rules import findings as rule_findings
from edge_agent.config_words import dotted, in_words, value_at
from edge_agent.config_yaml import MAX_BYTES, Fault, KeyPath, Tree, read_tree
from edge_agent.errors import ConfigError
from edge_agent.tls import IDENTITY, problems, warnings

logger = logging.getLogger(__name__)

MAX_PROBLEMS = 100
SECRET_FILES: tuple[tuple[tuple[str, str], str], ...] = (
    (("mqtt", "password_file"), "EDGE_AGENT_MQTT_PASSWORD"),
    (("influxdb", "token_file"), "EDGE_AGENT_INFLUXDB_TOKEN"),
    (("webhook", "secret_file"), "EDGE_AGENT_WEBHOOK_SECRET"),
    (("webhook", "token_file"), "EDGE_AGENT_WEBHOOK_TOKEN"),
    (("http", "token_file"), "EDGE_AGENT_HTTP_TOKEN"),
    (("ota", "token_file"), "EDGE_AGENT_OTA_TOKEN"),
)
TLS_SECTIONS: tuple[KeyPath, ...] = (("mqtt", "tls"), ("influxdb", "tls"), ("webhook", "tls"), ("ota", "tls"))
_TLS_FILES = ("ca_file", "cert_file", "key_file")
_INSTALLED = {
    ("/etc/edge-agent", "state_dir"): "/var/lib/edge-agent",
    ("/etc/edge-agent", "models_dir"): "/opt/edge-agent/current/models",
}
"""(the file's folder, key) → default: what is installed has its places by the file system's rules, not beside the file."""
_MACHINE_ID = Path("/etc/machine-id")
_APPLICATION = b"edge-agent device id, version 1"
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")


def load(path: Path) -> Config:
    """The configuration in ``path``: environment filled in, paths made absolute, the device named.

    Raises ConfigError with every problem of the file (100 at most), in the order of its lines.
    """
    return ConfigFile(path).config


def load_ota(path: Path) -> tuple[OtaConfig, Path]:
    """Section ``ota`` and ``state_dir`` alone: who updates the agent must not fail by what is wrong elsewhere. Raises ConfigError."""
    tree = read_tree(_read(path))
    data = tree.data if isinstance(tree.data, dict) else {}
    told = json.loads(json.dumps({key: data[key] for key in ("ota", "state_dir") if data.get(key) is not None}))
    _absolute_paths(told, path.parent)
    try:
        return OtaConfig.model_validate_json(json.dumps(told.get("ota", {})), strict=True), Path(told["state_dir"])
    except ValidationError as error:
        raise ConfigError([f"{path}: ota.{dotted(e['loc'])}: {e['msg']}" for e in error.errors()]) from error


class ConfigFile:
    """The operator's file, read once: its ``config``, and what that would be with a patch over it. Raises as ``load`` does."""

    def __init__(self, path: Path) -> None:
        self._tree, self._folder = read_tree(_read(path)), path.parent
        if not isinstance(self._tree.data, dict):
            raise _refusal(path, self._tree.faults or [_not_sections(self._tree.data)])
        faults = list(self._tree.faults)
        _fill_empty_sections(self._tree.data)
        config, found = _build(self._tree, self._folder, faults, with_files=True)
        if config is None or found:
            raise _refusal(path, found)
        self._device = config.device or device_id(config.state_dir)
        self.config = config.model_copy(update={"device": self._device})

    def layered(self, patch: Patch) -> ConfigFile:
        """The file as if it said what a signed ``patch`` says. Raises as ``overlaid``."""
        over = copy.copy(self)
        over.config, over._tree = self._over(patch, SIGNED)
        return over

    def overlaid(self, patch: Patch) -> Config:
        """Raises ConfigError; its problems begin with the key path, as there is no line to name."""
        return self._over(patch, REMOTE)[0]

    def _over(self, patch: Patch, allowed: tuple[KeyPath, ...]) -> tuple[Config, Tree]:
        cameras = [camera.id for camera in self.config.cameras]
        faults = [Fault((1, 1), *found) for found in findings(patch, cameras, allowed)]
        config, tree = None, self._tree
        if not faults:
            tree = Tree(laid_over(self._tree.data, patch))
            config, faults = _build(tree, self._folder, [], with_files=False)
        if config is not None:
            faults += [Fault((1, 1), *found) for found in looser(self.config.privacy, config.privacy)]
        if config is None or faults:
            raise ConfigError([f"{dotted(fault.path)}: {fault.text}" for fault in faults[:MAX_PROBLEMS]])
        return config.model_copy(update={"device": self._device}), tree


def _build(tree: Tree, folder: Path, faults: list[Fault], *, with_files: bool) -> tuple[Config | None, list[Fault]]:
    """The configuration that ``tree`` holds, and everything that is wrong with it beside ``faults``.

    ``with_files``: look into the files of secrets and certificates too.
    """
    effective = json.loads(json.dumps(tree.data))
    faults = [*faults, *_sources(tree, effective, folder)]
    _absolute_paths(effective, folder)
    if with_files:
        faults += [*_secret_files(tree, effective), *_certificates(tree, effective)]
    faults += [
        Fault(tree.mark(place), place, text)
        for place, text in rule_findings(tree.data, bool(given_secret("EDGE_AGENT_HTTP_TOKEN")))
    ]
    try:
        # Strict, and through JSON: YAML's own types must fit exactly, while times and paths may be text.
        return Config.model_validate_json(json.dumps(effective), strict=True), faults
    except ValidationError as error:
        return None, faults + _types(error, tree, faults)


def device_id(state_dir: Path, machine_id: Path = _MACHINE_ID) -> str:
    """A short id such as ``ea-1a2b3c4d5e`` that stays the same for this machine.

    Derived from the machine id as machine-id(5) asks for: keyed, so that the machine id itself is not given away.
    Where there is none, a random one is kept in ``state_dir``. Raises ConfigError where that cannot be written.
    """
    try:
        machine = machine_id.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        machine = ""
    if re.fullmatch(r"[0-9a-f]{32}", machine):
        return "ea-" + hmac.new(bytes.fromhex(machine), _APPLICATION, hashlib.sha256).hexdigest()[:10]
    kept = state_dir / "device-id"
    try:
        if kept.is_file() and re.fullmatch(r"ea-[0-9a-f]{10}", text := kept.read_text(encoding="ascii").strip()):
            return text
        state_dir.mkdir(parents=True, exist_ok=True)
        text = f"ea-{secrets.token_hex(5)}"
        fresh = kept.with_suffix(f".{os.getpid()}")
        fresh.write_text(f"{text}\n", encoding="ascii")
        fresh.replace(kept)
    except (OSError, ValueError) as error:
        reason = f"{kept} cannot be used: {error.__class__.__name__}"
        raise ConfigError(
            [f"device: this machine has no {machine_id}, and {reason}; give the device a name"]
        ) from error
    return text


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; give one with -c"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError([f"{path}: larger than {MAX_BYTES} bytes; this is not a configuration"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}:1: not UTF-8 text"]) from None


def _not_sections(data: Any) -> Fault:
    if data is None:
        return Fault((1, 1), (), "the file is empty; at least `cameras:` is needed")
    return Fault((1, 1), (), "must be a mapping of sections such as `cameras:` and `mqtt:`")


def _refusal(path: Path, faults: list[Fault]) -> ConfigError:
    ordered = sorted(faults, key=lambda fault: fault.mark)
    lines = []
    for fault in ordered[:MAX_PROBLEMS]:
        key = f"{dotted(fault.path)}: " if fault.path else ""
        lines.append(f"{path}:{fault.mark[0]}:{fault.mark[1]}: {key}{fault.text}")
    if len(ordered) > MAX_PROBLEMS:
        lines.append(f"{path}: and {len(ordered) - MAX_PROBLEMS} more problems")
    return ConfigError(lines)


def locate(path: Path, error: ConfigError) -> ConfigError:
    """``error`` of a check that came after loading: a problem that begins with a key path gets its file, line and column.

    A camera may stand there by its id (``cameras.hall.ground``) as well as by its number (``cameras[0].ground``).
    """
    tree = read_tree(_read(path))
    places = {dotted(place): tree.mark(place) for place in [*tree.keys, *tree.values]}
    cameras = value_at(tree.data, ("cameras",))
    numbers = {f"cameras.{value_at(c, ('id',))}.": f"cameras[{i}]." for i, c in enumerate(cameras or [])}
    problems = []
    for problem in error.problems:
        name = next((name for name in numbers if problem.startswith(name)), None)
        text = problem if name is None else numbers[name] + problem[len(name) :]
        mark = places.get(text.partition(": ")[0])
        problems.append(text if mark is None else f"{path}:{mark[0]}:{mark[1]}: {text}")
    return ConfigError(problems)


def _fill_empty_sections(data: dict[str, Any]) -> None:
    """A section that is named and left empty means its defaults, not that it is off."""
    for name, field in Config.model_fields.items():
        if (
            name in data
            and data[name] is None
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, Strict)
        ):
            data[name] = {}
    for place in TLS_SECTIONS:
        section = value_at(data, place[:-1])
        if isinstance(section, dict) and place[-1] in section and section[place[-1]] is None:
            section[place[-1]] = {}
    use_cases = data.get("use_cases")
    if isinstance(use_cases, dict):
        for name in UseCasesConfig.model_fields:
            if name in use_cases and use_cases[name] is None:
                use_cases[name] = {}


def _sources(tree: Tree, effective: dict[str, Any], folder: Path) -> Iterator[Fault]:
    """Fill ``${ENV}`` into the sources of ``effective`` and make paths absolute."""
    cameras = effective.get("cameras")
    for index, camera in enumerate(cameras if isinstance(cameras, list) else []):
        source = camera.get("source") if isinstance(camera, dict) else None
        if isinstance(source, int) and not isinstance(source, bool) and source >= 0:
            camera["source"] = str(source)
        if not isinstance(source, str) or not source:
            continue
        place: KeyPath = ("cameras", index, "source")
        for name in _VARIABLE.findall(source):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                yield Fault(
                    tree.mark(place),
                    place,
                    "${…} must hold the name of an environment variable, like ${CAMERA_PASSWORD}",
                )
            elif name not in os.environ:
                yield Fault(tree.mark(place), place, f"the environment variable {name} is not set")
        filled = _VARIABLE.sub(lambda found: os.environ.get(found[1], ""), source)
        camera["source"] = _source_path(filled, folder) if filled else source


def _source_path(source: str, folder: Path) -> str:
    if "://" in source or source.isdecimal():
        return source
    path = Path(source).expanduser()
    return str(path if path.is_absolute() else (folder / path).resolve())


def _absolute_paths(effective: dict[str, Any], folder: Path) -> None:
    places: list[KeyPath] = [
        ("state_dir",),
        ("models_dir",),
        ("ota", "root_file"),
        *(place for place, _ in SECRET_FILES),
    ]
    places += [(*section, key) for section in TLS_SECTIONS for key in _TLS_FILES]
    sensors = effective.get("sensors")
    places += [("sensors", index, "file") for index in range(len(sensors) if isinstance(sensors, list) else 0)]
    for place in places:
        section = value_at(effective, place[:-1])
        value = value_at(effective, place)
        if isinstance(value, str) and value:
            section[place[-1]] = str((folder / Path(value).expanduser()).resolve())
    for name in ("state_dir", "models_dir"):
        default = (
            _INSTALLED.get((str(folder.resolve()), name)) or (folder / Config.model_fields[name].default).resolve()
        )
        effective.setdefault(name, str(default))
    _own_certificate(effective)


def _own_certificate(effective: dict[str, Any]) -> None:
    """Of this box, for brokers and InfluxDB, where ``enroll`` got one and the file names none."""
    for section in ("mqtt", "influxdb"):
        tls = value_at(effective, (section, "tls"))
        if isinstance(tls, dict) and tls.get("cert_file") is None and isinstance(effective["state_dir"], str):
            with contextlib.suppress(OSError):
                if (pair := Path(effective["state_dir"]) / IDENTITY).is_file():
                    tls["cert_file"] = str(pair)


def _secret_files(tree: Tree, effective: dict[str, Any]) -> Iterator[Fault]:
    for place, variable in SECRET_FILES:
        value = value_at(effective, place)
        if not isinstance(value, str) or not value or _is_off(effective, place[0]):
            continue
        file = Path(value)
        if not given_secret(variable):
            try:
                read_secret(file, variable)
            except ConfigError as error:
                yield Fault(tree.mark(place), place, error.problems[0])
                continue
        _warn_if_open(place, file)


def _is_off(effective: dict[str, Any], section: str) -> bool:
    given = value_at(effective, (section, "enabled"))
    return given is False or (given is None and not Config.model_fields[section].default.enabled)


def _warn_if_open(place: KeyPath, file: Path) -> None:
    if file.is_file() and file.stat().st_mode & stat.S_IROTH:
        logger.warning("%s: every user of this machine can read %s; chmod 600 it", dotted(place), file)


def _certificates(tree: Tree, effective: dict[str, Any]) -> Iterator[Fault]:
    """What no connection could be made with. A date is only warned about: the box must run on, and its clock may be wrong."""
    for section in TLS_SECTIONS:
        told = value_at(effective, section)
        if not isinstance(told, dict) or _is_off(effective, str(section[0])):
            continue
        try:
            config = TlsConfig.model_validate_json(json.dumps(told), strict=True)
        except ValidationError:
            continue  # its types are told by themselves
        for key, text in problems(config):
            yield Fault(tree.mark((*section, key)), (*section, key), text)
        for key, text in warnings(config, time.time()):
            logger.warning("%s: %s", dotted((*section, key)), text)
        key = "key_file" if config.key_file else "cert_file"
        if (file := config.key_file or config.cert_file) is not None:
            _warn_if_open((*section, key), file)


def _types(error: ValidationError, tree: Tree, known: list[Fault]) -> list[Fault]:
    """Pydantic's errors, without those that say again what ``known`` says."""
    # A section's own rule failed there: config_rules has told it, at the very key.
    rules = {item["loc"] for item in error.errors(include_url=False) if item["type"] == "value_error"}
    faults: dict[KeyPath, Fault] = {}
    for place, text, about_key in in_words(error, tree.data):
        told = any(fault.path == place or (place in rules and fault.path[: len(place)] == place) for fault in known)
        if not told:
            faults.setdefault(place, Fault(tree.key_mark(place) if about_key else tree.mark(place), place, text))
    return list(faults.values())
