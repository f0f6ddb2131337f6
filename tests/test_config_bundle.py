"""A signed part of the configuration: what may be in it, how it lies over the file, and its way from step to step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_agent import config_layer, config_trial, config_updates
from edge_agent.config_bundle import read_layer, write_layer
from edge_agent.config_file import ConfigFile
from edge_agent.config_layer import MAX_STARTS
from edge_agent.config_trial import Overlay
from edge_agent.errors import CommandError, ConfigError, Tampered, UsageError
from edge_agent.ota import store
from edge_agent.ota.bundle import digest
from edge_agent.ota.offer import Bundle
from tests.config_fixtures import NAME, ConfigBox, make_box, publish
from tests.durable_steps import PowerCut, Steps
from tests.ota_fixtures import Operator, make_operator


def written(folder: Path, text: str) -> Bundle:
    source = folder / "layer.yaml"
    source.write_text(text)
    place = folder / "layer"
    place.mkdir(exist_ok=True)
    write_layer(place, NAME, "1", source)
    return Bundle(name=NAME, version="1", sha256=digest(place))


def test_a_layer_comes_out_as_it_went_in(tmp_path: Path) -> None:
    bundle = written(tmp_path, "logging: {level: debug}\ncameras: {hall: {max_fps: 5}}\ndetect: {workers: null}\n")
    patch = {"logging": {"level": "debug"}, "cameras": {"hall": {"max_fps": 5}}, "detect": {"workers": None}}
    assert read_layer(tmp_path / "layer", bundle) == patch
    with pytest.raises(Tampered, match="in the place of tills@2"):
        read_layer(tmp_path / "layer", bundle.model_copy(update={"version": "2"}))
    (tmp_path / "layer" / "config.json").write_text('{"format": 2}')
    with pytest.raises(Tampered, match=r"holds no config\.json"):
        read_layer(tmp_path / "layer", bundle)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cameras: {hall: {source: 'rtsp://me:secret@cam/1'}}", "1:26: cameras.hall.source: holds a password"),
        ("influxdb: {token: x}", "influxdb.token: a secret does not belong"),
        ("webhook: {url: 'https://me:secret@hook/1'}", "webhook.url: holds a password"),
        ("mqtt: {host: elsewhere}", "mqtt.host: cannot be changed from afar"),
        ("commands: {allow: [restart]}", "commands.allow[0]: cannot be changed from afar"),
        ("ota: {channel: canary}", "ota.channel: cannot be changed from afar"),
        ("influxdb: {tls: {ca_file: /etc/passwd}}", "influxdb.tls.ca_file: cannot be changed from afar"),
        ("detect: {wrokers: 2}", "unknown key; did you mean workers?"),
        ("detect: {workers: '2'}", "detect.workers: given '2'; must be a whole number"),
        ("cameras: {hall: {max_fps: fast}}", "max_fps: given 'fast'"),
        ("- a list", "must be a mapping of sections"),
        ("a: [", "layer.yaml:"),
        ("a: &x 1\nb: *x", "layer.yaml:"),
    ],
)
def test_what_a_layer_must_not_hold_is_told_before_it_is_signed(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        written(tmp_path, text)
    assert says in str(refused.value) and "secret@" not in str(refused.value)
    assert not (tmp_path / "layer" / "config.json").exists()


# ---- on a box


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return make_operator(tmp_path / "operator", root_keys=1, threshold=1)


@pytest.fixture
def box(tmp_path: Path, root: Path, operator: Operator) -> ConfigBox:
    return make_box(tmp_path / "box", root / "models", operator.public.as_uri(), operator.root)


def test_the_whole_way_and_back(box: ConfigBox, operator: Operator) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3}, "outbox": {"max_mb": 64}})
    updates = box.settle(NAME)
    assert box.threshold == 0.3 and config_trial.effective(box.path)[0].outbox.max_mb == 64
    state = updates.state()
    assert state["state"] == "confirmed" and state["active"] is not None and state["previous"] is None
    assert updates.status().bundle == "tills@1"
    assert [fact["state"] for fact in box.told] == ["probation", "confirmed"]
    assert box.told[0]["bundle"] == "tills@1" and box.told[0]["config_hash"] == state["config_hash"]
    publish(operator, "2", {"detect": {"score_threshold": 0.2}})
    box.settle(NAME)
    assert box.threshold == 0.2 and box.stored.previous is not None and box.stored.previous.version == "1"
    assert config_trial.effective(box.path)[0].outbox.max_mb != 64, (
        "a bundle is whole: nothing of the one before is left"
    )
    assert box.live(NAME).state()["update"] == {
        "model": "tills@2", "bundle": box.stored.active and box.stored.active.sha256, "progress": None, "reason": "active",
        "detail": "it is in force already", "agreement": None, "compared": 0,
    }  # fmt: skip
    updates = box.settle(back=True)
    assert box.threshold == 0.3 and updates.state()["update"] == {
        **(updates.state()["update"] or {}), "model": "tills@2", "reason": "operator"
    }  # fmt: skip
    assert box.settle(NAME).state()["update"]["reason"] == "rejected"  # type: ignore[index]
    box.settle(NAME, again=True)
    assert box.threshold == 0.2
    box.settle(back=True), box.settle(back=True)
    assert box.threshold == 0.5 and box.stored.active is None
    with pytest.raises(CommandError, match="no signed configuration is in force"):
        box.settle(back=True)


def test_what_is_changed_by_command_lies_above_and_each_layer_makes_privacy_stricter_only(
    box: ConfigBox, operator: Operator
) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3, "workers": 1}, "privacy": {"retention_days": 10}})
    box.settle(NAME)
    state_dir = box.path.parent / "state"
    config_trial.write(state_dir, Overlay(patch={"detect": {"score_threshold": 0.4}}, state="confirmed"))
    config = config_trial.effective(box.path)[0]
    assert (config.detect.score_threshold, config.detect.workers, config.privacy.retention_days) == (0.4, 1, 10)
    with pytest.raises(ConfigError, match=r"privacy\.retention_days: can only be made stricter"):
        config_layer.laid(ConfigFile(box.path))[0].overlaid({"privacy": {"retention_days": 20}})
    publish(operator, "2", {"privacy": {"images": True}})
    updates = box.settle(NAME).state()["update"]
    assert updates is not None and "privacy.images: can only be made stricter" in updates["detail"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"cameras": {"yard": {"max_fps": 5}}}, "cameras.yard: no such camera; there are: gate"),
        ({"use_cases": {"social_distancing": {"zone": "door"}}}, "door"),
        ({"model": "absent"}, "absent"),
    ],
)
def test_what_this_box_would_not_take_never_replaces_anything(
    box: ConfigBox, operator: Operator, config: dict[str, Any], says: str
) -> None:
    publish(operator, "1", config)
    update = box.settle(NAME).state()["update"]
    assert update is not None and update["reason"] == "self_test" and says in update["detail"]
    assert box.stored.active is None and box.threshold == 0.5
    assert [(fact["state"], fact["code"]) for fact in box.told] == [("rolled_back", "self_test")]


@pytest.mark.parametrize(
    ("facts", "code"),
    [({"hardware": ("jetson",)}, "wrong_hardware"), ({"min_agent": "99"}, "too_new"), ({"kind": "model"}, "refused")],
)
def test_what_is_not_for_this_box_is_refused(
    box: ConfigBox, operator: Operator, facts: dict[str, Any], code: str
) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3}}, **facts)
    state = box.settle(NAME).state()
    assert state["state"] == "refused" and state["update"] is not None and state["update"]["reason"] == code
    assert box.stored.job is None and box.told[0]["code"] == code


def test_one_that_is_valid_but_never_gets_ready_is_taken_back(box: ConfigBox, operator: Operator) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3}})
    box.settle(NAME)
    publish(operator, "2", {"detect": {"score_threshold": box.bad}})
    state = box.settle(NAME).state()
    assert state["state"] == "rolled_back" and box.threshold == 0.3
    assert state["update"] is not None and state["update"]["reason"] == "unhealthy"
    assert "readiness is failing" in state["update"]["detail"]
    last = box.told[-1]
    assert (last["state"], last["bundle"], last["config_hash"]) == ("rolled_back", "tills@2", state["config_hash"])


def crash(box: ConfigBox) -> float:
    """A start that does not come to its end; the threshold it had."""
    return config_trial.begin(box.path).detect.score_threshold


def test_a_crash_loop_ends_with_what_was_before_and_is_told(box: ConfigBox, operator: Operator) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3}})
    box.live(NAME)
    assert [crash(box) for _ in range(MAX_STARTS + 2)] == [0.3] * MAX_STARTS + [0.5, 0.5]
    box.settle()
    (told,) = box.told
    assert (told["state"], told["code"]) == ("rolled_back", "crash_loop") and "ended 2 times" in told["reason"]


def test_one_that_lets_the_agent_not_start_or_work_is_taken_back_at_once(box: ConfigBox, operator: Operator) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3}})
    box.live(NAME)
    assert crash(box) == 0.3
    assert config_trial.give_up(box.path.parent / "state", "no such device") and box.threshold == 0.5
    assert box.stored.job is not None and box.stored.job.detail == "no such device"
    assert not config_trial.give_up(box.path.parent / "state", "once more")


def test_an_end_in_order_counts_as_no_start(box: ConfigBox, operator: Operator) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3}})
    updates = box.live(NAME)
    for _ in range(2 * MAX_STARTS):
        crash(box)
        updates = config_updates.ConfigUpdates(updates._agent, box.path)
        updates._at_work()
        updates.close(in_order=True)
    job = box.stored.job
    assert job is not None and (job.state, job.attempts) == ("probation", 0)


def test_a_file_that_was_changed_since_sets_it_aside_and_says_so(box: ConfigBox, operator: Operator) -> None:
    publish(operator, "1", {"cameras": {"gate": {"max_fps": 5}}})
    box.settle(NAME)
    text = box.path.read_text()
    box.path.write_text(text.replace("gate", "door"))
    updates = box.live()
    assert "cameras.gate: no such camera" in updates.state()["error"] and "tills@1" in updates.status().error
    assert config_trial.effective(box.path)[0].cameras[0].max_fps is None
    box.path.write_text(text)  # and back: nothing was forgotten
    assert config_trial.effective(box.path)[0].cameras[0].max_fps == 5 and box.live().state()["error"] == ""


def test_a_command_and_a_signed_change_are_not_on_trial_together(box: ConfigBox, operator: Operator) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3}})
    overlay = Overlay(patch={"detect": {"workers": 1}}, state="trial")
    (box.path.parent / "state").mkdir()
    config_trial.write(box.path.parent / "state", overlay)
    box.live(NAME)
    assert box.stored.job is not None and box.stored.job.state == "warming"
    config_trial.write(box.path.parent / "state", overlay.changed(state="confirmed"))
    box.settle()
    state = box.live().state()
    assert state["state"] == "confirmed" and box.threshold == 0.3


def test_it_finds_one_by_itself_where_it_is_told_to(box: ConfigBox, operator: Operator) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3}})
    box.path.write_text(box.path.read_text().replace("config: tills", "config: tills\n  poll_hours: 1"))
    updates = box.live()
    assert updates.state()["update"] is None
    updates = config_updates.ConfigUpdates(updates._agent, box.path)
    updates._schedule._next = 0.0  # an hour later
    updates._turn()
    job = box.stored.job
    assert job is not None and job.state == "probation" and job.in_window


# ---- the power is cut at every durable step


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> Steps:
    monkeypatch.setattr(config_updates, "check", lambda _: [])  # what it says is tried above
    steps = Steps(monkeypatch)
    for module in (store, config_updates):
        steps.count(module, "write_file")
    steps.count(store.ModelStore, "add", argument=1)
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("good", [True, False])
def test_a_power_cut_at_any_step_leaves_a_configuration_that_works_and_the_update_comes_to_its_end(
    box: ConfigBox, operator: Operator, cut_after: Steps, good: bool
) -> None:
    publish(operator, "0", {"detect": {"score_threshold": 0.3}})
    publish(operator, "1", {"detect": {"score_threshold": 0.2 if good else box.bad}})
    box.settle(f"{NAME}@0")
    begun = box.path.parent / "begun"
    (box.path.parent / "state").rename(begun)
    steps = len(_once(box, begun, cut_after, None))
    assert steps > 8
    for step in range(steps):
        _once(box, begun, cut_after, step)
        stored = box.stored
        threshold = box.threshold
        assert threshold in {0.3, 0.2 if good else box.bad}, step
        on_new = stored.active is not None and stored.active.version == "1"
        assert (threshold != 0.3) == on_new and stored.job is not None, step
        updates = box.settle()  # the box boots, and boots again
        if stored.job.bundle.version == "0":
            updates = box.settle(NAME)
        assert box.threshold == (0.2 if good else 0.3), step
        state = updates.state()
        assert (state["state"], state["update"] and state["update"]["model"]) == (
            "confirmed" if good else "rolled_back",
            "tills@1",
        ), step
        assert box.stored.job is not None and box.stored.job.told == box.stored.job.state


def _once(box: ConfigBox, begun: Path, cut_after: Steps, step: int | None) -> list[str]:
    """The update from version 0, the power cut at ``step``; what was made durable."""
    state = box.path.parent / "state"
    shutil.rmtree(state, ignore_errors=True)
    shutil.copytree(begun, state)
    done = cut_after(step)
    try:
        box.settle(f"{NAME}@1")
    except PowerCut:
        pass
    else:
        assert step is None
    made = list(done)
    cut_after(None)
    return made


def test_the_state_file_is_small_and_says_what_holds(box: ConfigBox, operator: Operator) -> None:
    publish(operator, "1", {"detect": {"score_threshold": 0.3}})
    box.settle(NAME)
    told = json.loads((box.path.parent / "state" / "config" / "state.json").read_text())
    assert told["active"]["version"] == "1" and told["job"]["state"] == "confirmed"
