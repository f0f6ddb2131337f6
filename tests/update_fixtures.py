"""A running agent that updates its model: the operator's repository on a real web server, and what a subscriber sees."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edge_agent.ota.offer import Bundle, Facts
from edge_agent.ota.repository import operations
from tests.agent_process import RunningAgent
from tests.command_fixtures import Asker, config_for
from tests.file_server import Server, serve
from tests.mosquitto import Mosquitto, broker, subscriber, wait_for
from tests.ota_fixtures import TEAM, Operator, make_operator
from tests.ota_models import NAME, good, write_detector
from tests.tflite_fixtures import squares_manifest

LABELS = ("person", "dog", "hen")
WAIT_S = 150.0
"""For an update, with a self-test in a process of its own, on a machine that others use too."""


@dataclass
class Box:
    """One agent after the other on one state folder, with a broker, a web server and an operator."""

    folder: Path
    config: Path
    asker: Asker
    operator: Operator
    web: Server

    @contextmanager
    def agent(self, *, tells: bool = True, **options: Any) -> Iterator[RunningAgent]:
        """Run it until the block ends, from when it tells its model, if it ``tells``; ``options`` as RunningAgent has them."""
        seen = len(self.models)
        with RunningAgent(self.folder, "-c", self.config, "--realtime", **options) as agent:
            if tells:
                self.wait_for(lambda: len(self.models) > seen, 60, "the agent's model")
            yield agent

    def publish(self, version: str, content: bytes | None = None, **changes: Any) -> Bundle:
        """A version of the detector ``eyes``, by default a good one, in channel ``stable``."""
        content = good() if content is None else content
        folder = write_detector(self.folder / "made", version, content, **({"labels": LABELS} | changes))
        (folder / "NOTES").write_text(version)
        return self._publish(folder, NAME, version, "onnxruntime")

    def publish_for_delegate(self, version: str) -> Bundle:
        """A version of ``squares``, which the delegate of the configuration runs."""
        folder = self.folder / "made" / "squares" / version
        folder.mkdir(parents=True)
        manifest = squares_manifest(folder, "float", version=version) | {"labels": ["person"]}
        (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
        return self._publish(folder, "squares", version, "tflite")

    def _publish(self, folder: Path, name: str, version: str, backend: str) -> Bundle:
        facts = Facts(name=name, version=version, backends=(backend,))
        return operations.publish(self.operator.files(), TEAM, folder, facts, "stable")

    # ---- what a subscriber sees

    @property
    def models(self) -> list[dict[str, Any]]:
        """The topic ``model``, all that was ever there."""
        return [json.loads(m.payload) for m in self.asker.sub.under("/lab/box1/model")]

    @property
    def model(self) -> dict[str, Any]:
        """As it is now."""
        return self.models[-1] if self.models else {"state": "", "update": None, "active": None}

    def facts(self, *states: str) -> list[dict[str, Any]]:
        """Events about the box's model."""
        found = [json.loads(m.payload)["data"] for m in self.asker.sub.under("/events/_device/model")]
        return [data for data in found if not states or data["state"] in states]

    def update(self, ident: str, model: str | None = None, **args: Any) -> dict[str, Any]:
        """By command; its result."""
        answer = self.asker.ask("model.update", {"id": ident, "args": {"model": model, **args}})
        assert answer["ok"], answer
        result: dict[str, Any] = answer["result"]["model"]
        return result

    def wait_until(self, state: str, label: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The topic ``model``, once the update to ``label`` is in ``state``."""

        def there() -> bool:
            update = self.model["update"]
            return self.model["state"] == state and update is not None and update["model"] == label

        self.wait_for(there, timeout_s, f"{label} to be {state}")
        return self.model

    def wait_for(self, condition: Callable[[], object], timeout_s: float = WAIT_S, what: str = "condition") -> None:
        """As ``mosquitto.wait_for``; a failure shows what the agent wrote."""
        try:
            wait_for(condition, timeout_s, what)
        except AssertionError as error:
            log = (self.folder / "agent.log").read_text(errors="replace")
            raise AssertionError(f"{error}\n{self.model}\n{log[-3000:]}") from error


QUICK = {"frames": 4, "minutes": 0.02, "deadline_minutes": 10}


@contextmanager
def updating_box(root: Path, folder: Path, *, probation: dict[str, Any] | None = None, **change: Any) -> Iterator[Box]:
    """A box that is configured with version 0.9 of ``eyes``; ``change`` replaces sections of its configuration."""
    operator = make_operator(folder / "operator", root_keys=1, threshold=1)
    write_detector(folder / "seed", "0.9", good(), labels=LABELS)
    with (
        broker(folder / "broker") as server,
        subscriber(server.port) as sub,
        serve({}, folder=operator.public) as web,
    ):
        config = _config(root, folder, server, web, operator, probation or QUICK, **change)
        yield Box(folder, config, Asker(sub), operator, web)


def _config(
    root: Path,
    folder: Path,
    server: Mosquitto,
    web: Server,
    operator: Operator,
    probation: dict[str, Any],
    **change: Any,
) -> Path:
    ota = {
        "repository": web.url,
        "root_file": str(operator.root),
        "clock": "battery",
        "keep_free_mb": 0,
        "probation": probation,
        **change.pop("ota", {}),
    }
    allow = {"allow": ["ping", "status", "model.update", "model.rollback", "model.shadow"]}
    # Two frames a second make it last for more than six minutes.
    video = {"id": "pets", "source": str(root / ".cache" / "vtest.avi"), "fps": 2}
    sections = {
        "cameras": [video],
        "model": f"{NAME}@0.9",
        "models_dir": str(folder / "seed"),
        "ota": ota,
        "commands": allow,
        **change,
    }
    return config_for(root, folder, server, **sections)
