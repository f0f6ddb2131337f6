"""What every backend must do, on this machine for real. A further backend is one more row in ``backend_rows.py``."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.detect.backends import Backend
from edge_agent.detect.backends.onnxruntime import trim_heap
from edge_agent.detect.manifest import Network
from edge_agent.errors import HardwareError, InferenceError, ModelError
from tests.conformance.backend_rows import (
    ROWS,
    Case,
    Row,
    assert_close,
    available,
    load,
    network,
    picture,
    reference,
)


def marks(row: Row) -> list[pytest.MarkDecorator]:
    return [getattr(pytest.mark, row.hardware)] if row.hardware else []


ROW = pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=marks(row)) for row in ROWS])
EVERYWHERE = pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
CASE = pytest.mark.parametrize(
    ("row", "case"),
    [pytest.param(row, case, id=f"{row.name}-{case.name}", marks=marks(row)) for row in ROWS for case in row.cases],
)


@pytest.fixture(autouse=True)
def hardware(row: Row, request: pytest.FixtureRequest) -> None:
    if row.hardware and request.node.get_closest_marker(row.hardware) and (reason := available(row)):
        pytest.skip(reason)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def backend(row: Row, folder: Path) -> Any:
    loaded = load(row, network(row.cases[0], folder))
    yield loaded
    loaded.close()


def left(folder: Path) -> set[str]:
    """Everything that a load could leave: files beside the model and in the cache, open descriptors."""
    gc.collect()  # a traceback of the failed load is a ring
    opened = [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]
    return {str(p) for p in folder.parent.rglob("*")} | {f"open: {path}" for path in opened if str(folder) in path}


def refusal(row: Row, network: Network) -> str:
    """The ModelError's text only: its traceback would hold on to what the failed load had in hand."""
    with pytest.raises(ModelError) as refused:
        load(row, network)
    return str(refused.value)


@CASE
def test_answers_like_the_reference(row: Row, case: Case, folder: Path) -> None:
    backend = load(row, network(case, folder))
    wanted = backend.input
    assert wanted.dtype == np.dtype(case.dtype) and wanted.layout == case.layout
    assert list(wanted.shape) == case.shape
    run = backend.runner()
    for seed in (1, 2):
        tensor, real = picture(wanted, seed)
        assert_close(case, run(tensor), reference(case, real))
        tensor[:], real = picture(wanted, seed + 10)  # the same memory, as the preprocessor has it
        assert_close(case, run(tensor), reference(case, real))
    backend.close()


@ROW
def test_outputs_come_in_the_order_of_the_manifest(row: Row, folder: Path) -> None:
    case = row.cases[0]
    forward = load(row, network(case, folder))
    tensor, _ = picture(forward.input, 1)
    outputs = [o.copy() for o in forward.runner()(tensor)]
    for names in (case.outputs[::-1], case.outputs[1:]):
        other = load(row, network(case, folder, outputs=names)).runner()(tensor)
        expected = [outputs[case.outputs.index(name)] for name in names]
        for ours, theirs in zip(other, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@ROW
def test_says_where_it_runs_and_how_many_may_call(row: Row, backend: Backend) -> None:
    assert backend.device.strip() == backend.device != ""
    assert 1 <= backend.concurrency <= 64


@ROW
def test_a_closed_backend_gives_no_runner(row: Row, backend: Backend) -> None:
    """It does so in words: another thread may have asked while it was being closed."""
    backend.close()
    with pytest.raises(HardwareError, match="closed"):
        backend.runner()


@ROW
def test_outputs_stay_until_the_runners_own_next_call(row: Row, backend: Backend) -> None:
    one, other = backend.runner(), backend.runner()
    tensors = [picture(backend.input, seed) for seed in range(4)]
    outputs = one(tensors[0][0])
    copies = [o.copy() for o in outputs]
    for tensor, _ in tensors[1:]:
        other(tensor)
    for ours, copy in zip(outputs, copies, strict=True):
        np.testing.assert_array_equal(ours, copy)
    assert_close(row.cases[0], one(tensors[1][0]), reference(row.cases[0], tensors[1][1]))


@ROW
def test_threads_with_runners_of_their_own_get_the_answers_of_one(row: Row, backend: Backend) -> None:
    case = row.cases[0]
    tensors = [picture(backend.input, seed) for seed in range(16)]
    failures: list[BaseException] = []

    def work(part: int) -> None:
        try:
            run = backend.runner()
            for _ in range(5):
                for tensor, real in tensors[part::2]:
                    assert_close(case, run(tensor), expected[id(real)])
        except BaseException as error:  # noqa: BLE001  (shown by the test's own thread)
            failures.append(error)

    expected = {id(real): reference(case, real) for _, real in tensors}
    threads = [threading.Thread(target=work, args=(part % 2,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


@ROW
@pytest.mark.parametrize("change", ["name", "size", "layout", "dtype", "outputs"])
def test_a_manifest_that_does_not_fit_is_refused_with_both_sides(row: Row, folder: Path, change: str) -> None:
    case = row.cases[0]
    square, turned = replace(case, size=(80, 80)), replace(case, layout="NHWC" if case.layout == "NCHW" else "NCHW")
    changes: dict[str, tuple[Any, list[str]]] = {
        "name": ("picture", [repr("picture"), case.input_name]),
        "size": ((80, 80), [str(case.shape), str(square.shape)]),
        "layout": (turned.layout, [str(case.shape), str(turned.shape)]),
        "dtype": (
            "int8" if case.dtype == "uint8" else "uint8",
            ["uint8", "int8" if case.dtype == "uint8" else case.dtype],
        ),
        "outputs": ((case.outputs[0], "nothing"), ["nothing", *case.outputs]),
    }
    value, says = changes[change]
    wrong = network(case, folder, **{change: value})
    before = left(folder)
    message = refusal(row, wrong)
    assert all(word in message for word in [*says, "tiny@1", "manifest"]), message
    assert left(folder) == before


@ROW
@pytest.mark.parametrize("damage", ["truncated", "empty", "random", "foreign"])
def test_a_damaged_file_is_refused_and_leaves_nothing(row: Row, folder: Path, damage: str) -> None:
    case = row.cases[0]
    whole = case.files(_made(folder.parent / "whole"))[0].read_bytes()
    foreign = b"\x89PNG\r\n\x1a\n" + bytes(2000)
    data = {
        "truncated": whole[: len(whole) * 2 // 3],
        "empty": b"",
        "random": np.random.default_rng(3).bytes(4000),
        "foreign": foreign,
    }[damage]

    def files(into: Path) -> list[Path]:
        made = case.files(into)
        made[0].write_bytes(data)
        return made

    damaged = network(replace(case, files=files), folder)
    before = left(folder)
    message = refusal(row, damaged)
    assert damaged.file.path in message and len(message) < 1000
    assert left(folder) == before


@ROW
def test_a_file_that_was_replaced_is_refused(row: Row, folder: Path) -> None:
    replaced = network(row.cases[0], folder)
    for path in (replaced.path, *(folder / part.path for part in replaced.file.parts)):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        before = left(folder)
        with pytest.raises(ModelError, match="SHA-256"):
            load(row, replaced)
        assert left(folder) == before
        path.unlink()
        with pytest.raises(ModelError, match="is the model complete"):
            load(row, replaced)
        path.write_bytes(data)
    load(row, replaced).close()


@ROW
def test_a_tensor_that_does_not_fit_fails_one_frame(row: Row, backend: Backend) -> None:
    run = backend.runner()
    good, real = picture(backend.input, 1)
    run(good)
    with pytest.raises(InferenceError):
        run(np.zeros((1, 8, 8, 8), good.dtype))
    assert_close(row.cases[0], run(good), reference(row.cases[0], real))


@ROW
def test_no_value_is_a_crash(row: Row, folder: Path) -> None:
    case = next((case for case in row.cases if case.dtype == "float32"), row.cases[0])
    backend = load(row, network(case, folder))
    tensor, real = picture(backend.input, 1)
    run = backend.runner()
    for value in (np.nan, np.inf, -np.inf, 3e38) if case.dtype == "float32" else (-128, 127):
        assert len(run(np.full_like(tensor, value))) == len(case.outputs)
    assert_close(case, run(tensor), reference(case, real))


@ROW
def test_is_available_here(row: Row) -> None:
    assert available(row) == ""


CHILD = """
import sys
from pathlib import Path
{before}
from tests.conformance.backend_rows import ROWS, available, load, network, picture
from edge_agent.errors import HardwareError, ModelError
row = next(row for row in ROWS if row.name == sys.argv[1])
tiny = network(row.cases[0], Path(sys.argv[2]))
{after}
"""


def child(row: Row, folder: Path, before: str, after: str, **environment: str) -> list[str]:
    """Lines that a fresh interpreter prints: modules that were imported once cannot be kept out any more."""
    code = CHILD.format(before=before, after=after)
    keep = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code, row.name, str(folder), ",".join(row.packages)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        env=keep | environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


BLOCKER = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_others(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in sys.argv[3].split(",") else find(name, path, target)
PathFinder.find_spec = classmethod(find_others)
"""
TRY = """
print(available(row))
try:
    load(row, tiny)
except HardwareError as error:
    print(type(error).__name__, error)
"""
LISTENER = """
sys.addaudithook(lambda event, args: event.startswith(("socket.", "urllib.")) and print(event, args))
"""
USE = """
assert available(row) == ""
backend = load(row, tiny)
backend.runner()(picture(backend.input, 1)[0])
for link in Path("/proc/self/fd").iterdir():
    if link.is_symlink() and "socket:" in str(link.readlink()):
        print(link.readlink())
"""


BREAKER = """
import types, importlib.machinery
class Breaker:
    def find_spec(self, name, path=None, target=None):
        mine = name.partition(".")[0] in sys.argv[3].split(",")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if mine else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        raise AttributeError("_ARRAY_API not found")
sys.meta_path.insert(0, Breaker())
"""
ASK = """
print(available(row) or "installed, as far as that shows without an import")
"""


@EVERYWHERE
@pytest.mark.slow
def test_a_broken_package_is_a_sentence(row: Row, folder: Path) -> None:
    [said] = child(row, folder, BREAKER, ASK)
    assert len(said) > 15


@EVERYWHERE
@pytest.mark.slow
def test_a_missing_package_says_what_to_install(row: Row, folder: Path) -> None:
    why, refused = child(row, folder, BLOCKER, TRY)
    assert row.install in why
    assert refused.startswith("HardwareError") and row.install in refused


@ROW
@pytest.mark.slow
def test_calls_nobody_and_writes_nothing_at_home(row: Row, folder: Path, tmp_path: Path) -> None:
    home = _made(tmp_path / "home")
    assert child(row, folder, LISTENER, USE, HOME=str(home)) == []
    assert list(home.rglob("*")) == []


def usage() -> tuple[int, int, float]:
    """Threads, descriptors, resident MB."""
    gc.collect()
    trim_heap()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    tasks, files = (len(list(Path("/proc/self", what).iterdir())) for what in ("task", "fd"))
    return tasks, files, pages * os.sysconf("SC_PAGESIZE") / 2**20


FLIP = """
import contextlib
from dataclasses import replace
import numpy as np
from edge_agent.errors import InferenceError
case, whole = row.cases[0], tiny.path.read_bytes()
for seed in range(30):
    random, data = np.random.default_rng(seed), bytearray(whole)
    for place in random.integers(0, len(data), random.integers(1, 8)):
        data[place] = random.integers(0, 256)
    def files(into):
        made = case.files(into)
        made[0].write_bytes(data)
        return made
    with contextlib.suppress(ModelError, InferenceError):
        backend = load(row, network(replace(case, files=files), Path(sys.argv[2])))
        backend.runner()(picture(backend.input, 1)[0])
        backend.close()
"""


@ROW
@pytest.mark.slow
def test_flipped_bytes_are_an_answer_or_our_error(row: Row, folder: Path) -> None:
    """In a child process, as ``model import`` does it: a runtime may still fall over a file that nobody made on purpose."""
    assert child(row, folder, "", FLIP) == []


@ROW
@pytest.mark.slow
def test_closing_gives_everything_back(row: Row, folder: Path) -> None:
    fresh = network(row.cases[0], folder)

    def cycle() -> None:
        backend = load(row, fresh)
        backend.runner()(picture(backend.input, 1)[0])
        backend.close()

    for _ in range(5):
        cycle()
    threads, files, megabytes = usage()
    for _ in range(20):
        cycle()
    after = usage()
    assert after[0] <= threads and after[1] <= files
    assert after[2] - megabytes < 6, "MB more after 20 loads"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
