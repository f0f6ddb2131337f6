"""Procedures that cannot be: what is said about each, with its line, by ``check``, ``run`` and ``sop check`` alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config_file import load
from edge_agent.config_sop import Condition, Procedure
from edge_agent.errors import ConfigError
from edge_agent.usecases.sop_check import Names, faults
from edge_agent.usecases.sop_logic import Atoms, ever, overlap

ROOT = Path(__file__).parent.parent
HEAD = """cameras:
  - id: kitchen
    source: 0
    zones:
      sink: [[0.1, 0.4], [0.3, 0.4], [0.3, 0.7], [0.1, 0.7]]
      counter: [[0.6, 0.4], [0.9, 0.4], [0.9, 0.7], [0.6, 0.7]]
    lines: {door: [[0.5, 0.1], [0.5, 0.9]]}
use_cases:
  sop:
    procedures:
      - name: wash
        requires_labels: [person, soap]
"""
"""The procedure's own keys begin in line 13."""
GOOD = """        steps:
          - {step: wash, when: {zone: sink, has: soap}, min_s: 20}
          - {step: cook, when: {zone: counter}}
"""
WHERE = "use_cases.sop.procedures[0]."

BROKEN = {
    "a zone that the camera does not have": (
        GOOD.replace("zone: sink", "zone: sinc"),
        ["14:39: steps[0].when.zone: given 'sinc', which camera kitchen does not have; zones there are: sink, counter; did you mean sink?"],
    ),
    "a label that is not declared": (
        GOOD.replace("has: soap", "has: soup"),
        ["14:50: steps[0].when.has: given 'soup', which is not in requires_labels: person, soap; did you mean soap?"],
    ),
    "a step after one that does not exist": (
        GOOD.replace("when: {zone: counter}", "when: {zone: counter}, after: [washing]"),
        ["15:57: steps[1].after[0]: given 'washing', no such step; there are: wash, cook; did you mean wash?"],
    ),
    "steps that each come before the other": (
        GOOD.replace("min_s: 20", "after: [cook]"),
        ["14:64: steps[0].after: contradictory order: wash and cook each come before the other; a step that comes first needs `after: []`"],
    ),
    "a step that comes after itself": (
        GOOD.replace("when: {zone: counter}", "when: {zone: counter}, after: [cook]"),
        ["15:56: steps[1].after: comes after itself; a step that comes first needs `after: []`"],
    ),
    "two steps of one name": (
        GOOD.replace("step: cook", "step: wash"),
        ["15:20: steps[1].step: given 'wash', which is already the name of step 1"],
    ),
    "in two places at once": (
        GOOD.replace("{zone: counter}", "{zone: counter, all: [{zone: sink}]}"),
        ["15:32: steps[1].when: can never be true: its parts contradict each other: unreachable"],
    ),
    "evidence only where the run is over": (
        GOOD + "        end: {none: [{zone: sink}]}\n",
        ["15:32: steps[1].when: holds only where `end` holds too: unreachable, the run would be over"],
    ),
    "evidence that is always there": (
        GOOD.replace("{zone: counter}", "{any: [{zone: counter}, {none: [{zone: counter}]}]}"),
        ["15:32: steps[1].when: is always true, and so shows nothing"],
    ),
    "limits that no time satisfies": (
        GOOD.replace("min_s: 20", "min_s: 20, max_s: 10, wait_s: 9, within_s: 5"),
        [
            "14:75: steps[0].max_s: is 10, less than min_s, 20: the step would always be too fast or too slow",
            "14:100: steps[0].within_s: is 5, less than wait_s, 9: no moment would be right",
        ],
    ),
    "a limit beyond the end of the run": (
        GOOD.replace("min_s: 20", "within_s: 90") + "        idle_s: 60\n",
        ["14:67: steps[0].within_s: is 90, but the run is abandoned before, after idle_s, 60: unreachable"],
    ),
    "nothing that must be done": (
        GOOD.replace("min_s: 20", "optional: true").replace("zone: counter}", "zone: counter}, optional: true"),
        ["14:11: steps: every step is optional, so that nothing could ever be missed; at least one must not be"],
    ),
    "conditions that are no conditions": (
        GOOD.replace("{zone: counter}", "{within_m: 2, any: [{}, {count: person, at_least: 3, at_most: 2}, {sensor: door}]}"),
        [
            "15:43: steps[1].when.within_m: given without near, which it belongs to",
            "15:52: steps[1].when.any[0]: says nothing: a condition needs at least one of zone, has, code, count, sensor, all, any, ...",
            "15:94: steps[1].when.any[1].at_most: is 2, but at_least is 3: can never be true",
            "15:107: steps[1].when.any[2].sensor: given without equals, above or below: what should its value be?",
        ],
    ),
    "a station that nothing is of": (
        GOOD + "        stations: {left: {sink: basin, table: counter}}\n",
        [
            "16:33: stations.left.sink: given 'basin', which camera kitchen does not have; zone, line or sensors there are: sink, "
            "counter, door; did you mean sink?",
            "16:47: stations.left.table: no condition of this procedure names 'table'",
        ],
    ),
    "words that do not exist": (
        GOOD.replace("zone: counter", "zones: counter").replace("min_s: 20", "min: 20"),
        [
            "14:57: steps[0].min: unknown key; did you mean min_s? Allowed here: step, when, confidence, after, optional, repeatable, "
            "min_s, max_s, wait_s, within_s",
            "15:33: steps[1].when.zones: unknown key; did you mean zone? Allowed here: zone, anchor, has, lacks, near, within_m, "
            "crosses, direction, faster_than_mps, slower_than_mps, code, count, at_least, at_most, sensor, equals, above, below, time, "
            "days, all, any, none, for_s",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_said_about_a_broken_procedure(name: str, tmp_path: Path) -> None:
    text, expected = BROKEN[name]
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    said = [problem.removeprefix(f"{path}:").replace(WHERE, "", 1) for problem in caught.value.problems]
    assert said == expected


def test_the_page_of_drawings_is_what_is_drawn_and_said() -> None:
    from scripts.draw_procedures import PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m scripts.draw_procedures"


def test_the_same_procedure_without_faults_has_none(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + GOOD, encoding="utf-8")
    assert load(path).use_cases.sop is not None


def test_one_name_for_two_procedures_and_a_camera_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    second = (
        GOOD
        + "      - name: wash\n        cameras: [kitchn]\n        requires_labels: [person]\n"
        + GOOD.replace(", has: soap", "")
    )
    path.write_text(HEAD + second, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "use_cases.sop.procedures[1].name: given 'wash', which is already the name of procedures[0]; names must differ",
        "use_cases.sop.procedures[1].cameras[0]: given 'kitchn', no such camera; there are: kitchen; did you mean kitchen?",
    ]


def test_sensors_are_checked_where_they_are_known() -> None:
    step = {"step": "stop", "when": {"sensor": "rpn", "below": 5}}
    procedure = Procedure.model_validate({"name": "p", "requires_labels": ["person"], "steps": [step]})
    assert list(faults(procedure, [Names("c")])) == []
    assert list(faults(procedure, [Names("c")], ["rpm"])) == [
        (("steps", 0, "when", "sensor"), "given 'rpn', no such sensor; there are: rpm; did you mean rpm?")
    ]


def sop_check(file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent.cli", "sop", "check", str(file), *more]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_sop_check_draws_and_explains_or_ends_with_code_2(tmp_path: Path) -> None:
    done = sop_check(ROOT / "docs" / "examples" / "sop-hand-wash.yaml", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (0, True)
    (procedure,) = told["procedures"]
    assert procedure["mermaid"].splitlines()[0] == "flowchart TD"
    assert "  s0 -->|within 30 s| s1" in procedure["mermaid"].splitlines()
    assert procedure["sentences"][2] == "1. wash for at least 20 s. It shows when the person stands in sink for 3 s."
    assert "person-s@1.0.0" in procedure["models"]
    path = tmp_path / "c.yaml"
    path.write_text(HEAD + BROKEN["two steps of one name"][0], encoding="utf-8")
    done = sop_check(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"edge-agent: {path}:15:20: {WHERE}steps[1].step: given 'wash', which is already the name of step 1\n"
    )


# ---- the logic


@given(
    a=st.tuples(st.floats(0, 0.8), st.floats(0, 0.8), st.floats(0.05, 0.4)),
    b=st.tuples(st.floats(0, 0.8), st.floats(0, 0.8), st.floats(0.05, 0.4)),
)
def test_squares_overlap_where_both_their_ranges_do(
    a: tuple[float, float, float], b: tuple[float, float, float]
) -> None:
    def square(x: float, y: float, side: float) -> list[tuple[float, float]]:
        return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]

    apart = [max(a[i], b[i]) - min(a[i] + a[2], b[i] + b[2]) for i in (0, 1)]
    if all(abs(gap) > 0.003 for gap in apart):
        assert overlap(square(*a), square(*b)) == (max(apart) < 0)


def test_crossing_bars_overlap_though_no_corner_lies_in_the_other() -> None:
    assert overlap([(0.4, 0), (0.6, 0), (0.6, 1), (0.4, 1)], [(0, 0.4), (1, 0.4), (1, 0.6), (0, 0.6)])


@pytest.mark.parametrize(
    ("when", "possible", "avoidable"),
    [
        ({"zone": "a", "none": [{"zone": "a"}]}, False, True),
        ({"has": "x", "all": [{"lacks": "x"}]}, False, True),
        ({"any": [{"has": "x"}, {"lacks": "x"}]}, True, False),
        ({"all": [{"zone": "a"}, {"zone": "b"}]}, False, True),
        ({"any": [{"zone": "a"}, {"zone": "b"}]}, True, True),
        ({"count": "person", "none": [{"count": "person"}]}, False, True),
    ],
)
def test_what_can_be_true(when: dict[str, object], possible: bool, avoidable: bool) -> None:
    atoms = Atoms(each_person=True, apart=frozenset({frozenset({("a", "feet"), ("b", "feet")})}))
    condition = Condition.model_validate(when)
    assert ever(atoms, condition) == possible
    assert ever(atoms, condition, holds=False) == avoidable


def test_at_a_station_two_people_may_be_in_two_places() -> None:
    apart = frozenset({frozenset({("a", "feet"), ("b", "feet")})})
    both = Condition.model_validate({"all": [{"zone": "a"}, {"zone": "b"}]})
    assert ever(Atoms(each_person=False, apart=apart), both)
