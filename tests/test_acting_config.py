"""What an operator reads when devices, or what asks for them, are configured wrong."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent import config_file
from edge_agent.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "acting.yaml"
TREE: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))


def problems(folder: Path, *changes: tuple[str, Any]) -> list[str]:
    """Of the example with other values at these paths; None takes a key out."""
    tree = copy.deepcopy(TREE)
    for path, value in changes:
        *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        place: Any = tree
        for part in way:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    (folder / "c.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    try:
        config_file.load(folder / "c.yaml")
    except ConfigError as error:
        return error.problems
    return []


DOOR, RULE = "actuators/devices/0", "use_cases/touchless/rules/0"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            f"{DOOR}/topic",
            "home/door",
            "actuators.devices[0].topic: given 'home/door', which actuators.allow does not cover: building/",
        ),
        (f"{DOOR}/topic", "building/+/set", "actuators.devices[0].topic"),
        (f"{DOOR}/safe", "clos", "no such action; there are: close, open; did you mean close?"),
        (f"{DOOR}/ack/topic", "building/door-1/set", "the device would seem to answer at once"),
        (f"{DOOR}/id", "flap", "already the id of devices[0]"),
        (f"{DOOR}/expiry_s", 0, "actuators.devices[0].expiry_s"),
        (f"{DOOR}/actions", {}, "actuators.devices[0].actions"),
        ("actuators/allow/0", "edge/v1/", "which covers what this box itself publishes"),
        (f"{RULE}/actuator", "dor", "given 'dor', no such device; there are: door, flap; did you mean door?"),
        (f"{RULE}/action", "explode", "which door cannot do; it can: close, open"),
        (f"{RULE}/action", "close", "is the safe action of door"),
        (f"{RULE}/when", {"zone": "dor"}, "when.zone: given 'dor', which camera lobby does not have; zones there are"),
        (f"{RULE}/when", {}, "when: says nothing"),
        (f"{RULE}/only_if", {"at_most": 0}, "only_if.at_most: given without count"),
        (f"{RULE}/when", {"code": "driver"}, "no such group in codes.names"),
        ("use_cases/dispenser/rules/0/token", None, "token"),
        ("use_cases/dispenser/rules/0/clear", None, "clear"),
        ("codes/key_files", [], "needs tokens, which need codes.key_files"),
    ],
)
def test_each_fault_has_its_line(tmp_path: Path, path: str, value: Any, says: str) -> None:
    told = problems(tmp_path, (path, value))
    assert told and any(says in problem for problem in told), told
    assert all(re.match(r".*c\.yaml:\d+:\d+: ", problem) for problem in told)


def test_the_example_is_right_and_needs_devices(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
    told = problems(tmp_path, ("actuators", None))
    assert len(told) == 2 and all("no such device; there is no `actuators:`" in problem for problem in told)


def test_the_labels_of_conditions_must_be_known_to_the_model(tmp_path: Path) -> None:
    path = "use_cases/dispenser/rules/0/taken"
    assert problems(tmp_path, (path, {"none": [{"count": "key", "zone": "flap"}]})) == []
    config = config_file.load(tmp_path / "c.yaml")
    section = config.use_cases.dispenser
    assert section is not None
    assert dict(section.wanted_labels())["rules[0].taken.none[0].count"] == "key"
