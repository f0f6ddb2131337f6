"""A candidate in shadow: what is added up of it, and a real agent in which one is tried, ends early, and harms nothing."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent.config import Config, TrackConfig
from edge_agent.detect.serving import Meter
from edge_agent.errors import CommandError, InferenceError
from edge_agent.health.shadow import ShadowLabel, ShadowStatus
from edge_agent.model_tally import Tally
from edge_agent.safe_mode import SafeUpdates
from tests.agent_process import run_agent
from tests.ota_fixtures import make_operator, mirror_of
from tests.ota_models import BAD, good, write_detector
from tests.test_model_beside import FRAME, seen
from tests.test_model_updates_parts import Box as Parts
from tests.test_model_updates_parts import parts
from tests.update_fixtures import LABELS, WAIT_S, Box, updating_box

LONG = {"fraction": 1, "minutes": 100}


def test_what_was_seen_is_added_up_by_label() -> None:
    tally = Tally(TrackConfig(high_score=0.5, low_score=0.2), 0.5, Meter(calls=100, busy_s=9.0))
    first = seen((0, 0.9, "person"), (50, 0.8, "dog"))
    tally.told(FRAME, first, seen((1, 0.7, "person"), (50, 0.3, "dog")), 0.020)
    assert tally.failing == 0
    tally.told(FRAME, first, InferenceError("no"), 0.5)
    tally.told(FRAME, first, InferenceError("the device is lost"), 0.5)
    assert (tally.failing, tally.fault) == (2, "the device is lost")
    tally.told(FRAME, first, seen((30, 0.6, "person"), (70, 0.9, "person")), 0.040)
    assert tally.failing == 0
    status = tally.into(ShadowStatus("eyes@2", "running", 0.5, 1.0, 0.0), Meter(calls=120, busy_s=9.2))
    assert (status.frames, status.failed, status.missed) == (2, 2, 6), "of twenty frames ten were to be looked at"
    assert status.labels == {"person": ShadowLabel(2, 3, 0.4), "dog": ShadowLabel(2, 0, 0.5)}
    # Both persons of the first frame and one sure dog agree: 2 + 1 of 4 + 3 boxes.
    assert status.agreement == pytest.approx(3 / 7, abs=1e-3)
    assert status.score_difference == pytest.approx((-0.2 - 0.5) / 2, abs=1e-3)
    assert status.latency_ms == 30 and status.active_latency_ms == 10


def test_a_label_that_one_of_them_does_not_know_is_counted_and_not_held_against_it() -> None:
    tally = Tally(TrackConfig(high_score=0.5, low_score=0.2), 1.0, Meter())
    tally.told(FRAME, seen((0, 0.9, "person"), (50, 0.8, "dog")), seen((0, 0.9, "person"), labels=("person",)), 0.01)
    status = tally.into(ShadowStatus("eyes@2", "running", 1.0, 1.0, 0.0), Meter())
    assert status.labels["dog"] == ShadowLabel(1, 0, None) and status.agreement == 1


def test_in_safe_mode_there_is_none(tmp_path: Path) -> None:
    config = Config.model_validate({"cameras": [{"id": "a", "source": "rtsp://none.example/"}], "state_dir": tmp_path})
    with pytest.raises(CommandError, match="safe mode") as refused:
        SafeUpdates(config, lambda: None, lambda *_: None).shadow("eyes@1.0", **LONG)
    assert refused.value.code == "not_available"


@pytest.mark.slow
def test_it_gives_way_to_updates_and_takes_no_room_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_detector(tmp_path / "seed", "0.9", good(), labels=LABELS)
    operator = make_operator(tmp_path / "operator", root_keys=1, threshold=1)
    with mirror_of(operator, tmp_path / "mirror") as mirror, parts(tmp_path, operator, mirror) as box:
        give_way(box, monkeypatch)


def give_way(box: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    box.publish("1.0")
    updates, shadow = box.updates, box.updates._shadow
    with pytest.raises(CommandError, match="model at work itself"):
        updates.shadow("eyes@0.9", **LONG)
    with pytest.raises(CommandError, match="no model is in shadow"):
        updates.shadow(None, **LONG)
    monkeypatch.setattr("edge_agent.model_shadow.FREE_MB", 1 << 30)
    with pytest.raises(CommandError, match="MB of memory are free"):
        updates.shadow("eyes@1.0", **LONG)
    monkeypatch.undo()
    assert updates.shadow("eyes@1.0", **LONG)["shadow"]["state"] == "preparing"
    with pytest.raises(CommandError, match="is in shadow"):
        updates.shadow("eyes@1.0", **LONG)
    box.turn()
    assert shadow.status is not None and shadow.status.state == "running", shadow.status
    box.hours.asks = 1  # it looks for an update by itself: the one it finds takes over
    assert box.turn() == ("probation", "1.0")
    assert (shadow.status.state, shadow.status.reason) == ("ended", "update")
    with pytest.raises(CommandError, match="an update of the model is under way"):
        updates.shadow("eyes@0.9", **LONG)
    box.updates.rollback()
    assert box.turn() == ("rolled_back", "0.9")
    updates.shadow("eyes@7.0", **LONG)
    box.turn()
    assert (shadow.status.state, shadow.status.reason) == ("ended", "not_offered")
    assert box.shadows == [("ended", "update"), ("ended", "not_offered")]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("vtest_video")
def test_a_candidate_is_tried_on_live_frames_and_nothing_comes_of_it_but_a_report(root: Path, tmp_path: Path) -> None:
    with updating_box(root, tmp_path) as box:
        bundle = box.publish("1.0")
        box.publish("2.0", BAD["it detects nothing"](), golden=False)
        with box.agent() as agent:
            agent.wait_for_log("delivering")
            shadow(box, "s1", "eyes@1.0", minutes=0.1)
            found = wait_for(box, "completed", "eyes@1.0")
            assert found["bundle"] == bundle.sha256 and found["beside"] == "eyes@0.9" and found["progress"] == 1
            assert found["frames"] >= 3 and found["failed"] == 0 and found["agreement"] == 1
            assert found["score_difference"] == 0 and found["latency_ms"] > 0 and found["active_latency_ms"] > 0
            assert {of["agreement"] for of in found["labels"].values()} == {1}
            assert box.model["active"]["version"] == "0.9" and box.model["update"] is None
            box.wait_for(lambda: len(reports(box)) == 1, what="the report as an event")
            assert reports(box)[0] == found

            # By hand, one that sees nothing: it runs, and the report says what is wrong with it.
            said = run_agent(
                "model", "shadow", "eyes@2.0", "--fraction", "1", "-c", box.config, "--json", timeout_s=WAIT_S
            )
            assert json.loads(said.stdout)["shadow"]["state"] == "running", said.stderr
            url = box.asker.ask("status")["result"]["http"]
            box.wait_for(lambda: rest(url)["frames"] >= 3, what="frames that both have seen")
            said = run_agent("model", "shadow", "--stop", "-c", box.config)
            assert said.returncode == 0 and "ended (operator: ended by command)" in said.stdout, said.stderr
            found = wait_for(box, "ended", "eyes@2.0")
            assert found["reason"] == "operator" and found["agreement"] == 0
            assert all(of["active"] and not of["shadow"] for of in found["labels"].values())
            assert run_agent("model", "shadow", "eyes@3", "-c", box.config, timeout_s=WAIT_S).returncode == 1

            # Killed: the next start says so, and does not begin it anew.
            shadow(box, "s2", "eyes@1.0", **LONG)
            wait_for(box, "running", "eyes@1.0")
            agent.end(signal.SIGKILL)
        with box.agent() as agent:
            assert wait_for(box, "ended", "eyes@1.0")["reason"] == "interrupted"
            box.wait_for(lambda: reports(box)[-1]["reason"] == "interrupted", what="the event")
            assert agent.end() == 0
        assert not list((box.folder / "state" / "shadow" / "bundles").glob("*")), "what was fetched for it is gone"


def shadow(box: Box, ident: str, model: str, **args: Any) -> None:
    answer = box.asker.ask("model.shadow", {"id": ident, "args": {"model": model, "fraction": 1, **args}})
    assert answer["ok"] and answer["result"]["model"]["shadow"]["state"] == "preparing", answer


def wait_for(box: Box, state: str, model: str) -> dict[str, Any]:
    def there() -> bool:
        told = box.model["shadow"]
        return told is not None and (told["state"], told["model"]) == (state, model)

    box.wait_for(there, what=f"{model} in shadow to be {state}")
    found: dict[str, Any] = box.model["shadow"]
    return found


def reports(box: Box) -> list[dict[str, Any]]:
    return [json.loads(m.payload)["data"] for m in box.asker.sub.under("/events/_device/model_shadow")]


def rest(url: str) -> Any:
    return httpx.get(f"{url}/api/v1/models", timeout=60).json()["shadow"]
