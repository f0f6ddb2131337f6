"""The story of a fleet, on real machines: bare boxes, provisioned, updated, broken and mended. One test follows the other."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fleet.machines import Machine, run
from tests.fleet.releases import release
from tests.fleet.world import ANSIBLE, MODEL, SITES, World, small_fleet
from tests.mosquitto import wait_for
from tests.tflite_fixtures import delegated, stand_in

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("systemd-nspawn"), reason="needs root and systemd-nspawn"),
]
BOXES = list(SITES)
DASHBOARDS = ANSIBLE / "roles/observability/files/dashboards"
STARTED = "39f53479d3a045ac8e11786248231fbf"
"""MESSAGE_ID of systemd's word that a unit has started; with Type=notify it is ready then."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, vtest_video: Path) -> Iterator[World]:
    with small_fleet(tmp_path_factory.mktemp("fleet"), vtest_video) as made:
        yield made
        print(*(f"{took:7.1f} s  {what}" for what, took in made.times.items()), sep="\n")


@pytest.fixture(scope="module")
def fleet(world: World) -> Iterator[World]:
    """Provisioned; somebody listens at the broker."""
    played = world.play("site")
    assert played.code == 0, played.output[-4000:]
    listener = world.listen()
    yield world
    listener.terminate()
    listener.wait(10)
    if listener.stdout is not None:
        listener.stdout.close()


def test_bare_boxes_publish_events_and_heartbeats(fleet: World) -> None:
    fleet.wait_for_beats(BOXES)
    wait_for(
        lambda: all(fleet.newest(box, "events/cam/social_distancing") for box in BOXES), 120, "an event of each box"
    )
    beat = fleet.newest("box1", "heartbeat")
    assert beat["version"] == "0.1.0" and fleet.model_of("box1") == f"{MODEL}@1.0.0"


def test_a_second_run_changes_nothing(fleet: World) -> None:
    played = fleet.play("site")
    assert played.code == 0, played.output[-4000:]
    assert played.changed == dict.fromkeys(["hub", *BOXES], 0)


def test_boxes_let_in_ssh_by_key_only_and_nothing_else(fleet: World) -> None:
    box = fleet.boxes["box1"]
    said = box.ssh("sshd -T | grep -i '^passwordauthentication'; nft list table inet hardening | grep -c 'policy drop'")
    assert said.split() == ["passwordauthentication", "no", "1"]
    box.ssh("systemd-run --unit=other python3 -m http.server 9000")
    wait_for(lambda: "9000" in box.ssh("ss -tln"), 20, "a server on the box")
    reached = subprocess.run(
        ["curl", "-s", "-m", "3", f"http://{box.address}:9000/"], capture_output=True, check=False
    ).returncode
    assert reached == 28  # timed out: dropped


@pytest.mark.parametrize("place", ["127.0.0.1/20002", "10.86.0.3/22"], ids=["ssh", "wireguard"])
def test_a_box_is_reached_by_its_tunnel(fleet: World, place: str) -> None:
    def there() -> bool:
        return "SSH-2.0" in fleet.hub.try_ssh(f"timeout 3 head -c 20 < /dev/tcp/{place}").stdout

    wait_for(there, 60, f"a box's sshd behind {place} of the hub")


def test_one_device_may_not_speak_for_another(fleet: World) -> None:
    pair = fleet.folder / "box1.pem"
    pair.write_text(fleet.boxes["box1"].ssh("cat /var/lib/edge-agent/identity/device.pem"))
    fleet.forget()
    for box in ("box2", "box1"):
        run(
            *(
                "mosquitto_pub",
                "-h",
                fleet.hub.address,
                "-p",
                "8883",
                "-V",
                "mqttv5",
                "-q",
                "1",
                "-i",
                "stranger",
                "-m",
                '{"my": "word"}',
            ),
            *(
                *("--cafile", fleet.inventory / "pki/ca.pem"),
                *("--cert", pair),
                *("--key", pair),
            ),
            *("-t", f"edge/v1/{SITES[box]}/{box}/mine"),
            check=False,
        )
    wait_for(lambda: fleet.newest("box1", "mine"), 20, "its own word")
    assert not fleet.newest("box2", "mine")


def test_a_coral_that_is_plugged_in_later_starts_the_agent_anew(fleet: World) -> None:
    """By the rule for PCIe, which is let match what there is here."""
    fit = 's/SUBSYSTEM==.apex./SUBSYSTEM=="net", KERNEL=="lo"/'
    place = "/run/udev/rules.d/71-test.rules"
    said = fleet.boxes["box1"].ssh(
        f"mkdir -p /run/udev/rules.d && sed '{fit}' /etc/udev/rules.d/70-edge-agent.rules >{place} && "
        f"udevadm test --action=add /sys/class/net/lo 2>&1; rm {place}"
    )
    assert "run: '/bin/systemctl --no-block try-restart edge-agent.service'" in said, said
    assert "Invalid" not in said, said


def _ask_charts(fleet: World, query: str) -> list[dict[str, Any]]:
    """What VictoriaMetrics answers on the hub."""
    url = f"http://127.0.0.1:8428/api/v1/query?query={urllib.parse.quote(query)}"
    said = json.loads(
        fleet.hub.ssh(f"python3 -c \"import urllib.request as u; print(u.urlopen('{url}').read().decode())\"")
    )
    assert said["status"] == "success", (query, said)
    found: list[dict[str, Any]] = said["data"]["result"]
    return found


def test_every_box_is_in_the_charts_under_its_own_name(fleet: World) -> None:
    def devices() -> set[str]:
        return {found["metric"]["device"] for found in _ask_charts(fleet, "edge_heartbeat_camera_fps > 0")}

    wait_for(lambda: devices() == set(BOXES), 120, "frames per second of each box")
    lie = "lie,device=box2 x=1"
    post = f"curl -s -o /dev/null -w %{{http_code}} --cacert {fleet.inventory}/pki/ca.pem"
    pair, url = fleet.folder / "box1.pem", f"https://{fleet.hub.address}:8427/api/v2/write"
    known = [*post.split(), "--cert", str(pair), "--key", str(pair)]
    assert run(*known, "--data-binary", lie, url).stdout == "204"
    assert run(*known, url.replace("/api/v2/write", "/api/v1/query?query=up")).stdout == "404"  # boxes read nothing
    assert run(*post.split(), "--data-binary", lie, url).stdout == "400"  # nobody without a certificate
    wait_for(lambda: _ask_charts(fleet, "lie_x"), 60, "what a box wrote of another")
    assert [found["metric"]["device"] for found in _ask_charts(fleet, "lie_x")] == ["box1"]


@pytest.mark.parametrize("board", sorted(DASHBOARDS.glob("*.json")), ids=lambda path: path.stem)
def test_the_dashboards_ask_what_the_database_understands(fleet: World, board: Path) -> None:
    panels = json.loads(board.read_text())["panels"]
    for panel in panels:
        for target in panel["targets"]:
            found = _ask_charts(fleet, re.sub(r"\$(site|device|camera)\b", ".*", target["expr"]))
            # There is no thermometer, no trouble and no zone here.
            assert found or re.search("temperature|refused|occupancy|line_count|oldest", target["expr"]), panel["title"]


def test_a_certificate_is_renewed_while_the_agent_works(fleet: World) -> None:
    def state() -> list[str]:
        ask = "openssl x509 -noout -serial -in /var/lib/edge-agent/identity/device.pem; systemctl show -p MainPID edge-agent"
        return fleet.boxes["box1"].ssh(ask).split()

    before = state()
    played = fleet.play("site", "--tags", "certificates", "-l", "box1", "-e", "edge_agent_renew_days=400")
    assert played.code == 0, played.output[-4000:]
    after = state()
    assert before[0] != after[0] and before[1] == after[1]  # another serial number, the same process
    fleet.wait_for_beats(["box1"])
    assert fleet.newest("box1", "status").get("state", "online") == "online"


def _back_after_the_hang(box: Machine) -> float | None:
    """Seconds from when its first inference hung until the service was ready again; None while it is not."""
    said = box.ssh("journalctl -u edge-agent -b -o json --output-fields=MESSAGE,MESSAGE_ID")
    hung = 0.0
    for line in map(json.loads, said.splitlines()):
        at = int(line["__REALTIME_TIMESTAMP"]) / 1e6
        if stuck := re.search(r"detect.* stuck for ([0-9.]+) s", str(line.get("MESSAGE"))):
            hung = hung or at - float(stuck[1])
        elif hung and line.get("MESSAGE_ID") == STARTED:
            return at - hung
    return None


def test_after_an_inference_that_hangs_for_ever_the_box_is_back_in_service(fleet: World) -> None:
    box = fleet.boxes["box2"]
    place = box.root / "opt/hanging"
    place.mkdir()
    shutil.copy(stand_in(), place / "libedgetpu.so.1")
    broken = delegated(place / "models", "/opt/hanging/libedgetpu.so.1", "late hang")
    config = box.root / "etc/edge-agent/config.yaml"
    shutil.copy(config, place / "config.yaml")
    whole = yaml.safe_load(config.read_text()) | broken | {"models_dir": "/opt/hanging/models", "use_cases": {}}
    config.write_text(yaml.safe_dump(whole))
    box.ssh("systemctl restart edge-agent")
    wait_for(lambda: _back_after_the_hang(box), 180, "the service after a hang")
    took = _back_after_the_hang(box)
    assert took is not None
    print(f"an inference that hung cost {took:.1f} s")
    assert took < 60  # on a box of its own 30; here six machines share two cores


def test_an_agent_that_crashes_again_and_again_is_reached_in_safe_mode(fleet: World) -> None:
    """It hangs at each start, so it crashes as often as it is started."""

    def heard() -> str:
        beat = fleet.newest("box2", "heartbeat")
        return str(beat.get("last_error")) if beat.get("safe_mode") else ""

    wait_for(heard, 240, "a heartbeat in safe mode")
    assert "crashes in a row" in heard() and "stuck for" in heard()
    fleet.command("box2", "ping")
    wait_for(lambda: fleet.newest("box2", "commands/ping/reply").get("ok"), 60, "an answer in safe mode")
    played = fleet.play("status", "-e", "rollout_heartbeat_s=10")
    assert "SAFE MODE" in played.output
    box = fleet.boxes["box2"]
    box.ssh("cp /opt/hanging/config.yaml /etc/edge-agent/config.yaml && systemctl restart edge-agent")
    fleet.wait_for_beats(["box2"])


def test_a_good_model_reaches_all_in_waves(fleet: World) -> None:
    target = fleet.publish_model("1.1.0")
    played, report = fleet.rollout("-e", f"rollout_model={target}", "-e", '{"rollout_waves": [1, "50%", "100%"]}')
    assert played.code == 0, played.output[-5000:] + report
    assert report.count("| passed |") == len(BOXES), report
    assert {fleet.newest(box, "model").get("state") for box in BOXES} == {"confirmed"}  # the rollout waited for it
    fleet.wait_for_beats(BOXES)
    assert {fleet.model_of(box) for box in BOXES} == {target}


def test_a_bad_model_stops_at_the_canary(fleet: World) -> None:
    target = fleet.publish_model("1.2.0", good=False)
    played, report = fleet.rollout("-e", f"rollout_model={target}")
    assert played.code != 0 and "halted" in report, report
    assert "was not installed (self_test)" in report, report
    assert report.count("| not reached |") == len(BOXES) - 1, report
    fleet.wait_for_beats(BOXES)
    assert {fleet.model_of(box) for box in BOXES} == {f"{MODEL}@1.1.0"}


def test_an_agent_version_reaches_all(fleet: World) -> None:
    release(next((fleet.folder / "dist").glob("*-0.1.0.tar")), "0.2.0", fleet.folder / "dist")
    played, report = fleet.rollout("-e", "rollout_agent=0.2.0", "-e", '{"rollout_waves": [1, "100%"]}')
    assert played.code == 0, played.output[-5000:] + report
    fleet.wait_for_beats(BOXES)
    assert {fleet.newest(box, "heartbeat")["version"] for box in BOXES} == {"0.2.0"}


def test_a_broken_release_takes_itself_back(fleet: World) -> None:
    release(next((fleet.folder / "dist").glob("*-0.1.0.tar")), "0.3.0", fleet.folder / "dist", broken=True)
    played, report = fleet.rollout("-e", "rollout_agent=0.3.0")
    assert played.code != 0 and "halted" in report, report
    assert "0.3.0 was rolled back (unhealthy)" in report, report
    fleet.wait_for_beats(BOXES)
    assert {fleet.newest(box, "heartbeat")["version"] for box in BOXES} == {"0.2.0"}
    assert fleet.boxes["box1"].ssh("/opt/edge-agent/current/bin/edge-agent --version").strip() == "edge-agent 0.2.0"


def test_a_box_that_is_cut_off_meanwhile_is_reported_silent_and_taken_back_later(fleet: World) -> None:
    target, box = fleet.publish_model("1.3.0"), fleet.boxes["box2"]

    def cut() -> None:
        wait_for((fleet.inventory / f"rollouts/model-{MODEL}-1.3.0.json").exists, 120, "the rollout's beginning")
        box.cut_off()

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        played, report = fleet.rollout("-e", f"rollout_model={target}", "-e", '{"rollout_waves": ["100%"]}')
    finally:
        cutter.join()
        box.reconnect()
    assert "| box2 | berlin/box2 | newly silent |" in report, report
    assert played.code != 0 and "halted" in report, report
    fleet.wait_for_beats(BOXES)
    assert {fleet.model_of(name) for name in BOXES if name != "box2"} == {f"{MODEL}@1.1.0"}
    played = fleet.play("rollback", "-e", f"rollout_model={target}")  # whatever it did while nobody reached it
    assert played.code == 0, played.output[-3000:]
    fleet.wait_for_beats(["box2"])
    assert fleet.model_of("box2") == f"{MODEL}@1.1.0"


def test_after_a_reboot_everything_comes_back(fleet: World) -> None:
    box, which = fleet.boxes["box3"], "systemctl show -p UserspaceTimestampMonotonic; cat /run/booted"
    box.ssh("date +%s.%N >/run/booted")  # gone with the machine, whose boot id is the host's
    before = box.ssh(which)
    box.try_ssh("systemctl reboot")

    def another_life() -> bool:
        said = box.try_ssh(which)  # until it goes down, the old one answers; then for a while nobody does
        return said.stdout != "" and said.stdout != before

    wait_for(another_life, 180, "the box after its reboot")
    fleet.wait_for_beats(["box3"], 180)
    assert box.ssh("systemctl is-active edge-agent hardening-firewall").split() == ["active", "active"]


def test_after_a_power_cut_everything_comes_back(fleet: World) -> None:
    fleet.boxes["box4"].power_cut()
    fleet.boxes["box4"].start()
    fleet.wait_for_beats(["box4"], 180)


def test_the_status_of_the_fleet_is_one_table(fleet: World) -> None:
    fleet.wait_for_beats(BOXES)
    played = fleet.play("status", "-e", "rollout_heartbeat_s=10")
    assert played.code == 0
    assert all(f"{SITES[box]}/{box}" in played.output for box in BOXES), played.output


def _says_clash(machine: Machine) -> bool:
    ask = (
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/api/v1/events?limit=500').read().decode())"
    )
    return "mqtt_session_taken_over" in machine.try_ssh(f'python3 -c "{ask}"').stdout


def test_a_copied_card_shows_at_both_boxes(fleet: World) -> None:
    fleet.boxes["box4"].power_cut()
    copy = Machine("copy", 30, fleet.network, fleet.folder, fleet.key)
    copy.clone_disk_of(fleet.boxes["box4"])
    fleet.forget()
    try:
        fleet.boxes["box4"].start()
        copy.start()
        wait_for(lambda: fleet.newest("box4", "events/_device/mqtt_session_taken_over"), 180, "the clash is told")
        for machine in (fleet.boxes["box4"], copy):
            machine.wait_for_ssh(120)
            wait_for(functools.partial(_says_clash, machine), 120, "told by its own REST API")
    finally:
        copy.power_cut()


def test_the_agent_goes_and_comes_back(fleet: World) -> None:
    played = fleet.play("remove", "-l", "box1")
    assert played.code == 0, played.output[-3000:]
    assert fleet.boxes["box1"].try_ssh("ls /opt/edge-agent /etc/systemd/system/edge-agent.service").returncode != 0
    assert fleet.newest("box1", "status")["state"] == "offline"
    fleet.boxes["box1"].ssh("test -f /var/lib/edge-agent/outbox.db")  # what it collected is kept
