"""What every device memory must do. Collected by ``test_device_memory.py`` on a real GPU, and run by it on a driver without one.

On the driver without a device (``tests/fake_cuda``) it is also counted whether everything was given back.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from edge_agent.detect.backends.tensorrt.memory import PACKAGES, DeviceMemory, installed, open_memory
from edge_agent.errors import HardwareError

WHAT = ("device", "host", "streams", "graphs", "pushed")
F32 = np.dtype(np.float32)


def left() -> dict[str, int]:
    """What the driver still holds for this process; empty on a real one, which cannot be asked."""
    library = ctypes.CDLL("libcuda.so.1")
    if not hasattr(library, "fake_count"):
        return {}
    return {what: n for what in WHAT if (n := library.fake_count(what.encode()))}


@pytest.fixture(params=list(PACKAGES))
def name(request: pytest.FixtureRequest) -> str:
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture(autouse=True, scope="session")
def _contexts_are_given_back() -> Iterator[None]:
    yield
    library = ctypes.CDLL("libcuda.so.1")
    if hasattr(library, "fake_count"):
        assert library.fake_count(b"retained") == installed("pycuda")  # which keeps one for the process


@pytest.fixture
def memory(name: str) -> Iterator[DeviceMemory]:
    opened = open_memory(name, 0)
    yield opened
    opened.close()
    opened.close()
    assert left() == {}


def test_a_tensor_goes_to_the_device_and_back(memory: DeviceMemory) -> None:
    with memory.current():
        stream = memory.stream()
        buffer = stream.buffer((2, 3, 5), F32)
        assert stream.handle and buffer.address and not buffer.host.any()
        assert buffer.host.flags.c_contiguous and buffer.host.flags.writeable
        values = np.arange(30, dtype=np.float32).reshape(2, 3, 5)
        buffer.host[...] = values
        buffer.upload()
        stream.synchronize()
        buffer.host[...] = -1
        buffer.download()
        stream.synchronize()
        assert np.array_equal(buffer.host, values)
        stream.close()
        stream.close()


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int32", "int64", "bool"])
def test_every_type_has_its_own_size(memory: DeviceMemory, dtype: str) -> None:
    with memory.current():
        stream = memory.stream()
        one, other = stream.buffer((7,), np.dtype(dtype)), stream.buffer((), np.dtype(dtype))
        assert one.host.shape == (7,) and other.host.shape == () and one.host.dtype == dtype
        one.host[...] = 1
        one.upload()
        one.host[...] = 0
        one.download()
        stream.synchronize()
        assert one.host.all()
        stream.close()


def test_nothing_works_without_the_context(memory: DeviceMemory) -> None:
    with pytest.raises(HardwareError, match="CUDA"):
        memory.stream()


def test_the_context_is_current_in_the_thread_that_asks_and_nests(memory: DeviceMemory) -> None:
    with memory.current():
        with memory.current():
            stream = memory.stream()
        buffer = stream.buffer((4,), F32)
        failures: list[str] = []

        def other() -> None:
            try:
                stream.synchronize()
            except HardwareError as error:
                failures.append(str(error))
            with memory.current():
                buffer.upload()
                stream.synchronize()
                mine = memory.stream()
                mine.buffer((4,), F32).upload()
                mine.synchronize()
                mine.close()

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        assert failures or not left()  # a real driver may forgive synchronising without a context
        stream.close()


def test_two_threads_with_streams_of_their_own(memory: DeviceMemory) -> None:
    results: list[bool] = []

    def work(value: int) -> None:
        for _ in range(50):
            with memory.current():
                stream = memory.stream()
                buffer = stream.buffer((1000,), F32)
                buffer.host[...] = value
                buffer.upload()
                stream.synchronize()
                buffer.host[...] = 0
                buffer.download()
                stream.synchronize()
                results.append(bool((buffer.host == value).all()))
                stream.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 100


def test_what_another_thread_made_can_be_freed_here(memory: DeviceMemory) -> None:
    made = []

    def make() -> None:
        with memory.current():
            made.append(memory.stream())
            made[0].buffer((3,), F32)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(20)
    with memory.current():
        made[0].close()


def test_out_of_memory_is_an_error_and_takes_nothing(memory: DeviceMemory) -> None:
    with memory.current():
        stream = memory.stream()
        with pytest.raises(HardwareError, match=r"CUDA.*(OUT_OF_MEMORY|out of memory)"):
            stream.buffer((1 << 48,), F32)
        stream.buffer((4,), F32).upload()
        stream.synchronize()
        stream.close()


def test_no_such_device(name: str) -> None:
    with pytest.raises(HardwareError, match="CUDA"):
        open_memory(name, 63)


def test_a_context_can_be_opened_again(name: str) -> None:
    for _ in range(3):
        memory = open_memory(name, 0)
        with memory.current():
            memory.stream().close()
        memory.close()
    assert left() == {}


def test_it_can_be_closed_in_another_thread(name: str) -> None:
    memory = open_memory(name, 0)
    thread = threading.Thread(target=memory.close)
    thread.start()
    thread.join(20)
    assert left() == {}


def test_the_context_is_popped_when_the_work_fails(memory: DeviceMemory) -> None:
    with pytest.raises(ZeroDivisionError), memory.current():
        raise ZeroDivisionError
    assert "pushed" not in left()


def test_a_graph_repeats_what_was_recorded(memory: DeviceMemory, name: str) -> None:
    with memory.current():
        stream = memory.stream()
        buffer = stream.buffer((8,), F32)
        buffer.host[...] = 1
        if name == "pycuda":
            with pytest.raises(HardwareError, match="cuda-bindings"):
                stream.record(buffer.upload)
        else:
            replay = stream.record(buffer.upload)
            buffer.host[...] = 5
            replay()
            stream.synchronize()
            buffer.host[...] = 0
            buffer.download()
            stream.synchronize()
            assert (buffer.host == 5).all()
        stream.close()


def test_a_recording_that_fails_leaves_the_stream_usable(memory: DeviceMemory, name: str) -> None:
    if name == "pycuda":
        pytest.skip("pycuda cannot record CUDA graphs")
    with memory.current():
        stream = memory.stream()

        def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            stream.record(fail)
        stream.synchronize()
        stream.close()
        if graphs := left().get("graphs"):
            pytest.fail(f"{graphs} graphs were left")


def test_auto_takes_the_first_that_is_there(name: str) -> None:
    memory = open_memory("auto", 0)
    assert memory.name == next(filter(installed, PACKAGES))
    memory.close()


def test_both_packages_are_looked_for() -> None:
    assert installed("pycuda") == (importlib.util.find_spec("pycuda") is not None)
