"""What calculates: GPU, Edge TPU, NPU, and the packages that drive them."""

from __future__ import annotations

import re

from edge_agent.config import DetectConfig
from edge_agent.doctor.box import Box, installed
from edge_agent.doctor.finding import Check, Outcome, fail, ok, skip, warn
from edge_agent.doctor.probes import ask
from edge_agent.errors import HardwareError

AREA = "accelerators"
_USB_NEW = ("1a6e", "089a")
"""A Coral USB Accelerator before a program has loaded its firmware."""
_USB_READY = ("18d1", "9302")
_PCI = ("0x1ac1", "0x089a")
_LAST_OLD_LITERT = (2, 11)
"""Google's libedgetpu 16.0 was built against TensorFlow 2.5; runtimes after this one crash with it (edgetpu issue 812)."""
_LITERT = ("ai-edge-litert", "tflite-runtime")
_RULES = "install libedgetpu1-std, which brings the udev rule for group plugdev, and plug the stick in again"


def checks(_: Box) -> list[Check]:
    """Of this area."""
    named = {
        "NVIDIA GPU": gpu,
        "CUDA": cuda,
        "TensorRT": tensorrt,
        "Edge TPU": edge_tpu,
        "Edge TPU access": edge_tpu_access,
        "Edge TPU library": edge_tpu_library,
        "NPU and delegate": delegate,
        "LiteRT": litert,
        "OpenVINO": openvino,
        "ONNX Runtime": onnxruntime,
    }
    return [Check(AREA, name, run) for name, run in named.items()]


def _detect(box: Box) -> DetectConfig:
    return DetectConfig() if box.config is None else box.config.detect


def _lacking(box: Box, backend: str, why: str, fix: str) -> Outcome:
    """A failure where the configuration asks for this backend, else it does not matter."""
    return fail(why, fix) if _detect(box).backend == backend else skip(why)


def _has_gpu(box: Box) -> bool:
    return bool(box.glob("dev/nvidia0") or box.glob("dev/nvhost-gpu") or box.glob("dev/nvgpu/igpu0"))


def _reason(box: Box, name: str) -> str:
    """What a backend says about itself: why it cannot be used, "" where it can. Raises HardwareError where it crashed."""
    return str(ask("backend", name=name, config=_detect(box).model_dump(mode="json"))["reason"])


# ---- NVIDIA


def gpu(box: Box) -> Outcome:
    """The device and its driver."""
    if _has_gpu(box):
        driver = re.search(r"Kernel Module[^\d]*([\d.]+)", box.read("proc/driver/nvidia/version"))
        return ok(f"there, driver {driver[1]}" if driver else "there")
    nvidia = [p for p in box.glob("sys/bus/pci/devices/*/vendor") if box.read(str(p.relative_to(box.root))) == "0x10de"]
    if nvidia:
        return fail(
            "an NVIDIA card is in the box, but its driver is not loaded", "install the NVIDIA driver, then reboot"
        )
    return _lacking(box, "tensorrt", "no NVIDIA GPU", "choose another detect.backend")


def cuda(box: Box) -> Outcome:
    """Whether CUDA starts, and what the toolkit is."""
    if not _has_gpu(box):
        return skip("no NVIDIA GPU")
    toolkit = re.search(r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"([\d.]+)"', box.read("usr/local/cuda/version.json"))
    try:
        answer = ask("cuda")
    except HardwareError as error:
        return fail(str(error), "Jetson: sudo apt install nvidia-jetpack. In a container: --runtime nvidia")
    text = f"driver for CUDA {answer['version']}, {', '.join(answer['gpus']) or 'no GPU'}"
    return ok(f"{text}, toolkit {toolkit[1] if toolkit else 'not installed'}")


def tensorrt(box: Box) -> Outcome:
    """The package, and whether the backend can be used."""
    packages = box.packages()
    system = next((packages[name] for name in ("libnvinfer10", "libnvinfer11", "libnvinfer8") if name in packages), "")
    seen = f"libnvinfer {system}" if system else "no libnvinfer package"
    if not _has_gpu(box):
        return _lacking(box, "tensorrt", f"no NVIDIA GPU ({seen})", "choose another detect.backend")
    try:
        found = ask("package", name="tensorrt")
        if "why" in found:
            fix = "sudo apt install python3-libnvinfer, and a virtual environment made with --system-site-packages"
            return warn(f"{seen}; Python cannot import it: {found['why']}", fix)
        version = found["version"]
        parts = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if parts < (8, 6):
            return fail(f"{version} is not supported: 8.6 to 11 are", "JetPack 6 or newer brings one")
        reason = _reason(box, "tensorrt")
    except HardwareError as error:
        return fail(str(error), "reinstall TensorRT: its version must fit the driver's")
    return warn(f"{version}: {reason}", "see docs/troubleshoot.md") if reason else ok(version)


# ---- Coral


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
        return fail(told, "pip install 'edge-agent[coral]'")
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
        return warn(f"{told}: the library is for newer ones", "pip install 'edge-agent[coral]'")
    return ok(told)


# ---- others


def delegate(box: Box) -> Outcome:
    """NXP's NPUs, and the library that the configuration names."""
    wanted = _detect(box).tflite.delegate
    nodes = [f"/{n.relative_to(box.root)}" for p in ("galcore", "ethosu*", "neutron*") for n in box.glob(f"dev/{p}")]
    usual = "libethosu_delegate.so" if any("ethosu" in n for n in nodes) else "libvx_delegate.so"
    there = f"NPU {', '.join(nodes)}" if nodes else "no NPU"
    if wanted is None:
        if not nodes:
            return skip("no NPU, and the configuration names no delegate")
        return warn(f"{there} is not used", f"set detect.tflite.delegate: {usual} to calculate on it")
    try:
        ask("library", name=wanted)
    except HardwareError as error:
        return fail(f"{there}; {wanted}: {error}", f"install it, or correct detect.tflite.delegate (NXP: {usual})")
    return ok(f"{there}; {wanted} loads")


def litert(box: Box) -> Outcome:
    """The TensorFlow Lite runtime."""
    name, version = _litert_version()
    if not name:
        fix = "pip install 'edge-agent[coral]'"
        why = "LiteRT is not installed"
        return fail(why, fix) if _has_edge_tpu(box) else _lacking(box, "tflite", why, fix)
    numpy = installed("numpy")
    if name == "tflite-runtime" and int(numpy.partition(".")[0]) >= 2:
        return fail(f"{name} {version} does not work with numpy {numpy}", "pip install ai-edge-litert, or 'numpy<2'")
    try:
        reason = _reason(box, "tflite")
    except HardwareError as error:
        return fail(str(error), f"reinstall {name}")
    return _lacking(box, "tflite", f"{name} {version}: {reason}", "see above") if reason else ok(f"{name} {version}")


def openvino(box: Box) -> Outcome:
    """Intel's runtime and its devices."""
    fix = "pip install 'edge-agent[openvino]'"
    try:
        answer = ask("openvino")
    except HardwareError as error:
        if not installed("openvino"):
            return _lacking(box, "openvino", "not installed", fix)
        return fail(str(error), "reinstall openvino")
    devices = answer["devices"]
    text = f"{answer['version']}: {', '.join(f'{key} ({name})' for key, name in devices.items()) or 'no device'}"
    render = box.glob("dev/dri/renderD*")
    intel = any(box.read(f"sys/class/drm/{node.name}/device/vendor") == "0x8086" for node in render)
    if intel and not any(key.startswith("GPU") for key in devices):
        return warn(f"{text}; the Intel GPU is not among them", "sudo apt install intel-opencl-icd; group render")
    wanted = _detect(box).openvino.device
    if _detect(box).backend == "openvino" and wanted.partition(".")[0] not in {
        "AUTO",
        *(d.partition(".")[0] for d in devices),
    }:
        return fail(
            f"{text}; {wanted} is not among them", "correct detect.openvino.device, or install that device's driver"
        )
    return ok(text)


def onnxruntime(box: Box) -> Outcome:
    """The runtime every box can use."""
    try:
        answer = ask("onnxruntime")
    except HardwareError as error:
        wanted = _detect(box).backend in {"auto", "onnxruntime"}
        text = f"cannot be imported: {error}"
        return fail(text, "pip install 'edge-agent[onnx]'") if wanted else skip(text)
    text = f"{answer['version']}: {', '.join(p.removesuffix('ExecutionProvider') for p in answer['providers'])}"
    first = _detect(box).onnxruntime.providers[0]
    if first not in answer["providers"]:
        return fail(
            f"{text}; {first} is not among them", "correct detect.onnxruntime.providers, or install its package"
        )
    return ok(text)
