"""The attack table: every one is refused by its own error, the active model is untouched, and the box goes on afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ota_attacks import ATTACKS, Attack, perform


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_refused_and_changes_nothing(attack: Attack, tmp_path: Path) -> None:
    outcome = perform(attack, tmp_path)
    assert outcome.error == attack.expected.__name__, outcome.text
    assert outcome.held(attack), outcome
