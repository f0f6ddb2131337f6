"""The units of the updater, in a machine with real systemd: the real agent is replaced, and a bad one is taken back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_agent.ota.bundle import unpack
from edge_agent.ota.offer import AGENT, Facts
from edge_agent.ota.repository import operations
from edge_agent.ota.repository.pack import pack
from tests.agent_releases import pip_wheel, write_real_wheel
from tests.mosquitto import wait_for
from tests.nspawn import Machine, endless_pictures, needs_nspawn
from tests.ota_fixtures import Operator, make_operator
from tests.test_service import config, works

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "systemd"
FIRST = "0.1.0"
SLOWLY_S = 240.0
"""For a busy machine that has just built a release."""
MODELS = {name: ROOT / "models" / name / "1.0.0" for name in ("person-n", "person-s")}
BREAKS = {"edge_agent/cli/run.py": "\n\ndef _run(args: object) -> int:\n    raise SystemExit(7)\n"}


@pytest.mark.parametrize("name", ["edge-agent-update.service", "edge-agent-update-resume.service"])
def test_systemd_has_nothing_to_say_about_the_units_and_their_sandbox_is_tight(name: str, tmp_path: Path) -> None:
    unit = tmp_path / name
    unit.write_text((UNITS / name).read_text().replace("/opt/edge-agent/updater/bin/edge-agent", "/bin/true"))
    shutil.copy(UNITS / "edge-agent-update.timer", tmp_path)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "edge-agent" in line] == []
    asked = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(unit)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


@pytest.mark.fleet  # minutes: three real releases are built in the machine
@pytest.mark.slow
@needs_nspawn
@pytest.mark.timeout(1800)
def test_the_agent_is_replaced_and_a_bad_release_is_taken_back(tmp_path: Path) -> None:
    operator = make_operator(tmp_path / "operator", root_keys=1, threshold=1)
    operations.add_key(operator.files(), "agent", operations.NewKey("team-agent"), None)
    endless_pictures(tmp_path / "pictures", ROOT / "models/person-n/1.0.0/golden-terraces.jpg")
    binds = {tmp_path / "pictures": "/opt/pictures", operator.public: "/srv"}
    settings = {"repository": "file:///srv", "root_file": "/srv/metadata/1.root.json", "clock": "battery"}
    box = Machine(tmp_path / "box", config(ota={**settings, "keep_free_mb": 0}), binds=binds, fields=False)
    _rename(box)
    try:
        box.boot()
        works(box, SLOWLY_S)
        _publish(operator, "0.2.0", {})
        assert _update(box) == "success"
        works(box, SLOWLY_S)
        assert box.rest("/api/v1/status")["version"] == "0.2.0"
        _publish(operator, "0.3.0", BREAKS)
        assert _update(box) == "exit-code"
        log = box.run("journalctl", "-u", "edge-agent-update", "-o", "cat")
        assert "0.3.0 was rolled back (unhealthy)" in log and "systemctl restart edge-agent.service" in log
        works(box, SLOWLY_S)
        assert box.rest("/api/v1/status")["version"] == "0.2.0"
        wait_for(lambda: "rolled_back" in [state for state, _ in _told(box)], 60, "the event")
        told = _told(box)
        assert told[-1] == ("rolled_back", "0.3.0") and ("confirmed", "0.2.0") in told and ("begun", "0.3.0") in told
        box.run("systemctl", "start", "edge-agent-update-resume", timeout_s=300)
        assert (
            box.run("readlink", "/opt/edge-agent/current", "/opt/edge-agent/updater").split() == ["releases/0.2.0"] * 2
        )
    finally:
        box.off()


def _told(box: Machine) -> list[tuple[str, str]]:
    """What the agent said of its own updates, oldest first."""
    events = box.rest("/api/v1/events?limit=200")
    facts = [event["data"] for event in events if event["type"] == "edge_agent.device.agent_update"]
    return [(fact["state"], fact["version"]) for fact in facts]


def _rename(box: Machine) -> None:
    """The release in the machine has the name of its version, as all have."""
    home = box.tree / "opt/edge-agent"
    (home / "releases/test").rename(home / "releases" / FIRST)
    for name, path in MODELS.items():
        shutil.copytree(path, home / "releases" / FIRST / "models" / name / "1.0.0")
    program = home / "releases" / FIRST / "bin/edge-agent"
    program.write_text(program.read_text().replace("releases/test", f"releases/{FIRST}"))
    (home / "current").unlink()
    (home / "current").symlink_to(f"releases/{FIRST}")
    drop_in = box.tree / "etc/systemd/system/edge-agent-update.service.d/quick.conf"
    drop_in.parent.mkdir()
    command = "/opt/edge-agent/updater/bin/edge-agent update -c /etc/edge-agent/config.yaml --hold 3 --deadline 120"
    drop_in.write_text(f"[Service]\nNice=0\nCPUWeight=100\nExecStart=\nExecStart={command}\n")


def _publish(operator: Operator, version: str, change: dict[str, str]) -> None:
    wheels = operator.folder / f"wheels-{version}"
    write_real_wheel(wheels, ROOT / "edge_agent", version, "/opt/edge-agent/packages", change)
    (wheels / pip_wheel().name).symlink_to(pip_wheel())
    made = pack(
        wheels, operator.folder / f"{version}.tar", models=[(name, "1.0.0", path) for name, path in MODELS.items()]
    )
    folder = operator.folder / f"release-{version}"
    unpack(made.path, folder, made.sha256)
    facts = Facts(name=made.release.name, version=version, kind=AGENT, installed_bytes=made.release.installed_bytes)
    operations.publish(operator.files(), "agent", folder, facts, "stable")


def _update(box: Machine) -> str:
    """Run the unit; how it ended."""
    box.run("systemctl", "start", "edge-agent-update", check=False, timeout_s=800)
    return box.run("systemctl", "show", "-p", "Result", "--value", "edge-agent-update")
