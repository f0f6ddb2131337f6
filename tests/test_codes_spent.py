"""A one-time token serves once: after a restart, after a kill at any moment, and with a file that is damaged or full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.codes.spent import SpentTokens
from edge_agent.errors import TokenRefused
from edge_agent.types import Token

NOW = 1_800_000_000.0


def one(ident: str = "00" * 8, **changes: object) -> Token:
    made = Token("valid", ident, "door", "", True, int(NOW) - 60, int(NOW) + 600)
    return replace(made, **changes)  # type: ignore[arg-type]


def ledger(folder: Path, *, reliable: bool = True, max_rows: int = 100) -> SpentTokens:
    return SpentTokens(folder / "tokens.db", lambda: reliable, max_rows=max_rows)


def refusal(spent: SpentTokens, token: Token, utc: float = NOW) -> str:
    try:
        spent.spend(token, utc)
    except TokenRefused as error:
        return error.code
    return ""


def test_once_is_once_also_after_a_restart(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    assert refusal(first, one()) == ""
    assert first.is_spent(one().ident)
    assert refusal(first, one()) == "spent"
    first.close()
    again = ledger(tmp_path)
    assert again.is_spent(one().ident) and not again.is_spent("11" * 8)
    assert refusal(again, one()) == "spent"
    assert refusal(again, one("11" * 8)) == ""


def test_one_for_many_times_is_only_looked_at(tmp_path: Path) -> None:
    spent = ledger(tmp_path)
    assert [refusal(spent, one(once=False)) for _ in range(3)] == ["", "", ""]
    assert refusal(spent, one(once=False), NOW + 600) == "expired"


@pytest.mark.parametrize("state", ["expired", "early", "spent", "no_clock", "bad"])
def test_what_is_not_valid_is_refused_for_that_reason(tmp_path: Path, state: str) -> None:
    assert refusal(ledger(tmp_path), one(state=state)) == state


def test_without_a_clock_nothing_is_believed(tmp_path: Path) -> None:
    assert refusal(ledger(tmp_path, reliable=False), one()) == "no_clock"


def test_a_clock_that_goes_back_is_none(tmp_path: Path) -> None:
    """Or whoever sets it back could use an old token, once the used ones were cleared away."""
    spent = ledger(tmp_path)
    assert refusal(spent, one(), NOW) == ""
    assert refusal(spent, one("11" * 8), NOW - 10) == "no_clock"
    assert spent.clock_ok(NOW - 1)  # of a frame that was taken a moment before
    spent.close()
    assert refusal(ledger(tmp_path), one("22" * 8), NOW - 10) == "no_clock"
    assert refusal(ledger(tmp_path), one("22" * 8), 1e9) == "no_clock"


def test_it_stays_small_and_forgets_only_what_has_expired(tmp_path: Path) -> None:
    spent = ledger(tmp_path, max_rows=5)
    assert [refusal(spent, one(f"{i:016x}")) for i in range(6)] == ["", "", "", "", "", "full"]
    later = NOW + 700
    assert refusal(spent, one("f" * 16, expires=int(later) + 100), later) == ""
    assert not spent.is_spent(f"{0:016x}")
    assert refusal(spent, one(f"{0:016x}"), later) == "expired"


def test_after_damage_tokens_issued_before_are_refused(tmp_path: Path) -> None:
    spent = ledger(tmp_path)
    assert refusal(spent, one()) == ""
    spent.close()
    (tmp_path / "tokens.db").write_bytes(b"no database, but long enough to be taken for one" * 50)
    ledger(tmp_path).close()  # finds it
    again = ledger(tmp_path)  # and another start
    assert refusal(again, one(), NOW + 5) == "forgotten"
    assert refusal(again, one("11" * 8), NOW + 6) == "forgotten"
    assert refusal(again, one("22" * 8, issued=int(NOW) + 10), NOW + 12) == ""
    again.close()
    assert refusal(ledger(tmp_path), one("33" * 8), NOW + 13) == "forgotten"


def test_damage_while_it_runs_is_refused_and_remembered(tmp_path: Path) -> None:
    spent = ledger(tmp_path)
    assert refusal(spent, one()) == ""
    (tmp_path / "tokens.db").write_bytes(b"no database, but long enough to be taken for one" * 50)
    assert refusal(spent, one("11" * 8), NOW + 1) in ("not_recorded", "forgotten")
    assert refusal(spent, one(), NOW + 2) in ("spent", "forgotten")
    spent.close()
    assert refusal(ledger(tmp_path), one(), NOW + 3) in ("spent", "forgotten")


def test_a_folder_that_cannot_be_written_refuses_every_token(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert refusal(ledger(blocked), one()) == "not_recorded"


_CHILD = """
import sys
from pathlib import Path
from tests.test_codes_spent import ledger, one, NOW
spent = ledger(Path(sys.argv[1]), max_rows=100000)
for i in range(100000):
    spent.spend(one(f"{i:016x}"), NOW)
    print(i, flush=True)
"""


@pytest.mark.slow
def test_what_was_granted_before_a_kill_is_refused_after_it(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent
    )
    assert child.stdout is not None
    granted = [int(child.stdout.readline()) for _ in range(40)]
    os.kill(child.pid, signal.SIGKILL)
    granted += [int(line) for line in child.stdout.read().split() if line]
    child.stdout.close()
    child.wait(30)
    spent = ledger(tmp_path, max_rows=100_000)
    assert len(granted) >= 40
    assert {refusal(spent, one(f"{i:016x}")) for i in granted} == {"spent"}
