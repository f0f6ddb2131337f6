"""Store and activation together, with a real repository: steps, crashes between them, and what is left on the disk."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.errors import (
    ActivationFailed,
    Busy,
    DownloadError,
    HardwareError,
    Interrupted,
    ModelError,
    NoRoom,
    UpdateError,
)
from edge_agent.ota.job import Stored
from edge_agent.ota.store import ModelStore
from tests.ota_fixtures import MODEL, Client, Mirror, make_operator, mirror_of


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    operator = make_operator(tmp_path / "operator", root_keys=1, threshold=1)
    operator.publish("1.0")
    with mirror_of(operator, tmp_path / "mirror") as made:
        yield made


@pytest.fixture
def box(mirror: Mirror, tmp_path: Path) -> Client:
    """On which 1.0 is active and 2.0 is offered."""
    assert mirror.server is not None
    client = Client(tmp_path / "box", mirror.server.url, mirror.operator.root)
    client.update()
    mirror.operator.publish("2.0")
    mirror.copy()
    client.workshop.done.clear()
    return client


@dataclass
class Detectors:
    """Fulfils ``Serving``."""

    warmed: list[Path] = field(default_factory=list)
    swaps: int = 0
    broken: Exception | None = None

    def warm(self, folder: Path) -> None:
        self.warmed.append(folder)
        if self.broken is not None:
            raise self.broken

    def swap(self) -> None:
        self.swaps += 1


def version(stored: Stored) -> str | None:
    return stored.active.version if stored.active is not None else None


def bundles(box: Client) -> set[str]:
    return {path.name for path in (box.state / "models" / "bundles").iterdir()}


# ---- the way


def test_step_by_step_to_the_end(box: Client) -> None:
    told: list[tuple[str, float | None]] = []
    client = box.client()
    offer = client.look(MODEL)
    activation = box.activation(
        boot="b", tell=lambda stored, done: told.append((stored.job.state if stored.job else "", done))
    )
    job = activation.install(client, offer, threading.Event())
    assert job is not None and job.state == "warming"
    assert box.workshop.done == ["compile", "self_test"]
    assert version(box.store.read()) == "1.0"
    serving = Detectors()
    assert activation.activate(serving).state == "probation"
    assert (serving.swaps, serving.warmed) == (1, [box.store.place(offer.bundle)])
    assert version(box.store.read()) == "2.0" and len(bundles(box)) == 2
    activation.confirm()
    states = [state for state, _ in told]
    assert list(dict.fromkeys(states)) == [
        *("downloading", "verified", "compiling", "self_testing", "warming", "probation", "confirmed")
    ]
    assert ("downloading", 1.0) in told
    assert activation.install(client, client.look(MODEL), threading.Event()) is None  # it is active already
    assert list((box.state / "ota" / "downloads").iterdir()) == []


def test_a_third_version_clears_the_first_away(box: Client, mirror: Mirror) -> None:
    box.update()
    assert len(bundles(box)) == 2
    mirror.operator.publish("3.0")
    mirror.copy()
    stored = box.update()
    assert stored.kept == bundles(box) and len(stored.kept) == 2
    assert stored.previous is not None and stored.previous.version == "2.0"


@pytest.mark.parametrize("error", [ActivationFailed("blind"), ModelError("no file"), HardwareError("no driver")])
def test_what_fails_its_test_never_serves(box: Client, error: Exception) -> None:
    def fail(_: Path) -> None:
        raise error

    box.workshop.testing = fail
    job = box.install()
    assert job is not None and (job.state, job.detail) == ("rolled_back", str(error))
    assert job.reason == ("self_test" if isinstance(error, ActivationFailed) else "self_testing")
    stored = box.store.read()
    assert version(stored) == "1.0" and stored.kept == bundles(box)
    assert [rejection.sha256 for rejection in stored.rejected] == [job.bundle.sha256]
    box.workshop.testing = lambda _: None
    assert (job := box.install(again=True)) is not None and job.state == "warming"


def test_a_detector_that_does_not_take_over_is_rolled_back(box: Client) -> None:
    box.install()
    activation, serving = box.activation(), Detectors(broken=ModelError("other labels"))
    job = activation.activate(serving)
    assert (job.state, job.reason, serving.swaps) == ("rolled_back", "warming", 0)
    assert version(box.store.read()) == "1.0"


def test_probation_that_is_not_passed_brings_the_old_one_back(box: Client) -> None:
    box.install()
    activation = box.activation(boot="b")
    activation.activate(Detectors())
    activation.roll_back("latency", "twice as slow")
    stored = box.store.read()
    assert version(stored) == "1.0" and stored.job is not None and stored.job.reason == "latency"
    assert bundles(box) == stored.kept


def test_a_crash_loop_is_noticed_before_the_model_is_loaded_again(box: Client) -> None:
    box.install()
    box.activation(boot="b").activate(Detectors())
    for _ in range(2):
        assert version(box.activation(boot="b").stored) == "2.0"
    stored = box.activation(boot="b").stored
    assert version(stored) == "1.0" and stored.job is not None and stored.job.reason == "crash_loop"


# ---- between the steps


def test_what_was_interrupted_goes_on_where_it_was(box: Client, mirror: Mirror) -> None:
    client, cancel = box.client(), threading.Event()
    assert mirror.server is not None

    def stop(_: Path) -> None:
        cancel.set()
        raise Interrupted("stopped")

    box.workshop.testing = stop
    with pytest.raises(Interrupted):
        box.activation().install(client, client.look(MODEL), cancel)
    job = box.store.read().working
    assert job is not None and (job.state, job.attempts) == ("self_testing", 0)
    box.workshop.testing = lambda _: None
    mirror.server.asked.clear()
    job = box.install()
    assert job is not None and job.state == "warming"
    assert not [name for name in mirror.server.asked if name.endswith(".tar")]
    assert box.workshop.done == ["compile", "self_test", "self_test"]


def test_a_line_that_breaks_leaves_the_job_to_be_taken_up(box: Client, mirror: Mirror) -> None:
    target = mirror.target(mirror.bundle("2.0"))
    mirror.answers[target] = lambda handler: handler.send_error(503)
    with pytest.raises(DownloadError, match="status 503"):
        box.install()
    job = box.store.read().working
    assert job is not None and (job.state, job.attempts) == ("downloading", 0)
    del mirror.answers[target]
    assert (job := box.install()) is not None and job.state == "warming"


def test_a_step_that_takes_the_process_down_each_time_ends(box: Client) -> None:
    class Killed(BaseException):
        pass

    def die(_: Path) -> None:
        raise Killed

    box.workshop.testing = die
    for _ in range(3):
        with pytest.raises(Killed):
            box.install()
    job = box.install()
    assert job is not None and (job.state, job.reason) == ("rolled_back", "interrupted")
    assert version(box.store.read()) == "1.0"


def test_a_bundle_that_rots_is_replaced_by_what_is_next(box: Client, caplog: pytest.LogCaptureFixture) -> None:
    stored = box.update()
    assert stored.active is not None and stored.previous is not None
    path = box.store.place(stored.active) / "network.onnx"
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    assert version(box.activation().stored) == "1.0"
    assert "eyes@2.0, active, is gone or damaged" in caplog.text
    shutil.rmtree(box.store.place(stored.previous))
    assert version(box.activation().stored) is None
    assert bundles(box) == set()
    assert version(box.update()) == "2.0"  # and the repository heals it


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format": 2}', b'{"active": 7}', b"[" * 70_000])
def test_a_state_that_cannot_be_read_counts_as_none(box: Client, content: bytes) -> None:
    (box.state / "models" / "state.json").write_bytes(content)
    stored = box.activation().stored
    assert stored == Stored() == box.store.read()
    assert len(bundles(box)) == 1  # for this time: somebody may want to look
    assert version(box.update()) == "2.0"


# ---- the store


def test_one_at_a_time(box: Client) -> None:
    with box.store.lock(), pytest.raises(Busy, match="another process"), ModelStore(box.state / "models").lock():
        pass
    with box.store.lock():
        pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    store = ModelStore(tmp_path / "models")
    with pytest.raises(UpdateError, match="models: "), store.lock():
        pass
    with pytest.raises(UpdateError, match="models: "):
        store.write(Stored())


def test_a_full_disk_leaves_nothing_of_it(box: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = bundles(box)
    monkeypatch.setattr("edge_agent.ota.store.unpack", full)
    with pytest.raises(NoRoom, match="No space left"):
        box.install()
    assert bundles(box) == before
    job = box.store.read().working
    assert job is not None and job.state == "downloading"
