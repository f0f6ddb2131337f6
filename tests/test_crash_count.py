"""Crashes in a row: what counts, what ends a row, when safe mode begins, and why."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge_agent.crash_count import LAST_EXIT, LIMIT, NAME, RETRY_S, WELL_S, CrashCount, kernel_boot


def crashes(folder: Path, times: int, boot: str = "a") -> CrashCount:
    """A start after so many that did not end in order."""
    for _ in range(times):
        CrashCount(folder, boot)
    return CrashCount(folder, boot)


def test_starts_that_did_not_end_in_order_are_counted_until_safe_mode(tmp_path: Path) -> None:
    for number in range(LIMIT):
        start = CrashCount(tmp_path, "a")
        assert (start.in_a_row, start.safe_mode, start.crashed) == (number, "", number > 0)
    start = CrashCount(tmp_path, "a")
    assert start.in_a_row == LIMIT
    assert "ended without a word" in start.safe_mode


def test_an_end_in_order_ends_the_row(tmp_path: Path) -> None:
    crashes(tmp_path, LIMIT).ended(again=False)
    start = CrashCount(tmp_path, "a")
    assert (start.in_a_row, start.reason, start.safe_mode) == (0, "", "")


def test_time_without_a_crash_ends_the_row(tmp_path: Path) -> None:
    crashes(tmp_path, LIMIT).forgive()
    assert CrashCount(tmp_path, "a").in_a_row == 1


def test_after_a_while_it_is_well_or_tries_again(tmp_path: Path) -> None:
    start = crashes(tmp_path, 1)
    assert (start.look(WELL_S - 1), start.in_a_row) == (False, 1)
    assert (start.look(WELL_S), start.in_a_row) == (False, 0)
    safe = crashes(tmp_path, LIMIT)
    assert (safe.look(safe.retry_s - 1), safe.look(safe.retry_s)) == (False, True)
    assert safe.in_a_row >= LIMIT  # to be safe is not to be well


def test_a_configuration_that_is_wrong_is_no_crash(tmp_path: Path) -> None:
    crashes(tmp_path, 1).dismiss()
    start = CrashCount(tmp_path, "a")
    assert (start.in_a_row, start.crashed) == (1, False)


def test_the_crashes_of_a_release_that_was_taken_back_are_not_those_of_the_one_before(tmp_path: Path) -> None:
    for _ in range(LIMIT + 1):
        CrashCount(tmp_path, "a", "0.3.0")
    assert CrashCount(tmp_path, "a", "0.3.0").safe_mode
    back = CrashCount(tmp_path, "a", "0.2.0")
    assert (back.in_a_row, back.crashed, back.reason, back.safe_mode) == (0, False, "", "")
    assert CrashCount(tmp_path, "a", "0.2.0").in_a_row == 1


def test_a_power_cut_is_no_crash(tmp_path: Path) -> None:
    for boot in "abcdefgh":
        start = CrashCount(tmp_path, boot)
    assert (start.in_a_row, start.safe_mode) == (0, "")


def test_nothing_is_counted_where_the_boot_cannot_be_told(tmp_path: Path) -> None:
    assert crashes(tmp_path, 5, boot="").in_a_row == 0
    assert kernel_boot(tmp_path / "absent") == ""
    assert len(kernel_boot()) == 36


def test_a_try_out_of_safe_mode_that_crashes_goes_back_there_for_longer(tmp_path: Path) -> None:
    pauses: list[float] = []
    for _ in range(len(RETRY_S) + 2):
        start = crashes(tmp_path, LIMIT) if not pauses else CrashCount(tmp_path, "a")
        assert start.safe_mode
        pauses.append(start.retry_s)
        start.ended(again=True)
        assert not CrashCount(tmp_path, "a").safe_mode  # the try, which crashes
    assert pauses == [*RETRY_S, RETRY_S[-1], RETRY_S[-1]]


def test_a_new_boot_is_a_try_but_ends_no_row(tmp_path: Path) -> None:
    crashes(tmp_path, LIMIT)
    start = CrashCount(tmp_path, "b")
    assert (start.in_a_row, start.safe_mode) == (LIMIT, "")
    assert CrashCount(tmp_path, "b").safe_mode


def test_the_reason_is_what_the_process_said_or_else_systemd(tmp_path: Path) -> None:
    start = crashes(tmp_path, LIMIT)
    start.blame("worker detect:0: stuck for 12 s,\n allowed are 12 s")
    (tmp_path / LAST_EXIT).write_text("exit-code exited 1\n")
    assert CrashCount(tmp_path, "a").reason == "worker detect:0: stuck for 12 s, allowed are 12 s"
    assert not (tmp_path / LAST_EXIT).exists()
    assert CrashCount(tmp_path, "a").reason.startswith("ended without a word")  # not the one of before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("watchdog dumped ABRT", "no sign of life"),
        ("signal killed SEGV", "SIGSEGV"),
        ("core-dump dumped SEGV", "SIGSEGV"),
        ("oom-kill killed KILL", "memory"),
        ("timeout killed KILL", "in time"),
        ("exit-code exited 3", "exit code 3"),
        ("", "without a word"),
        ("\xff\x00", "without a word"),
    ],
)
def test_how_the_process_ended_in_words(tmp_path: Path, line: str, words: str) -> None:
    CrashCount(tmp_path, "a")
    (tmp_path / LAST_EXIT).write_text(line, encoding="latin-1")
    assert words in CrashCount(tmp_path, "a").reason


@settings(max_examples=20)
@given(content=st.binary(max_size=300))
def test_a_damaged_file_counts_from_zero(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("state")
    (folder / NAME).write_bytes(content)
    assert CrashCount(folder, "a").in_a_row == 0
    assert CrashCount(folder, "a").in_a_row == 1


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.new").mkdir()
    start = CrashCount(tmp_path, "a")
    start.blame("x")
    assert start.safe_mode == ""


class Life(RuleBasedStateMachine):
    """Against a model: the number of crashes since the last end in order or time of health."""

    def __init__(self) -> None:
        super().__init__()
        self._place = tempfile.TemporaryDirectory()
        self.folder = Path(self._place.name)
        self.boot, self.row = "0", 0
        self.count = CrashCount(self.folder, self.boot)

    def teardown(self) -> None:
        self._place.cleanup()

    @rule()
    def crash(self) -> None:
        self.row += 1
        self.count = CrashCount(self.folder, self.boot)

    @rule()
    def power_cut(self) -> None:
        self.boot = str(int(self.boot) + 1)
        self.count = CrashCount(self.folder, self.boot)

    @rule()
    def stop(self) -> None:
        self.row = 0
        self.count.ended(again=False)
        self.count = CrashCount(self.folder, self.boot)

    @rule()
    def again(self) -> None:
        self.count.ended(again=True)
        self.count = CrashCount(self.folder, self.boot)

    @rule()
    def well(self) -> None:
        self.row = 0
        self.count.forgive()

    @invariant()
    def counted(self) -> None:
        assert self.count.in_a_row == self.row
        assert bool(self.count.safe_mode) == (self.count.crashed and self.row >= LIMIT)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=15, stateful_step_count=15)  # each step waits for the disk
