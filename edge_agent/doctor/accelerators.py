"""What calculates: GPU, Edge TPU, NPU, and the packages that drive them."""

from __future__ import annotations

import re

from edge_agent.detect.cuda_probe import probe_gpu
from edge_agent.doctor import coral
from edge_agent.doctor.backends import detect_config, lacking, reason_against
from edge_agent.doctor.box import Box, installed
from edge_agent.doctor.finding import Check, Outcome, fail, ok, skip, warn
from edge_agent.doctor.probes import ask
from edge_agent.errors import HardwareError

AREA = "accelerators"


def checks(_: Box) -> list[Check]:
    """Of this area."""
    named = {
        "NVIDIA GPU": gpu,
        "CUDA": cuda,
        "TensorRT": tensorrt,
        "Edge TPU": coral.edge_tpu,
        "Edge TPU access": coral.edge_tpu_access,
        "Edge TPU library": coral.edge_tpu_library,
        "NPU and delegate": delegate,
        "LiteRT": coral.litert,
        "OpenVINO": openvino,
        "ONNX Runtime": onnxruntime,
    }
    return [Check(AREA, name, run) for name, run in named.items()]


def _has_gpu(box: Box) -> bool:
    return bool(box.glob("dev/nvidia0") or box.glob("dev/nvhost-gpu") or box.glob("dev/nvgpu/igpu0"))


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
    return lacking(box, "tensorrt", "no NVIDIA GPU", "choose another detect.backend")


def cuda(box: Box) -> Outcome:
    """Whether CUDA starts, and what the toolkit is."""
    if not _has_gpu(box):
        return skip("no NVIDIA GPU")
    toolkit = re.search(r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"([\d.]+)"', box.read("usr/local/cuda/version.json"))
    try:
        found = probe_gpu(detect_config(box).tensorrt.device)
    except HardwareError as error:
        return fail(str(error), "Jetson: sudo apt install nvidia-jetpack. In a container: --runtime nvidia")
    text = f"driver for CUDA {found.driver}, {found.name}, compute capability {found.capability}, {found.memory_mb} MB"
    return ok(f"{text}, toolkit {toolkit[1] if toolkit else 'not installed'}")


def tensorrt(box: Box) -> Outcome:
    """The package, and whether the backend can be used."""
    packages = box.packages()
    system = next((packages[name] for name in ("libnvinfer10", "libnvinfer11", "libnvinfer8") if name in packages), "")
    seen = f"libnvinfer {system}" if system else "no libnvinfer package"
    if not _has_gpu(box):
        return lacking(box, "tensorrt", f"no NVIDIA GPU ({seen})", "choose another detect.backend")
    try:
        found = ask("package", name="tensorrt")
        if "why" in found:
            fix = "sudo apt install python3-libnvinfer, and a virtual environment made with --system-site-packages"
            judge = fail if detect_config(box).backend == "tensorrt" else warn
            return judge(f"{seen}; Python cannot import it: {found['why']}", fix)
        version = found["version"]
        parts = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if parts < (8, 6):
            return fail(f"{version} is not supported: 8.6 to 11 are", "JetPack 6 or newer brings one")
        reason = reason_against(box, "tensorrt")
    except HardwareError as error:
        return fail(str(error), "reinstall TensorRT: its version must fit the driver's")
    return warn(f"{version}: {reason}", "mend that, or choose another detect.backend") if reason else ok(version)


# ---- others


def delegate(box: Box) -> Outcome:
    """NXP's NPUs, and the library that the configuration names."""
    wanted = detect_config(box).tflite.delegate
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


def openvino(box: Box) -> Outcome:
    """Intel's runtime and its devices."""
    fix = "pip install openvino"
    try:
        answer = ask("openvino")
        reason = reason_against(box, "openvino") if detect_config(box).backend == "openvino" else ""
    except HardwareError as error:
        if not installed("openvino"):
            return lacking(box, "openvino", "not installed", fix)
        return fail(str(error), "reinstall openvino")
    devices = answer["devices"]
    text = f"{answer['version']}: {', '.join(f'{key} ({name})' for key, name in devices.items()) or 'no device'}"
    if reason:
        return fail(f"{text}; {reason}", "correct detect.openvino.device, or install that device's driver")
    render = box.glob("dev/dri/renderD*")
    intel = any(box.read(f"sys/class/drm/{node.name}/device/vendor") == "0x8086" for node in render)
    if intel and not any(key.startswith("GPU") for key in devices):
        return warn(f"{text}; the Intel GPU is not among them", "sudo apt install intel-opencl-icd; group render")
    return ok(text)


def onnxruntime(box: Box) -> Outcome:
    """The runtime every box can use."""
    try:
        answer = ask("onnxruntime")
    except HardwareError as error:
        if not installed("onnxruntime"):
            return lacking(box, "onnxruntime", "not installed", "pip install onnxruntime")
        return fail(f"cannot be imported: {error}", "reinstall onnxruntime")
    text = f"{answer['version']}: {', '.join(p.removesuffix('ExecutionProvider') for p in answer['providers'])}"
    first = detect_config(box).onnxruntime.providers[0]
    if first not in answer["providers"]:
        return fail(
            f"{text}; {first} is not among them", "correct detect.onnxruntime.providers, or install its package"
        )
    return ok(text)
