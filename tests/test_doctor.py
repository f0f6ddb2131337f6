from __future__ import annotations

import contextlib
import grp
import json
import os
import pty
import pwd
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.cli import doctor as cli
from edge_agent.detect.cuda_probe import probe_gpu
from edge_agent.doctor import accelerators, cameras, coral, examine, service, storage, system, unit
from edge_agent.doctor.box import Box, User, _dpkg, current_user, look
from edge_agent.doctor.display import plain, table
from edge_agent.doctor.examine import Report
from edge_agent.doctor.finding import Check, Finding, ok
from edge_agent.doctor.runner import run_checks
from edge_agent.outbox.schema import connect
from edge_agent.state_dir import is_held, state_lock
from tests.doctor_fixtures import (
    AGENT,
    CORAL_PCI,
    IMX8,
    JETSON_NANO,
    JETSON_ORIN,
    RASPBERRY,
    configured,
    coral_usb,
    plant,
    state_of,
)
from tests.fake_cuda import build_driver

# ---- the runner


def test_a_check_that_hangs_or_breaks_is_a_finding() -> None:
    wake = threading.Event()

    def hangs(_: Box) -> None:
        wake.wait(30)

    def breaks(_: Box) -> None:
        raise ZeroDivisionError("rtsp://admin:hunter2@192.0.2.1/\x1b[2J gone")

    done: list[str] = []
    checks = [
        Check("a", "hangs", hangs, timeout_s=0.5),  # type: ignore[arg-type]
        Check("a", "breaks", breaks),  # type: ignore[arg-type]
        Check("a", "works", lambda _: ok("fine")),
    ]
    hung, broken, works = run_checks(checks, Box(), on_done=lambda finding: done.append(finding.name))
    wake.set()
    assert (hung.state, hung.found) == ("fail", "no answer within 0.5 s")
    assert broken.state == "fail" and "ZeroDivisionError: rtsp://***@192.0.2.1/ [2J gone" in broken.found
    assert works == Finding("a", "works", "ok", "fine")
    assert sorted(done) == ["breaks", "hangs", "works"] and done[-1] == "hangs"


def test_all_checks_together_have_a_deadline() -> None:
    wake = threading.Event()
    checks = [Check("a", str(n), lambda _: ok(str(wake.wait(30)))) for n in range(20)]
    began = time.monotonic()
    found = run_checks(checks, Box(), total_s=0.3)
    took = time.monotonic() - began
    wake.set()
    assert took < 10
    assert [f.state for f in found] == ["warn"] * 20
    assert found[0].found == "not finished: the 0.3 s were up" and found[0].fix == "look again with --only a"
    assert found[19].found == "not looked at: the 0.3 s were up"


def test_many_cameras_hold_up_nothing_else() -> None:
    wake = threading.Event()
    hanging = [Check("cameras", str(n), lambda _: ok(str(wake.wait(30))), timeout_s=20) for n in range(40)]
    quick = [Check("system", str(n), lambda _: ok("")) for n in range(5)]
    found = run_checks([*hanging, *quick], Box(), total_s=1.0)
    wake.set()
    assert [f.state for f in found[40:]] == ["ok"] * 5


# ---- boards


def test_a_jetson_orin(tmp_path: Path) -> None:
    box = plant(tmp_path, JETSON_ORIN)
    assert state_of(system.jetpack, box) == ("ok", "JetPack 6 (L4T 36.4.3) ")
    assert state_of(system.board, box)[1].startswith("NVIDIA Jetson Orin Nano")
    assert state_of(system.operating_system, box)[1].startswith("Ubuntu 22.04.5 LTS, kernel 5.15.148-tegra")
    assert state_of(system.memory, box) == ("ok", "5187 of 7620 MB available ")
    assert state_of(system.temperature, box) == ("ok", "51 °C (cpu-thermal) ")
    assert state_of(system.throttling, box) == ("ok", "not now ")
    state, said = state_of(system.power_mode, box)
    assert state == "warn" and "25W (mode 1), slower than MAXN_SUPER" in said and "nvpmodel -m 2" in said
    assert state_of(accelerators.gpu, box) == ("ok", "there ")
    # This machine has no CUDA: the driver's library is asked for real, and missing.
    state, said = state_of(accelerators.cuda, box)
    assert state == "fail" and "libcuda.so.1" in said and "nvidia-jetpack" in said
    state, said = state_of(accelerators.tensorrt, box)
    assert state == "warn" and "10.3.0.30" in said and "No module named 'tensorrt'" in said
    assert "nvidia-jetpack" not in box.packages(), "removed packages do not count"


@pytest.mark.parametrize(("release", "generation"), [("R32", "4"), ("R35", "5")])
def test_an_old_jetpack_is_refused_plainly(tmp_path: Path, release: str, generation: str) -> None:
    old = JETSON_NANO | {"etc/nv_tegra_release": f"# {release} (release), REVISION: 5.0, GCID: 1\n"}
    state, said = state_of(system.jetpack, plant(tmp_path, old))
    assert state == "fail" and f"JetPack {generation} (L4T {release[1:]}.5.0) is not supported: JetPack 6 or 7" in said


def test_a_jetson_in_a_container_and_a_newer_one(tmp_path: Path) -> None:
    hidden = {name: text for name, text in JETSON_ORIN.items() if name != "etc/nv_tegra_release"}
    assert state_of(system.jetpack, plant(tmp_path / "a", hidden))[0] == "warn"
    newer = {"etc/nv_tegra_release": "# R44 (release), REVISION: 1.0, GCID: 1\n"}
    assert state_of(system.jetpack, plant(tmp_path / "b", newer)) == (
        "warn",
        "JetPack ? (L4T 44.1.0): newer than this agent knows update edge-agent",
    )


def test_over_current_and_heat_on_a_jetson(tmp_path: Path) -> None:
    weak = JETSON_ORIN | {"sys/class/hwmon/hwmon3/oc3_event_cnt": "17\n"}
    assert state_of(system.throttling, plant(tmp_path / "a", weak))[1].startswith("over-current throttled 17 times")
    hot = JETSON_ORIN | {"sys/class/thermal/cooling_device0/cur_state": "3\n"}
    assert state_of(system.throttling, plant(tmp_path / "b", hot))[1].startswith("slowed down now by its temperature")


def test_a_throttled_raspberry(tmp_path: Path) -> None:
    box = plant(tmp_path, RASPBERRY)
    assert state_of(system.throttling, box)[:1] == ("fail",)
    assert "now: under-voltage, throttled" in state_of(system.throttling, box)[1]
    assert state_of(system.temperature, box)[0] == "warn"
    state, said = state_of(system.power_mode, box)
    assert state == "warn" and "powersave" in said
    assert "no battery clock" in state_of(system.date, box)[1]


@pytest.mark.parametrize(
    ("bits", "state", "said"),
    [
        ("0", "ok", "never since the start"),
        ("50000", "warn", "since the start: under-voltage, throttled"),
        ("8", "fail", "now: at the soft temperature limit"),
    ],
)
def test_the_bits_of_a_raspberry(tmp_path: Path, bits: str, state: str, said: str) -> None:
    tree = RASPBERRY | {"sys/devices/platform/soc/soc:firmware/get_throttled": bits}
    outcome = system.throttling(plant(tmp_path, tree))
    assert (outcome.state, outcome.found) == (state, said)


def test_intel_powersave_is_no_fault(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu0/cpufreq"
    tree = {f"{cpu}/scaling_governor": "powersave", f"{cpu}/scaling_driver": "intel_pstate"}
    assert state_of(system.power_mode, plant(tmp_path, tree))[0] == "ok"


def test_a_box_without_anything_needs_no_complaint(tmp_path: Path) -> None:
    box = plant(tmp_path, {"etc/hostname": "box"})
    for check in examine.all_checks(box):
        if check.area in {"accelerators", "cameras", "model", "storage"} and check.name not in {
            "OpenCV",
            "write speed",
        }:
            outcome = check.run(box)
            assert outcome.state in {"ok", "skip"}, (check, outcome)


# ---- accelerators


def test_a_coral_stick_before_and_after_its_firmware(tmp_path: Path) -> None:
    before = plant(tmp_path / "a", coral_usb("1a6e", "089a"))
    assert state_of(coral.edge_tpu, before) == ("ok", "1 on USB, firmware is loaded at first use ")
    after = plant(tmp_path / "b", coral_usb("18d1", "9302", speed="480"))
    state, said = state_of(coral.edge_tpu, after)
    assert state == "warn" and "1 on USB with its firmware; on a USB 2 port" in said


def test_who_may_use_the_stick(tmp_path: Path) -> None:
    box = plant(tmp_path, coral_usb("1a6e", "089a"))
    node = tmp_path / "dev/bus/usb/002/007"
    node.chmod(0o660)
    group = grp.getgrgid(node.stat().st_gid).gr_name
    (tmp_path / "etc/group").write_text(f"{group}:x:{node.stat().st_gid}:\n")
    state, said = state_of(coral.edge_tpu_access, box)
    assert state == "fail" and f"user agent may not use /dev/bus/usb/002/007 (group {group})" in said
    inside = replace(box, user=User("agent", 64123, frozenset({node.stat().st_gid})))
    assert state_of(coral.edge_tpu_access, inside)[0] == "ok"
    node.chmod(0o600)
    assert state_of(coral.edge_tpu_access, inside)[0] == "fail"
    assert state_of(coral.edge_tpu_access, replace(box, user=User("root", 0, frozenset())))[0] == "ok"


def test_a_coral_card_with_and_without_its_driver(tmp_path: Path) -> None:
    assert state_of(coral.edge_tpu, plant(tmp_path / "a", CORAL_PCI)) == ("ok", "/dev/apex_0 (47 °C) ")
    bare = {name: text for name, text in CORAL_PCI.items() if "apex" not in name}
    state, said = state_of(coral.edge_tpu, plant(tmp_path / "b", bare))
    assert state == "fail" and "gasket-dkms" in said
    hot = CORAL_PCI | {"sys/class/apex/apex_0/temp": "91000"}
    assert state_of(coral.edge_tpu, plant(tmp_path / "c", hot))[0] == "warn"
    # The library is asked for on this machine, which has none.
    state, said = state_of(coral.edge_tpu_library, plant(tmp_path / "d", CORAL_PCI))
    assert state == "fail" and "libedgetpu.so.1" in said


@pytest.mark.parametrize(
    ("library", "name", "runtime", "state"),
    [
        ("16.0", "tflite-runtime", "2.5.0.post1", "ok"),
        ("16.0", "tflite-runtime", "2.11.0", "ok"),
        ("16.0", "tflite-runtime", "2.12.0", "fail"),
        ("16.0", "ai-edge-litert", "2.3.0", "fail"),
        ("16.0tf2.17.1-1.bookworm", "ai-edge-litert", "2.3.0", "ok"),
        ("16.0tf2.17.1-1.bookworm", "tflite-runtime", "2.14.0", "ok"),
        ("16.0tf2.17.1-1.bookworm", "tflite-runtime", "2.5.0", "warn"),
        ("", "ai-edge-litert", "2.3.0", "warn"),
        ("16.0", "", "", "fail"),
    ],
)
def test_which_edge_tpu_library_fits_which_runtime(library: str, name: str, runtime: str, state: str) -> None:
    outcome = coral.judge_pair(library, "", name, runtime)
    assert outcome.state == state
    assert outcome.fix or state == "ok"


def test_an_npu_and_its_delegate(tmp_path: Path) -> None:
    box = plant(tmp_path, IMX8)
    assert state_of(system.board, box) == ("ok", "NXP i.MX8MPlus EVK board, i.MX8MP ")
    state, said = state_of(accelerators.delegate, box)
    assert state == "warn" and "NPU /dev/galcore is not used" in said and "libvx_delegate.so" in said
    named = configured(box, tmp_path, "detect: {tflite: {delegate: libvx_delegate.so}}\n")
    state, said = state_of(accelerators.delegate, named)
    assert state == "fail" and "libvx_delegate.so: cannot open shared object file" in said
    wrong = configured(box, tmp_path, "detect: {tflite: {delegate: libm.so.6}}\n")
    assert "is no delegate" in state_of(accelerators.delegate, wrong)[1]


@pytest.mark.slow
def test_a_gpu_and_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_driver(tmp_path).parent))
    probe_gpu.cache_clear()
    state, said = state_of(accelerators.cuda, plant(tmp_path / "root", JETSON_ORIN))
    probe_gpu.cache_clear()
    assert state == "ok" and "driver for CUDA 12.6, Fake GPU" in said and "toolkit 12.6.11" in said


@pytest.mark.slow
def test_a_delegate_that_loads_and_one_that_crashes(tmp_path: Path) -> None:
    good, bad = tmp_path / "libgood.so", tmp_path / "libbad.so"
    create = "void *tflite_plugin_create_delegate(char **k, char **v, unsigned long n, void *e) { return 0; }\n"
    crash = "__attribute__((constructor)) static void f(void) { *(volatile int *)0 = 1; }\n"
    for path, text in ((good, create), (bad, create + crash)):
        source = path.with_suffix(".c")
        source.write_text(text)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, source], check=True)
    box = plant(tmp_path / "root", IMX8)
    loads = configured(box, tmp_path, f"detect: {{tflite: {{delegate: {good}}}}}\n")
    assert state_of(accelerators.delegate, loads)[0] == "ok"
    crashes = configured(box, tmp_path, f"detect: {{tflite: {{delegate: {bad}}}}}\n")
    state, said = state_of(accelerators.delegate, crashes)
    assert state == "fail" and "SIGSEGV" in said


def test_a_backend_that_is_asked_for_and_missing_is_a_failure(tmp_path: Path) -> None:
    box = plant(tmp_path, {"etc/hostname": "box"})
    assert state_of(accelerators.gpu, box)[0] == "skip"
    assert state_of(accelerators.gpu, configured(box, tmp_path, "detect: {backend: tensorrt}\n"))[0] == "fail"
    unknown = configured(box, tmp_path, "detect: {onnxruntime: {providers: [MoonExecutionProvider]}}\n")
    assert "MoonExecutionProvider is not among them" in state_of(accelerators.onnxruntime, unknown)[1]


@pytest.mark.slow
def test_the_openvino_device_that_is_asked_for(tmp_path: Path) -> None:
    box = plant(tmp_path, {"etc/hostname": "box"})
    several = configured(box, tmp_path, "detect: {backend: openvino, openvino: {device: 'HETERO:CPU'}}\n")
    assert state_of(accelerators.openvino, several)[0] == "ok"
    gone = configured(box, tmp_path, "detect: {backend: openvino, openvino: {device: 'HETERO:GPU.7,CPU'}}\n")
    state, said = state_of(accelerators.openvino, gone)
    assert state == "fail" and "no device 'GPU.7' here" in said and "detect.openvino.device" in said


def test_an_nvidia_card_without_its_driver(tmp_path: Path) -> None:
    box = plant(tmp_path, {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n"})
    assert state_of(accelerators.gpu, box)[0] == "fail"


# ---- cameras


def test_a_camera_that_is_not_plugged_in(tmp_path: Path) -> None:
    box = configured(plant(tmp_path / "root", {"dev/video2": ""}), tmp_path, source="/dev/video0")
    assert box.config is not None
    outcome = cameras.one_camera(box, box.config.cameras[0])
    assert (outcome.state, outcome.found) == ("fail", "there is no /dev/video0 (there: /dev/video2)")


def test_usb_cameras_on_one_bus(tmp_path: Path) -> None:
    box = plant(
        tmp_path, {"sys/bus/usb/devices/usb1/speed": "480\n", "sys/module/usbcore/parameters/usbfs_memory_mb": "16"}
    )
    for number in (0, 2):
        real = tmp_path / f"sys/devices/pci0000:00/usb1/1-{number}/video4linux/video{number}"
        real.mkdir(parents=True)
        (real / "index").write_text("0\n")
        link = tmp_path / f"sys/class/video4linux/video{number}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real)
    state, said = state_of(cameras.usb_cameras, box)
    assert state == "warn" and "2 on 1 bus(es), 16 MB of usbfs memory; several share USB 2 bus 1" in said


def test_this_opencv() -> None:
    assert cameras.opencv(Box()).state == "ok"
    assert cameras.opencv_packages(Box()).state == "ok"


def broken(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, text: str) -> None:
    """A package in front of the true one, for child processes."""
    (folder / f"{module}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ImportError('numpy.core.multiarray failed to import')", "built for another numpy"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("print('noise'); raise SystemError('odd')", "SystemError: odd"),
    ],
)
def test_an_opencv_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    broken(tmp_path, monkeypatch, "cv2", text)
    state, told = state_of(cameras.opencv, Box())
    assert state == "fail" and said in told


def test_two_opencvs_and_one_that_hides_jetpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jetson = plant(tmp_path / "root", JETSON_ORIN)
    assert state_of(cameras.opencv, jetson)[0] == "warn", "this OpenCV is a wheel, without GStreamer"
    with (tmp_path / "root/var/lib/dpkg/status").open("a") as file:
        file.write("\n\nPackage: libopencv-python\nStatus: install ok installed\nVersion: 4.8.0-1-g6371ee1\n")
    _dpkg.cache_clear()
    state, said = state_of(cameras.opencv_packages, jetson)
    assert state == "warn" and "hides JetPack's own 4.8.0-1-g6371ee1" in said
    second = tmp_path / "site/opencv_contrib_python-4.8.0.dist-info"
    second.mkdir(parents=True)
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: opencv-contrib-python\nVersion: 4.8.0\n")
    monkeypatch.syspath_prepend(str(second.parent))
    state, said = state_of(cameras.opencv_packages, Box())
    assert state == "fail" and "opencv-contrib-python 4.8.0 overwrite each other" in said


def test_runtimes_that_are_broken_or_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = plant(tmp_path / "root", JETSON_ORIN)
    broken(tmp_path, monkeypatch, "tensorrt", "__version__ = '8.5.2'")
    assert "8.5.2 is not supported: 8.6 to 11 are" in state_of(accelerators.tensorrt, box)[1]
    broken(tmp_path, monkeypatch, "tensorrt", "raise OSError('libnvinfer.so.10: cannot open shared object file')")
    state, said = state_of(accelerators.tensorrt, box)
    assert state == "fail" and "libnvinfer.so.10" in said
    broken(tmp_path, monkeypatch, "onnxruntime", "import os; os.kill(os.getpid(), 4)")
    state, said = state_of(accelerators.onnxruntime, box)
    assert state == "fail" and "SIGILL" in said


# ---- storage


def test_the_state_folder_of_another_user(tmp_path: Path) -> None:
    box = configured(Box(user=AGENT), tmp_path)
    tmp_path.chmod(0o755)
    state, said = state_of(storage.state_folder, box)
    assert state == "fail" and "user agent may not write" in said and "install -d -o agent" in said
    (tmp_path / "state").mkdir(mode=0o777)
    (tmp_path / "state").chmod(0o777)
    assert state_of(storage.state_folder, box)[0] in {"ok", "warn"}  # warn: the tests' folder may be in memory
    assert not (tmp_path / "state" / "lock").exists(), "looking changes nothing"


def test_a_state_folder_in_memory_or_read_only(tmp_path: Path) -> None:
    box = replace(configured(Box(), tmp_path), root=tmp_path / "root")
    mounts = {"proc/self/mounts": f"/dev/sda1 / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw,nosuid 0 0\n"}
    plant(tmp_path / "root", mounts)
    assert "everything in it is lost" in state_of(storage.state_folder, box)[1]
    plant(tmp_path / "root", {"proc/self/mounts": f"/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 {tmp_path} ext4 ro 0 0\n"})
    assert "read-only" in state_of(storage.state_folder, box)[1]


def test_the_disk_is_measured(tmp_path: Path) -> None:
    box = configured(Box(), tmp_path)
    assert re.match(r"\d+ MB/s, [\d.]+ ms for a commit", storage.write_speed(box).found)
    assert "MB free" in storage.disk_space(box).found
    assert list(tmp_path.iterdir()) == [tmp_path / "config.yaml"]


def test_an_outbox_that_is_no_database(tmp_path: Path) -> None:
    box = configured(Box(), tmp_path)
    assert state_of(storage.outbox, box) == ("ok", "not made yet ")
    (tmp_path / "state").mkdir()
    (tmp_path / "state/outbox.db").write_bytes(b"garbage " * 2000)
    assert state_of(storage.outbox, box)[0] == "fail"


def test_what_waits_in_the_outbox(tmp_path: Path) -> None:
    box = configured(Box(), tmp_path)
    cx = connect(tmp_path / "state/outbox.db", 100)
    assert state_of(storage.outbox, box)[1].startswith("empty, 0.0 of 256 MB")
    cx.execute("INSERT INTO message VALUES (1, 1, 40.0, 'events/x', '{}')")
    cx.execute("INSERT INTO meta VALUES ('age', 100.0), ('wall', ?)", (time.time() - 600,))
    assert state_of(storage.outbox, box) == ("ok", "1 waiting, oldest 11 min, 0 refused, 0.0 of 256 MB ")
    cx.execute("UPDATE meta SET value = 90000.0 WHERE key = 'age'")
    assert "not delivered" in state_of(storage.outbox, box)[1]
    cx.execute(
        "INSERT INTO dead_letter VALUES (1, 'mqtt', 1, 1, 0.0, '2026-01-01T00:00:00Z', 135, 'Not authorized', 'events/x', '{}')"
    )
    assert "1 refused" in state_of(storage.outbox, box)[1] and state_of(storage.outbox, box)[0] == "warn"
    cx.execute("PRAGMA user_version=99")
    assert "newer edge-agent (schema 99)" in state_of(storage.outbox, box)[1]
    cx.close()


def test_whether_the_lock_is_held(tmp_path: Path) -> None:
    assert is_held(tmp_path) is False
    with state_lock(tmp_path):
        assert is_held(tmp_path) is True
    assert is_held(tmp_path) is False


# ---- the service

UNIT = """[Service]
ExecStart=/opt/edge-agent/bin/edge-agent run
User=agent
SupplementaryGroups=video
Restart=always
"""


def test_the_unit(tmp_path: Path) -> None:
    tree = {
        "etc/systemd/system/edge-agent.service": UNIT,
        "etc/passwd": "root:x:0:0::/:\nagent:x:64123:64123::/:\n",
        "etc/group": "video:x:44:\nplugdev:x:46:someone,agent\nagent:x:64123:\n",
    }
    plant(tmp_path, tree)
    box = look(None, tmp_path)
    assert box.user == User("agent", 64123, frozenset({44, 46, 64123}))
    state, said = state_of(service.systemd_unit, box)
    assert state == "fail" and "ExecStart /opt/edge-agent/bin/edge-agent does not exist" in said
    plant(tmp_path, {"opt/edge-agent/bin/edge-agent": ""})
    assert "is not started with the box" in state_of(service.systemd_unit, box)[1]
    plant(tmp_path, {"etc/systemd/system/multi-user.target.wants/edge-agent.service": ""})
    assert state_of(service.systemd_unit, box)[0] == "ok"
    plant(tmp_path, {"etc/systemd/system/edge-agent.service.d/10.conf": "[Service]\nUser=gone\nRestart=no\n"})
    assert "user gone does not exist" in state_of(service.systemd_unit, look(None, tmp_path))[1]


def test_a_user_that_systemd_makes(tmp_path: Path) -> None:
    text = "[Service]\nDynamicUser=yes\nSupplementaryGroups=video\nSupplementaryGroups=\nSupplementaryGroups=plugdev\n"
    tree = {"usr/lib/systemd/system/edge-agent.service": text, "etc/group": "video:x:44:\nplugdev:x:46:\n"}
    plant(tmp_path, tree, {"dev/video0": ""})
    (tmp_path / "dev/video0").chmod(0o660)
    box = look(None, tmp_path)
    assert box.user == User("edge-agent", None, frozenset({46}))
    state, said = state_of(system.permissions, box)
    assert state == "fail" and "SupplementaryGroups=" in said and unit.find(tmp_path) is not None


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ({"ActiveState": "active", "SubState": "running", "NRestarts": "0"}, "ok"),
        ({"ActiveState": "active", "SubState": "running", "NRestarts": "12"}, "warn"),
        ({"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}, "fail"),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "watchdog"}, "fail"),
        ({"ActiveState": "inactive", "SubState": "dead"}, "warn"),
        ({}, "warn"),
    ],
)
def test_what_systemd_says(said: dict[str, str], state: str) -> None:
    assert service.judge_service(said).state == state


def test_secrets_that_all_may_read(tmp_path: Path) -> None:
    secret = tmp_path / "pw"
    secret.write_text("hunter2\n")
    secret.chmod(0o644)
    box = configured(Box(), tmp_path, f"mqtt: {{password_file: {secret}}}\n")
    assert box.config_path is not None
    box.config_path.chmod(0o600)
    state, said = state_of(service.secrets, box)
    assert state == "warn" and f"chmod o-rwx {secret}" in said and "hunter2" not in said
    secret.chmod(0o600)
    assert state_of(service.secrets, box)[0] == "ok"
    box.config_path.chmod(0o644)  # an address in it holds a password
    assert state_of(service.secrets, box)[0] == "warn"


def test_the_clock_that_stood_still(tmp_path: Path) -> None:
    box = plant(tmp_path, {"sys/class/rtc/rtc0/since_epoch": "1000000000\n"})
    state, said = state_of(system.date, box)
    assert state == "warn" and "the battery clock is" in said


def test_devices_and_groups(tmp_path: Path) -> None:
    box = plant(tmp_path, {"dev/video0": "", "dev/nvmap": ""})
    node = tmp_path / "dev/video0"
    node.chmod(0o660)
    (tmp_path / "dev/nvmap").chmod(0o666)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text(f"video:x:{node.stat().st_gid}:\n")
    assert state_of(system.permissions, box) == (
        "fail",
        "user agent: may not use /dev/video0 sudo usermod -aG video agent and log in again",
    )
    (tmp_path / "dev/dri").mkdir()
    node.rename(tmp_path / "dev/dri/renderD128")
    assert state_of(system.permissions, box)[0] == "warn", "graphics that may not be wanted"
    assert current_user().name == pwd.getpwuid(os.geteuid()).pw_name


# ---- what is shown


def test_the_table_fits_eighty_columns_and_the_lines_are_plain() -> None:
    from rich.console import Console

    findings = (
        Finding("system", "Python", "ok", "3.11 " * 30),
        Finding("network", "broker reachable", "fail", "refused [red]no markup[/red]", "start it " * 20),
        Finding("network", "a name that is longer than its column", "skip", "no"),
    )
    report = Report(findings, 3.21)
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(table(report))
    text = console.export_text()
    console.file.close()
    assert max(map(len, text.splitlines())) <= 80
    assert "[red]no markup[/red]" in text and "what to do" in text
    assert text.rstrip().endswith("3 checks: 1 ok, 1 fail, 1 skip; 3.2 s")
    lines = list(plain(report))
    assert lines[1] == "fail  network / broker reachable: refused [red]no markup[/red]"
    assert lines[2].startswith("      -> start it")
    assert not report.ok and json.loads(report.to_json())["checks"][1]["fix"].startswith("start it")


def test_the_command_line_knows_the_areas() -> None:
    assert cli.AREAS == examine.AREAS


# ---- the command


def doctor(*arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent.cli", "doctor", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.slow
def test_without_a_configuration_the_box_is_looked_at(tmp_path: Path) -> None:
    done = doctor("--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    checks = {check["name"]: check for check in answer["checks"]}
    assert checks["configuration"]["state"] == "warn"
    assert len(answer["checks"]) >= 40 and answer["took_s"] < 20
    assert {check["state"] for check in answer["checks"]} <= {"ok", "warn", "fail", "skip"}
    assert all(check["fix"] for check in answer["checks"] if check["state"] in {"warn", "fail"})
    assert done.returncode == (0 if answer["ok"] else 1) and done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_broken_configuration_becomes_findings(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("cameras:\n  - {id: a b, source: x.mp4}\nmqtt: {port: 99999, password: hunter2}\n")
    done = doctor("--only", "agent", cwd=tmp_path)
    assert done.returncode == 1 and "hunter2" not in done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert len(told) == 3 and "config.yaml:2:10: cameras[0].id" in told[0] and "mqtt.port" in "".join(told)
    gone = doctor("--only", "agent", "-c", tmp_path / "gone.yaml", cwd=tmp_path)
    assert gone.returncode == 1 and "gone.yaml: no such file" in gone.stdout


@pytest.mark.slow
def test_on_a_terminal_progress_and_a_table(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "50"}
    command = [sys.executable, "-m", "edge_agent.cli", "doctor", "--only", "agent", "-c", str(tmp_path / "gone.yaml")]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while data := os.read(ours, 65536):
                text += data
    os.close(ours)
    assert process.returncode == 1
    shown = text.decode()
    assert re.search(r"\d/5", shown) and "\x1b[?25l" in shown, "a progress display"
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "the cursor is back"
    table_lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).split("\r\n")[-12:]
    assert max(map(len, table_lines)) <= 80 and any("what to do" in line for line in table_lines)
