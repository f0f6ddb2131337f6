"""Fixtures that every part's tests share. What belongs to one part lives in a helper module of its own."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from edge_agent.detect.manifest import Model, find_model
from tests import contract

hypothesis.settings.register_profile("usual", deadline=None, max_examples=50)  # a slow machine is no failure
hypothesis.settings.register_profile(
    "thorough", deadline=None, max_examples=1000
)  # pytest --hypothesis-profile=thorough
hypothesis.settings.load_profile("usual")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before any import of onnxruntime
for _name in [name for name in os.environ if name.startswith("EDGE_AGENT_")]:
    del os.environ[_name]  # a developer's own settings must not change what is tested
# A build server may run us under nohup or in the background of a shell, which ignore these; programs we start inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(autouse=True)
def _root_logger_stays() -> Iterator[None]:
    """A verb that runs in this process logs to the stderr of its test, which is closed when the next one comes."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def bundled(root: Path) -> Model:
    """The model for CPUs that comes with the agent; ``networks(backend)[0]`` is the one in floats."""
    return find_model("person-n", root / "models")


@pytest.fixture(scope="session", autouse=True)
def _contract_watched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        contract.watch(patch)
        yield


@pytest.fixture(autouse=True)
def _contract_kept(_contract_watched: None) -> Iterator[None]:
    """A message that breaks the contract fails the test that made it."""
    yield
    contract.check_outboxes()
    assert not contract.take_faults()


@pytest.fixture
def models(bundled: Model, tmp_path: Path) -> Path:
    """A folder of models with ``bundled`` alone in it, to be changed at will."""
    shutil.copytree(bundled.folder, tmp_path / "models" / "person-n" / "1.0.0")
    return tmp_path / "models"


@pytest.fixture(scope="session")
def vtest_video() -> Path:
    """The pedestrian video (768x576, 795 frames, true rate 7 fps), fetched once and kept in ``.cache/``; never skips."""
    script = ROOT / "scripts" / "fetch_pedestrian_video.sh"
    done = subprocess.run([script], check=False, cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return ROOT / ".cache" / "vtest.avi"
