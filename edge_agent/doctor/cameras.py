"""Cameras, and OpenCV, which reads them."""

from __future__ import annotations

import re
from functools import partial

from edge_agent.capture.source import Kind, is_live, kind_of
from edge_agent.config import CameraConfig
from edge_agent.doctor.box import Box, installed
from edge_agent.doctor.finding import Check, Outcome, fail, ok, skip, warn
from edge_agent.doctor.probes import ask
from edge_agent.errors import HardwareError

AREA = "cameras"
_COUNT_S = 2.0
_OPEN_S = 9.0
"""Opening may take 4 s, a first picture as long again."""
_LOW_FPS = 3.0
_FILE_FIX = "correct the camera's source: a path is relative to the configuration file"
_CAMERA_FIXES: dict[Kind, str] = {
    "url": "try the same address in a player on this box; user and password percent-encoded? another client on its only stream?",
    "device": "does another program hold it (`sudo fuser -v /dev/video*`)? is it a camera's node, and not its metadata's?",
    "file": _FILE_FIX,
    "images": _FILE_FIX,
}
_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def checks(box: Box) -> list[Check]:
    """Of this area: one for each camera."""
    found = [
        Check(AREA, "OpenCV", opencv),
        Check(AREA, "OpenCV packages", opencv_packages),
        Check(AREA, "USB cameras", usb_cameras),
    ]
    if box.config is None:
        return [*found, Check(AREA, "camera", lambda _: skip("no configuration that names one"))]
    timeout_s = _OPEN_S + _COUNT_S + 1.0
    for camera in box.config.cameras:
        found += [Check(AREA, f"camera {camera.id}", partial(one_camera, camera=camera), timeout_s)]
    return found


def opencv(box: Box) -> Outcome:
    """Version, and whether it was built with what the cameras need."""
    try:
        built = ask("opencv")
    except HardwareError as error:
        fix = "pip install 'opencv-python-headless<5'; on a Jetson rather its own: sudo apt install python3-opencv"
        if "numpy" in str(error).lower():
            fix = "this OpenCV was built for another numpy: pip install 'numpy<2', or a newer OpenCV"
        return fail(str(error), fix)
    parts = [
        f"{name} {'yes' if built[key] else 'no'}"
        for key, name in (("ffmpeg", "FFmpeg"), ("gstreamer", "GStreamer"), ("v4l", "V4L2"))
    ]
    text = f"{built['version']}, {', '.join(parts)}"
    if not built["ffmpeg"]:
        return fail(f"{text}: network streams and files cannot be read", "pip install 'opencv-python-headless<5'")
    if not built["gstreamer"] and box.read("etc/nv_tegra_release"):
        fix = "for CSI cameras and the hardware decoder: remove the wheel, use JetPack's python3-opencv with --system-site-packages"
        return warn(text, fix)
    return ok(text)


def opencv_packages(box: Box) -> Outcome:
    """Two OpenCVs in one environment overwrite each other's files."""
    wheels = [f"{name} {version}" for name in _WHEELS if (version := installed(name))]
    fix = "keep one: pip uninstall " + " ".join(wheel.split()[0] for wheel in wheels[1:] or wheels)
    if len(wheels) > 1:
        return fail(
            f"{' and '.join(wheels)} overwrite each other", f"{fix}, then pip install --force-reinstall the one kept"
        )
    system = box.packages().get("libopencv-python") or box.packages().get("python3-opencv", "")
    if wheels and system and box.read("etc/nv_tegra_release"):
        return warn(f"{wheels[0]} hides JetPack's own {system}, which has GStreamer", fix)
    numpy = installed("numpy")
    return ok(f"{wheels[0] if wheels else system or 'none as a package'}; numpy {numpy}")


def usb_cameras(box: Box) -> Outcome:
    """How many share a bus, and the kernel's buffer for those read through libusb."""
    buses: dict[str, int] = {}
    for device in box.glob("sys/class/video4linux/video*"):
        # ".../usb1/1-2/1-2:1.0/video4linux/video0"; a camera has a second node for its metadata.
        found = re.search(r"/usb(\d+)/", str(device.resolve()))
        if found and box.read(f"{device.relative_to(box.root)}/index") in {"0", ""}:
            buses[found[1]] = buses.get(found[1], 0) + 1
    if not buses:
        return skip("none")
    memory = box.read("sys/module/usbcore/parameters/usbfs_memory_mb")
    text = f"{sum(buses.values())} on {len(buses)} bus(es), {memory or '?'} MB of usbfs memory"
    crowded = [
        bus
        for bus, count in buses.items()
        if count > 1 and box.read(f"sys/bus/usb/devices/usb{bus}/speed") in {"480", "12"}
    ]
    if crowded:
        return warn(
            f"{text}; several share USB 2 bus {crowded[0]}",
            "spread them over different controllers, or lower size and rate",
        )
    if memory.isdecimal() and int(memory) < 64 and sum(buses.values()) > 1:
        fix = "only for cameras read through libusb: usbcore.usbfs_memory_mb=1000 on the kernel's command line"
        return ok(f"{text} ({fix})")
    return ok(text)


def one_camera(box: Box, camera: CameraConfig) -> Outcome:
    """Whether it delivers; a camera that a running agent holds is not opened a second time, the agent is asked."""
    if is_live(camera.source) and box.agent is not None:
        return _from_agent(box, camera)
    if kind_of(camera.source) == "device":
        node = f"dev/video{camera.source}" if camera.source.isdecimal() else camera.source.lstrip("/")
        if not (box.root / node).exists():
            there = ", ".join(f"/{n.relative_to(box.root)}" for n in box.glob("dev/video*")) or "none"
            return fail(
                f"there is no /{node} (there: {there})",
                "plug it in, or correct the camera's source; `v4l2-ctl --list-devices`",
            )
    try:
        answer = ask(
            "camera", config=camera.model_dump(mode="json"), seconds=_COUNT_S, timeout_s=_OPEN_S + _COUNT_S, niceness=0
        )
    except HardwareError as error:
        return fail(str(error), _CAMERA_FIXES[kind_of(camera.source)])
    width, height = answer["size"]
    if not answer["live"]:
        length = f", {answer['length']} frames" if answer.get("length") else ""
        return ok(f"file, {width}x{height}, {answer['fps']:.1f} fps{length}")
    text = f"{width}x{height}, {answer['fps']:.1f} fps, first picture after {answer['opened_s']:.1f} s"
    if answer["fps"] < min(_LOW_FPS, camera.max_fps or _LOW_FPS):
        return warn(text, "slow: look at the camera's own rate, the light (exposure time) and the network")
    return ok(text)


def _from_agent(box: Box, camera: CameraConfig) -> Outcome:
    assert box.agent is not None
    if box.agent.status is None:
        return skip(f"a running agent holds the cameras, and {box.agent.why}")
    seen = next((c for c in box.agent.part("cameras") or [] if isinstance(c, dict) and c.get("id") == camera.id), None)
    if seen is None:
        return warn(
            "the running agent does not know this camera", "restart it: its configuration is older than the file"
        )
    size = "x".join(map(str, seen.get("size") or [])) or "size not known"
    text = f"held by the running agent: {seen.get('state')}, {size}, {seen.get('fps') or 0:.1f} fps"
    if seen.get("state") in {"delivering", "starting"} and seen.get("view", "ok") == "ok":
        return ok(text)
    if seen.get("state") == "delivering":
        return warn(f"{text}, view {seen.get('view')}", "look at the camera")
    return fail(f"{text}; {seen.get('last_error') or ''}", "try the same address in a player on this box")
