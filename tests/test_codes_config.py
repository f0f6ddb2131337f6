"""What an operator reads when the section of codes, or a condition that asks for one, is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent import cli, config_file
from edge_agent.codes.build import build_codes
from edge_agent.codes.naming import naming_key, token_keys
from edge_agent.config_codes import CodesConfig
from edge_agent.errors import ConfigError
from tests.code_fixtures import key_file
from tests.scene_fixtures import ZONES


def problems(folder: Path, codes: Any, when: dict[str, Any] | None = None) -> list[str]:
    file = folder / "c.yaml"
    zones = {name: [list(corner) for corner in corners] for name, corners in ZONES.items()}
    tree: dict[str, Any] = {"cameras": [{"id": "cam", "source": "x.avi", "zones": zones}]}
    if codes is not None:
        tree["codes"] = codes
    if when is not None:
        steps = [{"step": "it", "when": when}]
        tree["use_cases"] = {"sop": {"procedures": [{"name": "it", "requires_labels": ["person"], "steps": steps}]}}
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    try:
        config_file.load(file)
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("codes", "when", "says"),
    [
        ({}, None, None),
        ({"names": {"drivers": ["marker-17"]}}, {"code": "drivers"}, None),
        ({}, {"code": "marker-17"}, None),
        ({}, {"code": "any", "zone": "left"}, None),
        (None, {"code": "any"}, "when.code: given 'any', but no codes are read: add a section `codes:`"),
        ({"enabled": False}, {"code": "any"}, "no codes are read"),
        (
            {"names": {"drivers": ["marker-17"]}},
            {"code": "driver"},
            "no such group in codes.names.* did you mean drivers",
        ),
        ({}, {"code": "token:door"}, "there is no key to believe tokens by: name codes.key_files"),
        ({}, {"none": [{"code": "any"}]}, "given within `none`"),
        ({}, {"code": "to ken"}, "when.code"),
        ({"zone": "lft"}, None, "codes.zone: given 'lft', which camera cam does not have.* did you mean left"),
        ({"cameras": ["cm"]}, None, r"codes.cameras\[0\]: given 'cm', no such camera"),
        ({"qr": False}, None, "codes.qr: is false, and no markers are named"),
        ({"names": {"any": ["marker-1"]}}, None, "codes.names.any: 'any' has a meaning of its own"),
        ({"names": {"x": ["badge of Ada"]}}, None, r"codes.names.x\[0\]"),
        ({"markers": "apriltag"}, None, "codes.markers: given 'apriltag'"),
        ({"every_s": 0}, None, "codes.every_s"),
    ],
)
def test_each_fault_has_its_line_and_says_how_to_mend_it(
    tmp_path: Path, codes: Any, when: dict[str, Any] | None, says: str | None
) -> None:
    told = problems(tmp_path, codes, when)
    if says is None:
        assert told == []
    else:
        assert len(told) == 1, told
        assert re.search(says, told[0])
        assert re.match(r".*c\.yaml:\d+:\d+: ", told[0])


def test_a_key_that_is_too_short_is_refused_without_being_shown(tmp_path: Path) -> None:
    file = key_file(tmp_path, b"hunter2")
    assert problems(tmp_path, {"key_files": [str(file)]}) == []
    config = config_file.load(tmp_path / "c.yaml").model_copy(update={"state_dir": tmp_path / "state"})
    with pytest.raises(ConfigError) as error:
        build_codes(config, lambda: True)
    assert "codes.key_files[0]" in str(error.value) and "needs 32 or more" in str(error.value)
    assert "hunter2" not in str(error.value)
    file.unlink()
    with pytest.raises(ConfigError, match=r"token\.key: cannot read the secret in it"):
        build_codes(config, lambda: True)


def test_check_reads_the_keys_that_a_start_would(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, short, gone = key_file(tmp_path), tmp_path / "short.key", tmp_path / "gone.key"
    short.write_text("hunter2", encoding="utf-8")

    def check(*files: Path) -> int:
        assert problems(tmp_path, {"key_files": [str(file) for file in files]}) == []
        with (tmp_path / "c.yaml").open("a", encoding="utf-8") as config:
            config.write(f"models_dir: {root / 'models'}\n")
        return cli.main(["check", "-c", str(tmp_path / "c.yaml")])

    assert check(good) == 0
    assert check(good, short, gone) == 2
    told = capsys.readouterr().err
    assert f"codes.key_files[1]: {short} holds 7 bytes, a key needs 32 or more" in told
    assert f"codes.key_files[2]: {gone}: cannot read the secret in it: No such file or directory" in told
    assert "hunter2" not in told


def test_a_key_that_everybody_can_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = key_file(tmp_path)
    for mode, warned in ((0o644, True), (0o600, False)):
        file.chmod(mode)
        caplog.clear()
        assert len(token_keys(CodesConfig(key_files=[file]))) == 1
        assert ("every user of this machine can read" in caplog.text) == warned


def test_the_names_of_codes_stay_over_restarts_and_differ_from_box_to_box(tmp_path: Path) -> None:
    first = naming_key(CodesConfig(), tmp_path / "a")
    assert naming_key(CodesConfig(), tmp_path / "a") == first != naming_key(CodesConfig(), tmp_path / "b")
    assert (tmp_path / "a" / "codes.key").stat().st_mode & 0o777 == 0o600
    shared = CodesConfig(hash_key_file=key_file(tmp_path))
    assert naming_key(shared, tmp_path / "a") == naming_key(shared, tmp_path / "b")
