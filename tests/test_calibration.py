"""The ``calibrate`` verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from edge_agent.config import GroundConfig
from tests.agent_process import run_agent, write_config

POINTS = "502.3,207.7=-2,-6; 409.9,230.3=-5,-5; 378.9,266.2=-8,-6; 298.3,304.4=-11,-6; 556.9,369.4=-12,-12;"


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Path:
    return write_config(root, tmp_path)


def test_points_on_the_command_line_become_configuration(config: Path) -> None:
    done = run_agent("calibrate", "-c", config, "--points", POINTS)
    assert done.returncode == 0, done.stderr
    text = done.stdout.split("For the configuration:")[1]
    ground = GroundConfig.model_validate(yaml.safe_load(text)["ground"])
    assert len(ground.points) == 5 and ground.image_size == (768, 576)
    assert ground.points[0].pixel == (502.3, 207.7)


def test_without_points_the_configured_ones_are_judged(config: Path) -> None:
    done = run_agent("calibrate", "-c", config, "--json")
    facts = json.loads(done.stdout)
    assert facts["camera"] == "pets" and facts["rms_m"] < 0.05 and len(facts["points"]) == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--points", "1,2=3"], "point 1 is '1,2=3'"),
        (["--points", "1,2=3,4; 5,6=7,8"], "at least 4"),
        (["--camera", "hall"], "there are: pets"),
        (["--points", POINTS, "--image-size", "big"], "1920x1080"),
        (["--points", "0,0=0,0; 10,0=1,0; 20,0=2,0; 30,0=3,0"], "line"),
        (["--points", POINTS.replace("-11,-6", "11,6")], "--points"),
    ],
)
def test_points_that_cannot_be_are_refused(config: Path, arguments: list[str], says: str) -> None:
    done = run_agent("calibrate", "-c", config, *arguments)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr
