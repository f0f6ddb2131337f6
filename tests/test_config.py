"""Loading a configuration that is right: the shipped example, the environment, paths, secrets, the device's name."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_agent.config import Config, SocialDistancingConfig, json_schema, read_secret, redact
from edge_agent.config_file import device_id, load
from edge_agent.errors import ConfigError

ROOT = Path(__file__).parent.parent
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def camera(source: str) -> str:
    return f"cameras:\n  - id: till\n    source: {source}\n"


def test_the_shipped_example_loads_and_is_calibrated() -> None:
    config = load(ROOT / "config.yaml")
    assert config.cameras[0].source == str(ROOT / ".cache" / "vtest.avi")
    assert config.cameras[0].fps == 7
    assert config.cameras[0].ground is not None
    assert len(config.cameras[0].ground.points) == 9
    assert config.use_cases.social_distancing is not None
    assert config.use_cases.social_distancing.distance_m == 2.0
    assert not config.privacy.images
    assert (config.http.host, config.mqtt.host) == ("127.0.0.1", "localhost")
    assert config.state_dir == ROOT / ".state"


def test_a_sensors_file_is_relative_to_the_configuration_and_defaults_go_by_its_kind(write: Write) -> None:
    text = "sensors:\n  - {id: a, file: fan, every_s: 20}\n  - {id: b, mqtt: {topic: $SYS/broker/uptime}}\n"
    path = write(camera("0") + text + "  - {id: c, hwmon: {chip: k10temp, input: temp1}, stale_after_s: 11}\n")
    a, b, c = load(path).sensors
    assert a.file == path.parent / "fan"
    assert [(s.interval_s, s.good_s) for s in (a, b, c)] == [(20, 60), (1, 7200), (10, 11)]


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_in_the_documentation_loads(path: Path) -> None:
    assert load(path).models_dir == ROOT / "models"


def test_the_shipped_example_names_every_key_and_tells_the_defaults() -> None:
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    keys = {key for section in sections for key in section.get("properties", {})}
    assert len(keys) > 50
    missing = {key for key in keys if not re.search(rf"(^|[\s#{{-]){re.escape(key)}:", text, re.MULTILINE)}
    assert not missing


def test_what_the_example_calls_a_default_is_one() -> None:
    """Values written out in the example with 'default: X' are the model's defaults."""
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    defaults = Config.model_validate({"cameras": [{"id": "a", "source": "b"}]}).model_dump(mode="json")
    defaults["use_cases"]["social_distancing"] = SocialDistancingConfig().model_dump(mode="json")
    checked = sum(
        same_values(data[section], defaults[section], section)
        for section in ("detect", "track", "mqtt", "influxdb", "webhook", "outbox", "http", "logging", "privacy")
    )
    distancing = same_values(data["use_cases"]["social_distancing"], defaults["use_cases"]["social_distancing"], "")
    assert checked + distancing > 40


def same_values(data: dict[str, Any], defaults: dict[str, Any], where: str) -> int:
    """How many values were compared."""
    checked = 0
    for key, value in data.items():
        if value and isinstance(value, dict):
            checked += same_values(value, defaults[key], f"{where}.{key}")
        else:
            assert value == defaults[key], f"{where}.{key}"
            checked += 1
    return checked


def test_the_schema_for_editors_in_the_repository_is_the_current_one() -> None:
    kept = json.loads((ROOT / "docs" / "config.schema.json").read_text(encoding="utf-8"))
    assert kept == json_schema(), "run: make schema"


def test_every_key_of_the_schema_is_described() -> None:
    schema = json_schema()
    bare = [
        f"{name}.{key}"
        for name, section in {"Config": schema, **schema["$defs"]}.items()
        for key, field in section.get("properties", {}).items()
        if not field.get("description") and "$ref" not in field
    ]
    assert not bare


def test_environment_is_filled_into_sources_only_where_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cret")
    config = load(write(camera("rtsp://viewer:${CAMERA_PASSWORD}@192.0.2.1/a$b")))
    assert config.cameras[0].source == "rtsp://viewer:s3cret@192.0.2.1/a$b"


def test_the_digest_does_not_depend_on_credentials(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(camera("rtsp://viewer:${CAMERA_PASSWORD}@192.0.2.1/a"))
    digests = []
    for password in ("one", "two"):
        monkeypatch.setenv("CAMERA_PASSWORD", password)
        digests.append(load(path).digest())
    assert digests[0] == digests[1]
    assert load(write(camera("rtsp://192.0.2.2/a"))).digest() != digests[0]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("0", "0"),
        ("'2'", "2"),
        ("/dev/video0", "/dev/video0"),
        ("rtsp://192.0.2.1/a", "rtsp://192.0.2.1/a"),
        ("a.avi", "{}/a.avi"),
    ],
)
def test_a_source_is_an_index_a_url_or_a_path_beside_the_file(write: Write, source: str, expected: str) -> None:
    path = write(camera(source))
    assert load(path).cameras[0].source == expected.format(path.parent)


def test_paths_are_relative_to_the_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    path = write(f"{camera('0')}state_dir: here\n")
    config = load(path)
    assert (config.state_dir, config.models_dir) == (tmp_path / "here", tmp_path / "models")


@pytest.mark.parametrize("section", ["mqtt", "http", "detect", "track", "outbox", "logging", "privacy"])
def test_an_empty_section_means_its_defaults(write: Write, section: str) -> None:
    assert getattr(load(write(f"{camera('0')}{section}:\n")), section) == Config.model_fields[section].default


def test_a_use_case_that_is_named_and_left_empty_runs(write: Write) -> None:
    assert (
        load(write(f"{camera('0')}use_cases:\n  social_distancing:\n")).use_cases.social_distancing
        == SocialDistancingConfig()
    )
    assert load(write(camera("0"))).use_cases.social_distancing is None


def test_a_secret_comes_from_the_environment_or_the_first_line_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(" abc \nnot this\n", encoding="utf-8")
    assert read_secret(file, "EDGE_AGENT_HTTP_TOKEN") == "abc"
    assert read_secret(None, "EDGE_AGENT_HTTP_TOKEN") is None
    monkeypatch.setenv("EDGE_AGENT_HTTP_TOKEN", "def")
    assert read_secret(file, "EDGE_AGENT_HTTP_TOKEN") == "def"


def test_a_secret_that_everybody_can_read_is_warned_about(
    write: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n", encoding="utf-8")
    path = write(f"{camera('0')}mqtt:\n  password_file: password\n")
    with caplog.at_level(logging.WARNING):
        file.chmod(0o644)
        assert load(path).mqtt.password_file == file
        assert "mqtt.password_file" in caplog.text
        assert "hunter2" not in caplog.text
        caplog.clear()
        file.chmod(0o600)
        load(path)
        assert not caplog.text


def test_the_device_id_comes_from_the_machine_id_without_giving_it_away(tmp_path: Path) -> None:
    machine = tmp_path / "machine-id"
    ids = []
    for text in ("0123456789abcdef0123456789abcdef\n", "0123456789abcdef0123456789abcdee\n"):
        machine.write_text(text, encoding="ascii")
        ids.append(device_id(tmp_path / "state", machine))
        assert ids[-1] == device_id(tmp_path / "elsewhere", machine)
        assert re.fullmatch(r"ea-[0-9a-f]{10}", ids[-1])
        assert ids[-1][3:] not in text
    assert ids[0] != ids[1]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("content", [None, "", "uninitialized\n"])
def test_without_a_machine_id_the_device_id_is_kept_in_the_state_folder(tmp_path: Path, content: str | None) -> None:
    machine = tmp_path / "machine-id"
    if content is not None:
        machine.write_text(content, encoding="ascii")
    first = device_id(tmp_path / "a", machine)
    assert first == device_id(tmp_path / "a", machine)
    assert first != device_id(tmp_path / "b", machine)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="give the device a name"):
        device_id(tmp_path / "file" / "x", machine)


def test_a_named_device_keeps_its_name(write: Write) -> None:
    assert load(write(f"{camera('0')}device: box-7\n")).device == "box-7"
    assert re.fullmatch(r"ea-[0-9a-f]{10}", str(load(write(camera("0"))).device))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://u:p/w@cam/1", "rtsp://***@cam/1"),
        ("rtsp://u:p@w@cam/1", "rtsp://***@cam/1"),
        ("http://cam/x?user=a&Password=b&n=1", "http://cam/x?user=***&Password=***&n=1"),
        ("from rtsp://a:b@c/ to http://d/", "from rtsp://***@c/ to http://d/"),
        ("rtsp://cam/1", "rtsp://cam/1"),
        ("http://h/v?api_key=k;token=t", "http://h/v?api_key=***;token=***"),
        ("rtsp://10.0.0.1:554/a@b", "rtsp://***@b"),  # what looks like a password may be one
        ("/videos/a.mp4", "/videos/a.mp4"),
        ("0", "0"),
    ],
)
def test_credentials_are_taken_out_of_urls(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize("lens", ["auto", {"k1": -0.1}])
def test_both_forms_of_a_lens_survive_the_way_to_json_and_back(lens: Any) -> None:
    points = [{"pixel": [u, v], "ground_m": [u, v]} for u, v in ((1, 1), (9, 1), (9, 9), (1, 9))]
    ground = {"image_size": [10, 10], "points": points, "lens": lens}
    config = Config.model_validate({"cameras": [{"id": "a", "source": "b", "ground": ground}]})
    assert Config.model_validate_json(config.model_dump_json()) == config
