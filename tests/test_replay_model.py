"""``replay --model``: the rules of a configuration against the labels of a model that is not in the record."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edge_agent import cli
from edge_agent.detect.manifest import Model
from edge_agent.record import RecordWriter
from tests.agent_process import write_config
from tests.test_record import result


@pytest.fixture
def replay(root: Path, bundled: Model, tmp_path: Path) -> list[str]:
    """The command but for the model; beside the agent's own model there is one that knows no people."""
    plain = yaml.safe_load((bundled.folder / "manifest.yaml").read_text(encoding="utf-8"))
    plain.pop("golden")  # pictures of people
    models = tmp_path / "models"
    for name, labels in (("cats", ["cat"]), ("person-n", plain["labels"])):
        folder = models / name / "1.0.0"
        folder.mkdir(parents=True)
        text = yaml.safe_dump(plain | {"name": name, "version": "1.0.0", "labels": labels})
        (folder / "manifest.yaml").write_text(text, encoding="utf-8")
    config = write_config(root, tmp_path)
    changed = yaml.safe_load(config.read_text(encoding="utf-8")) | {"models_dir": str(models)}
    config.write_text(yaml.safe_dump(changed), encoding="utf-8")
    writer = RecordWriter(tmp_path / "out.jsonl", fps=7.0, config_hash="c" * 64, model="person-n@1.0.0")
    writer.write(result(0))
    writer.close()
    return ["replay", str(tmp_path / "out.jsonl"), "-c", str(config), "--model"]


@pytest.mark.parametrize(
    ("model", "code", "says"),
    [
        ("person-n", 0, ""),
        ("cats", 2, "which model cats@1.0.0 does not know"),
        ("cats@2", 3, "'cats@2' is not in"),
        ("dogs", 3, "'dogs' is not in"),
    ],
)
def test_rules_must_know_the_labels(
    replay: list[str], model: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*replay, model]) == code
    assert says in capsys.readouterr().err
