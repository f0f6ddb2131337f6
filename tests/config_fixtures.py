"""A box whose configuration is signed in part: its file, and one life of the agent after the other, as far as that goes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edge_agent import config_trial
from edge_agent.config import Config
from edge_agent.config_bundle import write_layer
from edge_agent.config_layer import store_of
from edge_agent.config_trial import Gate
from edge_agent.config_updates import ConfigUpdates
from edge_agent.health.status import AgentStatus
from edge_agent.ota.job import Stored
from edge_agent.ota.offer import CONFIG, Bundle, Facts
from edge_agent.ota.repository import operations
from tests.health_fixtures import agent_status
from tests.ota_fixtures import Operator

NAME = "tills"
TRIAL_S = 60.0


def publish(operator: Operator, version: str, config: Mapping[str, Any], **facts: Any) -> Bundle:
    """A signed part of the configuration, in channel ``stable``; the first time its team is made."""
    if CONFIG not in operator.files().teams():
        operations.add_key(operator.files(), CONFIG, operations.NewKey("team-config"), None)
    folder = operator.folder / "layers" / version
    folder.mkdir(parents=True)
    source = operator.folder / f"{version}.yaml"
    source.write_text(yaml.safe_dump(dict(config)))
    write_layer(folder, NAME, version, source)
    described = Facts.model_validate({"name": NAME, "version": version, "kind": CONFIG, **facts})
    return operations.publish(operator.files(), CONFIG, folder, described, "stable")


def ota_section(url: str, root: Path) -> dict[str, Any]:
    """For the file of a box that asks there."""
    return {"repository": url, "root_file": str(root), "clock": "battery", "keep_free_mb": 0, "config": NAME}


@dataclass
class Life:
    """One process of the agent, without cameras; fulfils ``config_updates.Agent``."""

    config: Config
    again: bool = False
    seen: AgentStatus = field(default_factory=agent_status)
    told: list[dict[str, Any]] = field(default_factory=list)

    def effective(self, config: Config) -> Config:
        return config

    def reconfigure(self, config: Config) -> None:
        self.config = config

    def status(self) -> AgentStatus:
        return self.seen

    def restart(self) -> None:
        self.again = True

    def tell(self, what: str, data: Mapping[str, Any]) -> None:
        assert what == "config"
        self.told.append(dict(data))


@dataclass
class ConfigBox:
    """``bad``: the score threshold with which the agent never gets ready."""

    path: Path
    bad: float = 0.9
    told: list[dict[str, Any]] = field(default_factory=list)

    @property
    def stored(self) -> Stored:
        return store_of(self.path.parent / "state").read()

    def live(self, ask: str | None = None, *, again: bool = False, back: bool = False) -> ConfigUpdates:
        """From a start to an end in order or to a restart; what is on trial is judged, as if time flew."""
        life = Life(config_trial.begin(self.path))
        if life.config.detect.score_threshold == self.bad:
            life.seen = agent_status(cameras=())
        life.told = self.told
        updates = ConfigUpdates(life, self.path)
        updates._gate = Gate(TRIAL_S, clock=itertools.count(1000.0, 10.0).__next__)
        updates._turn()
        if ask is not None:
            updates.update(ask, again=again)
        if back:
            updates.rollback()
        for _ in range(20):
            if life.again:
                break
            updates._turn()
        updates.close(in_order=True)
        return updates

    def settle(self, ask: str | None = None, *, again: bool = False, back: bool = False) -> ConfigUpdates:
        """One life after the other, until one ends without starting again."""
        updates = self.live(ask, again=again, back=back)
        while updates._agent.again:
            updates = self.live()
        return updates

    @property
    def threshold(self) -> float:
        """What is in force, of the key that the tests change."""
        return config_trial.effective(self.path)[0].detect.score_threshold


def make_box(folder: Path, models: Path, url: str, root: Path) -> ConfigBox:
    """With a file that says 0.5."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "device": "box",
        "state_dir": "state",
        "models_dir": str(models),
        "cameras": [{"id": "gate", "source": "rtsp://192.0.2.1/a"}],
        "detect": {"score_threshold": 0.5},
        "ota": ota_section(url, root),
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return ConfigBox(path)
