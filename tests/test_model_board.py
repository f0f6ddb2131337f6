"""What is told about updates of the model, at each moment of one."""

from __future__ import annotations

from edge_agent.config_ota import ProbationConfig
from edge_agent.health.status import ModelStatus, UpdateStatus
from edge_agent.model_board import ModelBoard
from edge_agent.ota import job as jobs
from edge_agent.ota.job import Stored
from tests.test_ota_job import bundle, confirmed, ready


def test_what_is_asked_for_is_told_until_its_job_has_begun_and_never_the_end_of_the_job_before() -> None:
    board = ModelBoard(ProbationConfig())

    def told() -> tuple[str, str]:
        update = board.status(ModelStatus(), "eyes@0", None).update
        assert update is not None
        return update.model, update.state

    failed = jobs.roll_back(ready(confirmed(Stored(), 1), 2), "self_test", "sees nothing")
    board.heard(failed, None)
    assert told() == ("eyes@2.0", "rolled_back")
    board.show(UpdateStatus("eyes@3.0", "asking"))
    board.heard(failed, 0.5)  # the worker looks at the old job once more before it begins the new one
    assert told() == ("eyes@3.0", "asking")
    board.heard(jobs.begin(failed, bundle(3)), None)
    assert told() == ("eyes@3.0", "downloading")
