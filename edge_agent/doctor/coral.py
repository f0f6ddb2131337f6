"""Coral Edge TPUs, their library, and the LiteRT that loads it."""

from __future__ import annotations

import re

from edge_agent.doctor.backends import lacking, reason_against
from edge_agent.doctor.box import Box, installed
from edge_agent.doctor.finding import Outcome, fail, ok, skip, warn
from edge_agent.doctor.probes import ask
from edge_agent.errors import HardwareError

_USB_NEW = ("1a6e", "089a")
"""A Coral USB Accelerator before a program has loaded its firmware."""
_USB_READY = ("18d1", "9302")
_PCI = ("0x1ac1", "0x089a")
_LAST_OLD_LITERT = (2, 11)
"""Google's libedgetpu 16.0 was built against TensorFlow 2.5; runtimes after this one crash with it (edgetpu issue 812)."""
_LITERT = ("ai-edge-litert", "tflite-runtime")
_RULES = "install libedgetpu1-std, which brings the udev rule for group plugdev, and plug the stick in again"


def _usb(box: Box, ident: tuple[str, str]) -> list[str]:
    """Folders below ``/sys`` of USB devices of a kind."""
    found = []
    for vendor in box.glob("sys/bus/usb/devices/*/idVendor"):
        folder = str(vendor.parent.relative_to(box.root))
        if (box.read(f"{folder}/idVendor"), box.read(f"{folder}/idProduct")) == ident:
            found.append(folder)
    return found


def _pci(box: Box) -> int:
    folders = [str(vendor.parent.relative_to(box.root)) for vendor in box.glob("sys/bus/pci/devices/*/vendor")]
    return sum((box.read(f"{f}/vendor"), box.read(f"{f}/device")) == _PCI for f in folders)


def _has_edge_tpu(box: Box) -> bool:
    return bool(_usb(box, _USB_NEW) or _usb(box, _USB_READY) or _pci(box) or box.glob("dev/apex_*"))


def edge_tpu(box: Box) -> Outcome:
    """Sticks and cards, their firmware, link and temperature."""
    new, ready, cards, nodes = _usb(box, _USB_NEW), _usb(box, _USB_READY), _pci(box), box.glob("dev/apex_*")
    if not (new or ready or cards or nodes):
        return skip("no Coral USB stick or card")
    told = []
    if nodes:
        degrees = [box.read(f"sys/class/apex/{node.name}/temp") for node in nodes]
        told.append(", ".join(f"/dev/{node.name}{_degrees(temp)}" for node, temp in zip(nodes, degrees, strict=True)))
    if ready:
        told.append(f"{len(ready)} on USB with its firmware")
    if new:
        told.append(f"{len(new)} on USB, firmware is loaded at first use")
    text = "; ".join(told)
    if cards > len(nodes):
        return fail(
            f"{cards} on PCIe, but {len(nodes)} in /dev: the driver is missing",
            "sudo apt install gasket-dkms, then reboot; on new kernels a maintained fork of gasket-driver is needed",
        )
    slow = [f for f in new + ready if (speed := box.read(f"{f}/speed")).isdecimal() and int(speed) < 5000]
    if slow:
        return warn(
            f"{text}; on a USB 2 port", "use a USB 3 port (blue) and the cable that came with it: twice as fast"
        )
    hot = [n.name for n in nodes if (t := box.read(f"sys/class/apex/{n.name}/temp")).isdecimal() and int(t) > 85000]
    return warn(f"{text}; hot", "improve the cooling: it halves its clock") if hot else ok(text)


def _degrees(text: str) -> str:
    return f" ({int(text) / 1000:.0f} °C)" if text.isdecimal() else ""


def edge_tpu_access(box: Box) -> Outcome:
    """Whether the agent's user may open them."""
    if not _has_edge_tpu(box):
        return skip("no Edge TPU")
    nodes = box.glob("dev/apex_*")
    for folder in _usb(box, _USB_NEW) + _usb(box, _USB_READY):
        bus, device = box.read(f"{folder}/busnum"), box.read(f"{folder}/devnum")
        if bus.isdecimal() and device.isdecimal():
            nodes.append(box.root / f"dev/bus/usb/{int(bus):03d}/{int(device):03d}")
    refused = [node for node in nodes if not box.may_use(node)]
    if not refused:
        return ok(f"user {box.user.name} may use it")
    node, group = refused[0].relative_to(box.root), box.group_of(refused[0])
    text = f"user {box.user.name} may not use /{node} (group {group})"
    join = (
        f"SupplementaryGroups={group} in the unit"
        if box.user.uid is None
        else f"sudo usermod -aG {group} {box.user.name}"
    )
    return fail(text, _RULES if group in {"root", "?"} else join)


def _litert_version() -> tuple[str, str]:
    """(package, version), "" where there is none."""
    return next(((name, version) for name in _LITERT if (version := installed(name))), ("", ""))


def edge_tpu_library(box: Box) -> Outcome:
    """libedgetpu, and whether it fits the LiteRT that will load it."""
    if not _has_edge_tpu(box):
        return skip("no Edge TPU")
    try:
        said = ask("library", name="libedgetpu.so.1")["said"]
    except HardwareError as error:
        return fail(
            f"libedgetpu.so.1: {error}",
            "sudo apt install libedgetpu1-std (coral.ai/docs; newer builds: see docs/doctor.md)",
        )
    packages = box.packages()
    version = next((packages[name] for name in ("libedgetpu1-std", "libedgetpu1-max") if name in packages), "")
    return judge_pair(version, said, *_litert_version())


def judge_pair(library: str, said: str, name: str, runtime: str) -> Outcome:
    """Whether libedgetpu of a Debian version and a LiteRT package fit. Builds for newer ones carry ``tf2.x`` in theirs."""
    told = f"libedgetpu {library or said or 'of unknown version'} with {name or 'no LiteRT'} {runtime}".strip()
    if not name:
        return fail(told, "pip install ai-edge-litert")
    numbers = tuple(int(n) for n in re.findall(r"\d+", runtime)[:2])
    old_runtime = name == "tflite-runtime" and numbers <= _LAST_OLD_LITERT
    built_for = re.search(r"tf(\d+)\.(\d+)", library)
    newer = "install a libedgetpu built for it (its version says tf2.16 or higher): see docs/doctor.md"
    if not library:
        return warn(
            f"{told}: what it was built for cannot be told", f"if the agent crashes at the first frame: {newer}"
        )
    if not built_for and not old_runtime:
        return fail(f"{told}: this pair crashes, the library is for LiteRT up to 2.11", newer)
    if built_for and old_runtime:
        return warn(f"{told}: the library is for newer ones", "pip install ai-edge-litert")
    return ok(told)


def litert(box: Box) -> Outcome:
    """The TensorFlow Lite runtime."""
    name, version = _litert_version()
    if not name:
        fix = "pip install ai-edge-litert"
        why = "LiteRT is not installed"
        return fail(why, fix) if _has_edge_tpu(box) else lacking(box, "tflite", why, fix)
    numpy = installed("numpy")
    if name == "tflite-runtime" and int(numpy.partition(".")[0]) >= 2:
        return fail(f"{name} {version} does not work with numpy {numpy}", "pip install ai-edge-litert, or 'numpy<2'")
    try:
        reason = reason_against(box, "tflite")
    except HardwareError as error:
        return fail(str(error), f"reinstall {name}")
    return lacking(box, "tflite", f"{name} {version}: {reason}", "see above") if reason else ok(f"{name} {version}")
