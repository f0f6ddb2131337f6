"""On a real Coral Edge TPU. Never run where this was written; to run it on a box that has one::

    EDGETPU_MODEL=model_edgetpu.tflite EDGETPU_CPU_MODEL=model.tflite python -m pytest -m edgetpu -s tests/test_tflite_edgetpu.py

The two files are one full-integer network before and after ``edgetpu_compiler``. Without them the tests compile the
committed network themselves, where ``edgetpu_compiler`` is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.config import DetectConfig
from edge_agent.detect.backends import LoadRequest
from edge_agent.detect.backends.tflite import TfliteBackend, accelerator, edge_tpus
from edge_agent.detect.manifest import InputSpec, Manifest, ModelFile, Network
from tests.tflite_fixtures import NETWORKS

MISSING = accelerator(DetectConfig())
pytestmark = [
    pytest.mark.edgetpu,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs a Coral Edge TPU: {MISSING}"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The network for the Edge TPU and for the CPU."""
    if "EDGETPU_MODEL" in os.environ:
        return Path(os.environ["EDGETPU_MODEL"]), Path(os.environ["EDGETPU_CPU_MODEL"])
    compiler = shutil.which("edgetpu_compiler")
    if compiler is None:
        pytest.skip("no compiled network: set EDGETPU_MODEL and EDGETPU_CPU_MODEL, or install edgetpu_compiler")
    folder = tmp_path_factory.mktemp("edgetpu")
    cpu = Path(shutil.copy(NETWORKS / "int8.tflite", folder))
    subprocess.run([compiler, "-o", str(folder), str(cpu)], check=True, capture_output=True, timeout=120)
    return folder / "int8_edgetpu.tflite", cpu


def network(path: Path, compiled: bool) -> Network:
    """A manifest for a file of any size, written from what the file says."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAsModel(path.read_bytes(), 0).Subgraphs(0)
    image = graph.Tensors(graph.Inputs(0))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    device = "edgetpu" if compiled else "any"
    file = ModelFile(backend="tflite", path=path.name, sha256=digest, precision="int8", device=device)
    manifest = Manifest(
        manifest=1,
        name="under-test",
        version="1",
        family="yolov8",
        licence="unknown",
        labels=("a",),
        input=InputSpec(
            name=image.Name().decode(),
            size=(image.Shape(2), image.Shape(1)),
            layout="NHWC",
            dtype="int8" if image.Type() == schema.TensorType.INT8 else "uint8",
            colour="RGB",
        ),
        outputs=tuple(graph.Tensors(graph.Outputs(i)).Name().decode() for i in range(graph.OutputsLength())),
        files=(file,),
    )
    return Network(manifest, file, path.parent)


def load(net: Network, *devices: str) -> TfliteBackend:
    config = DetectConfig.model_validate({"tflite": {"devices": list(devices)}})
    return TfliteBackend(LoadRequest(net, config, net.folder))


def noise(backend: TfliteBackend, seed: int) -> NDArray[Any]:
    """Light and dark blocks: single pixels at random are a grey nothing to most networks."""
    info = np.iinfo(backend.input.dtype)
    _, height, width, _ = backend.input.shape
    small = (1, -(-height // 8), -(-width // 8), 3)
    blocks = np.random.default_rng(seed).integers(info.min, info.max + 1, small, backend.input.dtype)
    return np.ascontiguousarray(blocks.repeat(8, 1).repeat(8, 2)[:, :height, :width])


def test_it_runs_and_gives_what_the_cpu_gives(files: tuple[Path, Path]) -> None:
    chip, cpu = load(network(files[0], compiled=True), edge_tpus()[0]), load(network(files[1], compiled=False))
    assert chip.device.startswith("edgetpu")
    on_chip, on_cpu = chip.runner(), cpu.runner()
    for seed in range(20):
        tensor = noise(chip, seed)
        for place, ours, theirs in zip(on_cpu._chain.results, on_chip(tensor), on_cpu(tensor), strict=True):
            scale = on_cpu._chain.info(place).scale
            # The chip rounds a little otherwise: some steps of a quantised output, which has 256.
            tolerance = 1e-6 + (0.02 * float(np.ptp(theirs)) if scale is None else 5 * float(scale.max()))
            assert np.mean(np.abs(ours - theirs) <= tolerance) > 0.99
    chip.close()
    cpu.close()


def test_latency(files: tuple[Path, Path]) -> None:
    medians = {}
    for name, backend in (
        ("edgetpu", load(network(files[0], compiled=True), edge_tpus()[0])),
        ("cpu", load(network(files[1], compiled=False))),
    ):
        runner, tensor, times = backend.runner(), noise(backend, 0), []
        for _ in range(200):
            start = time.perf_counter()
            runner(tensor)
            times.append(time.perf_counter() - start)
        medians[name] = statistics.median(times[20:]) * 1000
        backend.close()
    print("\nmedian of one inference: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in medians.items()))
    assert all(ms < 1000 for ms in medians.values())


def test_a_device_is_free_again_after_close(files: tuple[Path, Path]) -> None:
    for _ in range(3):
        backend = load(network(files[0], compiled=True), edge_tpus()[0])
        backend.runner()(noise(backend, 0))
        backend.close()


@pytest.mark.skipif(len(edge_tpus()) < 2, reason="needs two Coral Edge TPUs")
def test_two_devices_work_at_the_same_time(files: tuple[Path, Path]) -> None:
    backend = load(network(files[0], compiled=True))
    assert backend.concurrency == len(edge_tpus())
    tensor = noise(backend, 1)
    runners = [backend.runner() for _ in range(2)]
    expected = [output.copy() for output in runners[0](tensor)]
    right: list[int] = []

    def same(number: int) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(runners[number](tensor), expected, strict=True))

    def work(number: int) -> None:
        right.append(sum(same(number) for _ in range(200)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert right == [200, 200]
    backend.close()
