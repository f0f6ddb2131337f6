"""What is wrong, and what comes from somebody who may not: a real agent, a real broker with access rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_process import RunningAgent
from tests.command_fixtures import ANSWERS, ROOT, Asker
from tests.command_table import CASES, DEFAULT, Case, ask, table_agent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def at_work(
    root: Path, vtest_video: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningAgent, dict[str, Asker]]]:
    with table_agent(root, tmp_path_factory.mktemp("table")) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.about)
def test_each_is_answered_with_its_reason(case: Case, at_work: tuple[RunningAgent, dict[str, Asker]]) -> None:
    agent, askers = at_work
    answered = ask(case, askers)
    assert answered.code == case.code and case.says in answered.text, answered
    if case.code:
        expected = f"{ROOT}commands/{case.command}/reply" if case.answered_at == DEFAULT else ANSWERS
        assert answered.topic == expected
    else:
        assert "never" not in agent.log
    assert agent.process.poll() is None and "Traceback" not in agent.log
