"""Updates without the process around them: what happens by itself, and when disk, line or another process are in the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import Config
from edge_agent.errors import CommandError, NoRoom
from edge_agent.model_updates import ModelUpdates
from edge_agent.ota.offer import Facts
from edge_agent.ota.repository import operations
from edge_agent.ota.store import ModelStore
from edge_agent.serving_model import ServingModel
from tests.file_server import status
from tests.health_fixtures import agent_status
from tests.ota_fixtures import TEAM, Mirror, Operator, make_operator, mirror_of
from tests.ota_models import NAME, good, write_detector
from tests.update_fixtures import LABELS

pytestmark = pytest.mark.slow


@dataclass
class Hours:
    """In the place of ``Schedule``."""

    open: bool = True
    asks: int = 0

    def due(self) -> bool:
        self.asks -= 1
        return self.asks >= 0


@dataclass
class Box:
    """What the agent makes of the parts, without its threads: each ``turn`` is one of the worker's."""

    folder: Path
    operator: Operator
    mirror: Mirror
    updates: ModelUpdates
    serving: ServingModel
    hours: Hours = field(default_factory=Hours)
    told: list[tuple[str, str]] = field(default_factory=list)
    shadows: list[tuple[str, str]] = field(default_factory=list)
    restarts: int = 0

    def publish(self, version: str, **changes: Any) -> None:
        folder = write_detector(self.folder / "made", version, good(), **({"labels": LABELS} | changes))
        (folder / "NOTES").write_text(version)
        facts = Facts(name=NAME, version=version, backends=("onnxruntime",))
        operations.publish(self.operator.files(), TEAM, folder, facts, "stable")
        self.mirror.copy()

    def turn(self) -> tuple[str, str]:
        """The state of the last update, and the version at work."""
        self.updates._turn()
        model = self.updates.status(self.serving.status)
        return model.update.state if model.update is not None else "", model.version

    def tell(self, what: str, data: Mapping[str, Any]) -> None:
        if what == "model_shadow":
            self.shadows.append((data["state"], data["reason"]))
        else:
            assert what == "model"
            self.told.append((data["state"], data["active"]))


@contextmanager
def parts(folder: Path, operator: Operator, mirror: Mirror) -> Iterator[Box]:
    assert mirror.server is not None
    config = Config.model_validate(
        {
            "cameras": [{"id": "a", "source": "rtsp://none.example/"}],
            "state_dir": folder / "state",
            "model": f"{NAME}@0.9",
            "models_dir": folder / "seed",
            "ota": {
                "repository": mirror.server.url,
                "root_file": operator.root,
                "clock": "battery",
                "keep_free_mb": 0,
                "window": "02:00-03:00",
            },
        }
    )
    stop = threading.Event()
    updates = ModelUpdates(config, pinned=False)
    serving = ServingModel(config, updates.candidates(), stop=stop, failed=updates.load_failed)
    box = Box(folder, operator, mirror, updates, serving)
    updates._schedule = box.hours  # type: ignore[assignment]

    def restart() -> None:
        box.restarts += 1

    updates.start(serving, agent_status, box.tell, restart)
    try:
        yield box
    finally:
        updates.close(in_order=True)
        serving.forget()
        serving.detector.close()


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    write_detector(tmp_path / "seed", "0.9", good(), labels=LABELS)
    return make_operator(tmp_path / "operator", root_keys=1, threshold=1)


@pytest.fixture
def box(tmp_path: Path, operator: Operator) -> Iterator[Box]:
    with mirror_of(operator, tmp_path / "mirror") as mirror, parts(tmp_path, operator, mirror) as made:
        yield made


def test_what_it_found_by_itself_takes_over_in_its_window_only(box: Box) -> None:
    assert box.turn() == ("", "0.9")
    box.hours.asks = 1
    assert box.turn() == ("refused", "0.9")  # nothing is published yet
    box.hours.asks = 1
    assert box.turn() == ("refused", "0.9")
    assert [state for state, _ in box.told] == ["refused"], "what is found again and again is told once"
    box.publish("1.0")
    box.hours.asks, box.hours.open = 1, False
    assert box.turn() == ("warming", "0.9")
    assert box.turn() == ("warming", "0.9")
    box.hours.open = True
    assert box.turn() == ("probation", "1.0")
    assert box.told[-1] == ("probation", f"{NAME}@1.0")


def test_what_is_asked_for_is_done_whatever_the_hour(box: Box) -> None:
    box.publish("1.0")
    box.hours.open = False
    assert box.updates.update(None, activate=True, again=False)["state"] == "asking"
    with pytest.raises(CommandError, match="another update was asked for"):
        box.updates.update(None, activate=True, again=False)
    assert box.turn() == ("probation", "1.0")
    with pytest.raises(CommandError, match="is probation"):
        box.updates.update(None, activate=True, again=False)
    box.updates.rollback()
    assert box.turn() == ("rolled_back", "0.9")
    with pytest.raises(CommandError, match="none is before it"):
        box.updates.rollback()


def test_labels_that_a_use_case_waits_for_must_be_there_and_others_may_change(box: Box) -> None:
    box.publish("1.0", labels=("hen", "person", "cat"))
    box.updates.update(None, activate=True, again=False)
    assert box.turn() == ("probation", "1.0")
    assert box.serving.detector.labels == ("hen", "person", "cat")


def test_a_line_that_is_down_is_waited_for_and_an_agent_that_starts_again_goes_on(
    tmp_path: Path, operator: Operator
) -> None:
    with mirror_of(operator, tmp_path / "mirror") as mirror:
        with parts(tmp_path, operator, mirror) as box:
            box.publish("1.0")
            bundle = mirror.target(mirror.bundle("1.0"))
            mirror.answers[bundle] = status(503)
            box.updates.update(None, activate=True, again=False)
            state, version = box.turn()
            update = box.updates.status(box.serving.status).update
            assert (state, version) == ("downloading", "0.9")
            assert update is not None and update.reason in ("unreachable", "slow") and update.detail
            assert box.turn() == ("downloading", "0.9")  # not yet again
        del mirror.answers[bundle]
        with parts(tmp_path, operator, mirror) as box:
            assert box.turn() == ("probation", "1.0")


def test_a_full_disk_does_not_keep_a_bad_model_at_work(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.publish("1.0")
    box.updates.update(None, activate=True, again=False)
    assert box.turn() == ("probation", "1.0")

    def full(self: ModelStore, stored: object) -> None:
        raise NoRoom("no space left")

    monkeypatch.setattr(ModelStore, "write", full)
    monkeypatch.setattr(box.updates._watches, "look", lambda: ("errors", "it fails"))
    box.turn()
    assert box.serving.now.label == f"{NAME}@0.9"


def test_who_comes_while_another_process_updates_joins_in_later(tmp_path: Path, operator: Operator) -> None:
    store = ModelStore(tmp_path / "state" / "models")
    with mirror_of(operator, tmp_path / "mirror") as mirror:
        with store.lock(), parts(tmp_path, operator, mirror) as box:
            assert box.updates._activation is None and box.serving.now.label == f"{NAME}@0.9"
            assert not box.updates._join()
        with parts(tmp_path, operator, mirror) as box:
            assert box.turn() == ("", "0.9")
