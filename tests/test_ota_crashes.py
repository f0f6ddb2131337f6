"""A sample of the crashes of ``benchmarks/ota_attacks.py``: there all of them are tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import config_crashes
from tests.ota_attacks import World, world
from tests.ota_crashes import WITHOUT_FSYNC, kills, power_cuts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.advance()
        yield made


def test_a_power_cut_leaves_a_valid_model_and_the_update_goes_on(scene: World, tmp_path: Path) -> None:
    found = list(power_cuts(scene, tmp_path, every=10))
    assert [crash for crash in found if crash.faults] == []
    assert len(found) > 15
    # Whether every tenth disk is one on which the new model is active already depends on how often progress was written.
    assert "1.0" in {crash.active for crash in found} <= {"1.0", "2.0"}


def test_a_signed_configuration_survives_them_too(tmp_path: Path, root: Path) -> None:
    made = config_crashes.scene(tmp_path, root / "models")
    found = [
        *config_crashes.power_cuts(made, tmp_path, every=8),
        *config_crashes.kills(made, [("rename", 5), ("fsync", 9)]),
    ]
    assert [crash for crash in found if crash.faults] == []
    assert len(found) > 6 and {crash.active for crash in found} == {"0", "1"}


def test_a_program_that_trusts_the_disk_would_be_caught(scene: World, tmp_path: Path) -> None:
    program = ("-c", WITHOUT_FSYNC)
    faults = {fault for crash in power_cuts(scene, tmp_path, every=3, program=program) for fault in crash.faults}
    assert {"no valid model is active", "timestamp.json is torn"} <= faults


def test_kill_9_leaves_a_valid_model_and_the_update_goes_on(scene: World, tmp_path: Path) -> None:
    found = list(kills(scene, tmp_path, [("rename", 1), ("rename", 15), ("fsync", 20), ("fsync", 42), ("unlinkat", 5)]))
    assert [crash for crash in found if crash.faults] == []
    assert not any("it had ended" in crash.point for crash in found)
    assert {crash.active for crash in found} == {"1.0", "2.0"}
