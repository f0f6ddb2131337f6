"""The box that is looked at: its file tree, its configuration, the agent that may be running on it, the agent's user."""

from __future__ import annotations

import functools
import json
import os
import pwd
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_agent import config_trial
from edge_agent.config import Config, HttpConfig
from edge_agent.doctor import unit
from edge_agent.errors import ConfigError
from edge_agent.state_dir import is_held

_MAX_FILE = 32 << 20
_MAX_STATUS = 4 << 20
_STATUS_S = 3.0


@dataclass(frozen=True, slots=True)
class User:
    """Whom the agent runs as; ``uid`` is None for one that systemd makes at the start."""

    name: str
    uid: int | None
    gids: frozenset[int]


@dataclass(frozen=True, slots=True)
class RunningAgent:
    """An agent at work in the configured state folder; ``status`` is what its REST API said, None where it did not answer."""

    status: dict[str, Any] | None
    why: str = ""
    """Why there is no ``status``."""

    def part(self, *path: str) -> Any:
        """A value of the status; None where there is none."""
        value: Any = self.status
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value


@dataclass(frozen=True, slots=True)
class Box:
    """Everything a check may ask of. ``root`` stands in front of every path of the operating system."""

    root: Path = Path("/")
    config: Config | None = None
    config_path: Path | None = None
    """None: no file was named, and there is none in the usual places."""
    problems: tuple[str, ...] = ()
    """Of the configuration."""
    agent: RunningAgent | None = None
    user: User = field(default_factory=lambda: current_user())  # noqa: PLW0108 - defined below

    @property
    def real(self) -> bool:
        """Whether this is the machine we run on, so that its programs may be asked."""
        return self.root == Path("/")

    def read(self, path: str) -> str:
        """A small file of the operating system, stripped; "" where there is none or it cannot be read."""
        try:
            with (self.root / path).open("rb") as file:
                return file.read(_MAX_FILE).decode("utf-8", "replace").replace("\0", "\n").strip()
        except OSError:
            return ""

    def glob(self, pattern: str) -> list[Path]:
        """Paths below ``root``, sorted."""
        try:
            return sorted(self.root.glob(pattern))
        except OSError:
            return []

    def may_use(self, node: Path, wanted: int = 6) -> bool:
        """Whether the agent's user may read and write a node, or the ``wanted`` bits of its mode (no access lists)."""
        if self.user.uid == 0:
            return True
        try:
            stat = node.stat()
        except OSError:
            return False
        shift = 6 if stat.st_uid == self.user.uid else 3 if stat.st_gid in self.user.gids else 0
        return (stat.st_mode >> shift) & wanted == wanted

    def group_of(self, node: Path) -> str:
        """Name of the group that owns a device node."""
        try:
            gid = node.stat().st_gid
        except OSError:
            return "?"
        return next((name for name, number in unit.groups(self.read("etc/group")).items() if number == gid), str(gid))

    def packages(self) -> dict[str, str]:
        """Debian packages installed: name → version."""
        return _dpkg(self.root)


def look(config_path: Path | None, root: Path = Path("/")) -> Box:
    """Read the configuration, look for a running agent and its user. Takes a few seconds at most and raises nothing."""
    config, problems = None, []
    if config_path is not None:
        try:
            config, _ = config_trial.effective(config_path)
        except ConfigError as error:
            problems = error.problems
    agent = None if config is None else find_agent(config)
    service = unit.find(root)
    user = current_user() if service is None else service_user(service, root)
    return Box(root, config, config_path, tuple(problems), agent, user)


def current_user() -> User:
    """Whoever runs this."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    return User(name, os.geteuid(), frozenset([os.getegid(), *os.getgroups()]))


def service_user(service: unit.Unit, root: Path) -> User:
    """The user in the unit file, with the groups it will have."""
    groups = unit.groups(_text(root / "etc/group"))
    extra = {groups[name] for name in service.get("SupplementaryGroups").split() if name in groups}
    name = service.get("User") or ("edge-agent" if service.dynamic_user else "root")
    if name == "root":
        return User(name, 0, frozenset(extra))
    uid, gid = unit.account(_text(root / "etc/passwd"), name)
    own = {gid} if gid is not None else set()
    return User(name, uid, frozenset(extra | own | unit.memberships(_text(root / "etc/group"), name)))


def find_agent(config: Config) -> RunningAgent | None:
    """The agent that holds the state folder; where that cannot be told, whoever answers as this device at the REST address."""
    held = is_held(config.state_dir)
    if held is False:
        return None
    status, why = _status(config.http)
    if held is None and (status is None or status.get("device") != config.device):
        return None
    return RunningAgent(status, why)


def _status(http: HttpConfig) -> tuple[dict[str, Any] | None, str]:
    from edge_agent.health.rest import read_token

    if not http.enabled or http.port == 0:
        return None, "its REST API is off or on a port that is not known"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.host, http.host)  # noqa: S104 - compared, not bound
    host = f"[{host}]" if ":" in host else host
    request = urllib.request.Request(f"http://{host}:{http.port}/api/v1/status")
    try:
        if token := read_token(http):
            request.add_header("Authorization", f"Bearer {token}")
        # No proxy may come between: it is this box.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_STATUS_S) as answer:
            value = json.loads(answer.read(_MAX_STATUS))
    except ConfigError as error:
        return None, f"its REST token cannot be read: {error}"
    except urllib.error.HTTPError as error:
        error.close()
        return None, f"its REST API answers {error.code}"
    except (OSError, ValueError) as error:
        return None, f"its REST API does not answer: {getattr(error, 'reason', error)}"
    return (value, "") if isinstance(value, dict) and "cameras" in value else (None, "no edge-agent answers there")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def installed(package: str) -> str:
    """Version of a Python package in this environment, "" where there is none; nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@functools.lru_cache(maxsize=4)
def _dpkg(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    name, installed = "", False
    for line in _text(root / "var/lib/dpkg/status").splitlines():
        if line.startswith("Package: "):
            name, installed = line[9:].strip(), False
        elif line.startswith("Status: "):
            installed = line.endswith(" installed")
        elif line.startswith("Version: ") and installed:
            found[name] = line[9:].strip()
    return found
