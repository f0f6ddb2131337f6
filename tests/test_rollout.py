"""What a rollout decides, without machines: when a box is as it should be, when a wave halts it; and what a bundle is for."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parent.parent
PLUGINS = ROOT / "deploy" / "ansible" / "plugins"
COLLECTION = "ansible_collections.edge_agent.fleet"


def _load(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


fleet = _load(PLUGINS / "module_utils" / "fleet.py", "fleet_under_test")
tables = _load(PLUGINS / "filter" / "fleet.py", "fleet_filter_under_test")
make_bundle = _load(ROOT / "scripts" / "make_bundle.py", "make_bundle_under_test")

CAMERA = {"id": "cam", "state": "delivering", "fps": 10.0}
BEAT = {"version": "0.2.0", "boot_id": "b", "cameras": [CAMERA], "model": {"name": "person-n", "version": "1.1.0"}}


def heard(at: float = 10.0, state: str = "online", **change: Any) -> Any:
    return fleet.Heard(status={"state": state}, heartbeat={**BEAT, **change}, heartbeat_at=at)


@pytest.mark.parametrize(
    ("box", "kind", "target", "says"),
    [
        (heard(), "agent", "0.2.0", ""),
        (heard(), "model", "person-n@1.1.0", ""),
        (None, "agent", "0.2.0", "silent: no heartbeat"),
        (fleet.Heard(status={"state": "online"}), "agent", "0.2.0", "silent: no heartbeat"),
        (heard(at=1.0), "agent", "0.2.0", "silent: no heartbeat"),
        (heard(state="offline"), "agent", "0.2.0", "silent: the broker says it is offline"),
        (heard(safe_mode="crashed 3 times"), "agent", "0.2.0", "in safe mode"),
        (heard(version="0.1.0"), "agent", "0.2.0", "runs 0.1.0, not 0.2.0"),
        (heard(model=None), "model", "person-n@1.1.0", "runs None@None, not person-n@1.1.0"),
        (
            heard(cameras=[CAMERA | {"fps": 7.9}]),
            "agent",
            "0.2.0",
            "camera cam has 7.9 frames per second, and had 10.0",
        ),
        (heard(cameras=[CAMERA | {"fps": 8.0}]), "agent", "0.2.0", ""),
        (
            heard(cameras=[CAMERA | {"state": "stalled"}]),
            "agent",
            "0.2.0",
            "camera cam has 0.0 frames per second, and had 10.0",
        ),
        (heard(cameras=[CAMERA, {"id": "new", "state": "failed"}]), "agent", "0.2.0", ""),
    ],
)
def test_a_box_is_judged_by_what_it_says_itself(box: Any, kind: str, target: str, says: str) -> None:
    assert fleet.fault(box, 5.0, kind, target, fps_before={"cam": 10.0}, ratio=0.8) == says


@given(bad=st.integers(0, 2000), more=st.integers(0, 2000), limit=st.floats(0.1, 100))
def test_a_wave_halts_from_the_limit_on(bad: int, more: int, limit: float) -> None:
    halts = fleet.too_many(bad, bad + more, limit)
    assert halts == (bad > 0 and bad / (bad + more) * 100 >= limit) or abs(bad / (bad + more) * 100 - limit) < 1e-9


def test_two_percent_of_fifty_is_one() -> None:
    assert fleet.too_many(1, 50, 2.0) and not fleet.too_many(1, 51, 2.0) and not fleet.too_many(0, 1, 2.0)


def test_the_table_names_what_only_the_broker_or_only_the_inventory_knows() -> None:
    devices = {
        "a/box1": {"online": True, "heartbeat": BEAT | {"status": "ok"}, "status": {}},
        "a/stray": {"online": False, "status": {"version": "0.0.9"}},
        "a/twin": {"online": True, "clash": True, "heartbeat": BEAT},
    }
    head, box1, missing, stray, twin = tables.fleet_table(devices, {"a/box1": "box1", "a/box2": "box2"})
    assert head.split()[:4] == ["host", "device", "state", "agent"]
    assert box1.split()[:6] == ["box1", "a/box1", "ok", "0.2.0", "person-n@1.1.0", "10.0"]
    assert "never heard of" in missing and "(not in the inventory)" in stray and "offline" in stray
    assert "TWO BOXES WITH ONE IDENTITY" in twin


def _rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boxes: dict[str, Any], **params: Any) -> Any:
    """The module with a fleet that says what ``boxes`` says."""

    class Watcher:
        def __init__(self, _broker: Any) -> None:
            self.heard = boxes

        def wait(self, _seconds: float, until: Any = None) -> None:
            pass

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    basic = types.ModuleType("ansible.module_utils.basic")
    basic.AnsibleModule = object  # type: ignore[attr-defined]
    for name, module in {
        "ansible.module_utils.basic": basic,
        f"{COLLECTION}.plugins.module_utils.fleet": fleet,
    }.items():
        for parent in itertools.accumulate(name.split(".")[:-1], "{}.{}".format):
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, name, module)
    module = _load(PLUGINS / "modules" / "rollout.py", "rollout_under_test")
    monkeypatch.setattr(module, "Watcher", Watcher)
    defaults = {
        "kind": "agent",
        "target": "0.2.0",
        "broker": {},
        "results": {},
        "listen_s": 0,
        "gate_s": 0,
        "soak_s": 0,
        "probation_s": 0,
    }
    limits = {"silent_s": 1e12, "min_fps_ratio": 0.8, "limit_pct": 2.0, "file": str(tmp_path / "r" / "state.json")}
    return module.Rollout(defaults | limits | params)


def test_a_model_on_probation_is_waited_for() -> None:
    box = heard()
    assert not fleet.on_probation(None) and not fleet.on_probation(box)
    box.model = {"state": "probation"}
    assert fleet.on_probation(box)
    box.model = {"state": "confirmed"}
    assert not fleet.on_probation(box)


def test_a_halted_rollout_says_who_failed_and_who_was_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = {"box1": "a/box1", "box2": "a/box2", "box3": "a/box3"}
    boxes = {"a/box1": heard(version="0.1.0"), "a/box2": heard(version="0.1.0")}  # box3 is silent from the beginning
    begun = _rollout(tmp_path, monkeypatch, boxes, hosts=hosts)
    assert (
        begun.begin()
        and begun.state["hosts"]["box3"]["was_silent"]
        and begun.state["hosts"]["box1"]["fps"] == {"cam": 10.0}
    )

    good = {"a/box1": heard(at=1e12)}
    first = _rollout(
        tmp_path, monkeypatch, good, hosts={"box1": "a/box1"}, results={"box1": {"ok": True, "changed": True}}
    )
    first.judge()
    assert (first.state["state"], first.state["hosts"]["box1"]["result"]) == ("running", "passed")

    again = _rollout(tmp_path, monkeypatch, good, hosts=hosts)
    assert not again.begin() and again.state["hosts"]["box1"]["result"] == "passed"  # taken up where it was

    second = _rollout(
        tmp_path, monkeypatch, good, hosts={"box2": "a/box2", "box3": "a/box3"},
        results={"box2": {"ok": False, "why": "self-test"}, "box3": {"ok": False, "why": "silent: not reached by SSH"}},
    )  # fmt: skip
    second.judge()
    results = {host: known["result"] for host, known in second.state["hosts"].items()}
    assert second.state["state"] == "halted"
    assert results == {"box1": "passed", "box2": "failed", "box3": "was_silent"}
    last = _rollout(tmp_path, monkeypatch, good, results={"box1": {"ok": True, "changed": True}, "box2": {"ok": True}})
    last.finish()
    report = (tmp_path / "r" / "state.md").read_text()
    assert "| box1 | a/box1 | passed | - | yes |" in report and "| box2 | a/box2 | failed | self-test | - |" in report


def test_a_box_of_an_earlier_wave_that_falls_silent_halts_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = {"box1": "a/box1", "box2": "a/box2"}
    _rollout(tmp_path, monkeypatch, {"a/box1": heard(), "a/box2": heard()}, hosts=hosts).begin()
    for host, boxes in (("box1", {"a/box1": heard(at=1e12)}), ("box2", {"a/box2": heard(at=1e12)})):
        step = _rollout(
            tmp_path, monkeypatch, boxes, hosts={host: hosts[host]}, results={host: {"ok": True, "changed": True}}
        )
        step.judge()
    assert step.state["state"] == "halted" and step.state["hosts"]["box1"]["result"] == "silent"
    assert step.state["waves"][-1]["bad"] == ["box1"]


@pytest.mark.parametrize("wrong", ["cp39-x86_64", "cp311-armv7l", "cp311-x86_64-jetpack", "x86_64", ""])
def test_a_platform_that_is_none_is_refused_with_what_would_be_one(wrong: str) -> None:
    with pytest.raises(make_bundle.BundleError, match="a platform is cp310"):
        make_bundle.Platform.parse(wrong)


def test_the_lock_is_read_for_the_box_not_for_this_machine() -> None:
    def names(platform: str) -> dict[str, str]:
        lines = list(make_bundle._locked(make_bundle.Platform.parse(platform), []))
        assert all(line.count("--hash=sha256:") >= 1 for line in lines)
        return dict(line.split()[0].split("==") for line in lines)

    old, new, jetson = names("cp310-aarch64"), names("cp313-x86_64"), names("cp310-aarch64-jetpack")
    assert "exceptiongroup" in old and "exceptiongroup" not in new  # its marker: below Python 3.11
    assert old["onnxruntime"] != new["onnxruntime"]
    assert "opencv-python-headless" in old and "opencv-python-headless" not in jetson
    assert {"pip", "numpy"} <= set(old) and jetson["numpy"].startswith("1.26")  # what JetPack's OpenCV was built for
