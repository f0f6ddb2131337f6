"""What an operator reads when the configuration is wrong: everything at once, at its place, in plain words, no secrets."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.config import Config, json_schema
from edge_agent.config_file import load
from edge_agent.config_yaml import MAX_BYTES, read_tree
from edge_agent.errors import ConfigError

ROOT = Path(__file__).parent.parent
CAMERA = "cameras:\n  - {id: till, source: 0}\n"


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("config"))


def problems(text: str | bytes) -> list[str]:
    path = Path("c.yaml")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        load(path)
    except ConfigError as error:
        assert error.exit_code == 2
        return error.problems
    return []


BROKEN = {
    "unknown keys": (
        "devise: x\ncameras:\n  - id: till\n    source: 0\n    maxfps: 3\n",
        [
            "c.yaml:1:1: devise: unknown key; did you mean device? Allowed here: site, device, state_dir, models_dir, model, "
            "cameras, detect, track, classifiers, use_cases, sensors, actuators, codes, mqtt, commands, influxdb, webhook, outbox, "
            "ota, http, logging, privacy, samples",
            "c.yaml:5:5: cameras[0].maxfps: unknown key; did you mean max_fps? Allowed here: id, source, fps, start, max_fps, "
            "zones, lines, ground, person_height_m",
        ],
    ),
    "wrong types": (
        CAMERA + "mqtt:\n  port: '1883'\n  enabled: yes please\ndetect: {workers: 1.5}\nsite: 5\noutbox: 3\n",
        [
            "c.yaml:4:9: mqtt.port: given '1883'; must be a whole number, without quotes (the broker's TCP port)",
            "c.yaml:5:12: mqtt.enabled: given 'yes please'; must be true or false (whether to use a broker)",
            "c.yaml:6:19: detect.workers: given 1.5; must be a whole number "
            "(inference threads; default: as many as the backend gains from)",
            "c.yaml:7:7: site: given 5; must be text; put quotes around it (name in topics and in the source of events)",
            "c.yaml:8:9: outbox: given 3; must be a mapping",
        ],
    ),
    "a broker that cannot be": (
        CAMERA
        + "mqtt:\n  will_delay_s: 60\n  websocket_path: mqtt\n  tls: {min_version: '1.1', key_file: a.key, pasword: x}\n"
        "  brokers: [{host: a}, {host: b, port: 0}, {host: a}]\n  host: ''\n  user_properties: {a: 1}\n",
        [
            "c.yaml:4:17: mqtt.will_delay_s: is 60, but the broker says offline as soon as it forgets the session, after "
            "session_expiry_s, 0; make that at least as long",
            "c.yaml:5:19: mqtt.websocket_path: given 'mqtt'; must have another form (MQTT over WebSocket at this path, for "
            "example /mqtt)",
            "c.yaml:6:22: mqtt.tls.min_version: given '1.1'; allowed: 1.2, 1.3; did you mean 1.3?",
            "c.yaml:6:39: mqtt.tls.key_file: given without cert_file, the certificate that it is the key of",
            "c.yaml:6:46: mqtt.tls.pasword: unknown key; allowed here: ca_file, cert_file, key_file, server_name, alpn, "
            "min_version",
            "c.yaml:7:40: mqtt.brokers[1].port: given 0; must be at least 1 (the broker's TCP port; default: mqtt.port)",
            "c.yaml:7:44: mqtt.brokers[2]: the same host and port as brokers[0]; keep one",
            "c.yaml:8:9: mqtt.host: given ''; must not be empty (the broker's name or address)",
            "c.yaml:9:24: mqtt.user_properties.a: given 1; must be text; put quotes around it",
        ],
    ),
    "servers that cannot be": (
        CAMERA
        + "influxdb:\n  enabled: true\n  url: ftp://db\n  token: hunter2hunter2\n  timeout_s: 0\n  tls: {key_file: a.key}\n"
        "webhook:\n  enabled: true\n  tls: {}\n  types: [a b]\n",
        [
            "c.yaml:5:8: influxdb.url: given 'ftp://db'; must be https://HOST[:PORT][/PATH], or http://…",
            "c.yaml:6:3: influxdb.token: a token does not belong into this file; put it in a file and name that: token_file: "
            "/etc/edge-agent/influxdb-token, or set EDGE_AGENT_INFLUXDB_TOKEN",
            "c.yaml:7:14: influxdb.timeout_s: given 0; must be at least 1 (longest wait for a connection, and for an answer)",
            "c.yaml:8:19: influxdb.tls.key_file: given without cert_file, the certificate that it is the key of",
            "c.yaml:10:12: webhook.enabled: is true, but where to? set webhook.url",
            "c.yaml:12:11: webhook.types[0]: given 'a b'; must have another form",
        ],
    ),
    "servers in the clear": (
        CAMERA
        + "influxdb: {url: 'http://db:8086', tls: {}}\nwebhook: {enabled: true, url: 'http://hooks.example/x'}\n",
        [
            "c.yaml:3:17: influxdb.url: is http://, which the section tls says nothing about; make it https://, or take tls out",
            "c.yaml:4:31: webhook.url: is http:// and not on this machine: events would cross the network in the clear; use https://",
        ],
    ),
    "impossible values": (
        "cameras:\n  - {id: my till, source: a, fps: -7, person_height_m: .nan}\nmqtt: {port: 99999}\nlogging: {level: verbos}\n",
        [
            "c.yaml:2:10: cameras[0].id: given 'my till'; must be letters, digits, '.', '_' and '-' only, at most 63, the first "
            "a letter or digit",
            "c.yaml:2:35: cameras[0].fps: given -7; must be above 0 (a file's true frame rate, where its container lies)",
            "c.yaml:2:56: cameras[0].person_height_m: given nan; must be a finite number (mean height, where feet are hidden or "
            "no ground plane is set)",
            "c.yaml:3:14: mqtt.port: given 99999; must be at most 65535 (the broker's TCP port)",
            "c.yaml:4:18: logging.level: given 'verbos'; allowed: debug, info, warning, error (the least severe line that is written)",
        ],
    ),
    "missing": (
        "cameras:\n  - id: till\n  - source: 0\n",
        [
            "c.yaml:2:5: cameras[0].source: missing, and it must be given (RTSP/HTTP URL, /dev/video*, camera index, video file "
            "or folder of images; ${ENV} is filled in)",
            "c.yaml:3:5: cameras[1].id: missing, and it must be given (name in topics and URLs; unique)",
        ],
    ),
    "names that nothing has": (
        "cameras:\n  - {id: till, source: 0, zones: {queue: [[0, 0], [1, 0], [1, 1]]}}\n  - {id: till, source: 1}\n"
        "use_cases:\n  social_distancing:\n    cameras: [tilt]\n    zone: queu\n",
        [
            "c.yaml:3:10: cameras[1].id: given 'till', which is already the id of cameras[0]; ids must differ",
            "c.yaml:6:15: use_cases.social_distancing.cameras[0]: given 'tilt', no such camera; there are: till; did you mean till?",
        ],
    ),
    "a zone that one camera lacks": (
        "cameras:\n  - {id: a, source: 0, zones: {queue: [[0, 0], [1, 0], [1, 1]]}}\n  - {id: b, source: 1}\n"
        "use_cases:\n  social_distancing:\n    zone: queue\n",
        [
            "c.yaml:6:11: use_cases.social_distancing.zone: given 'queue', which camera b does not have; zones there are: queue",
        ],
    ),
    "zones and ground": (
        "cameras:\n  - id: till\n    source: 0\n    zones:\n      line: [[0, 0], [0.5, 0.5], [1, 1]]\n"
        "      bow: [[0, 0], [1, 1], [1, 0], [0, 1]]\n      out: [[0, 0], [1.5, 0], [1, 1]]\n    ground:\n"
        "      image_size: [768, 576]\n      lens: fisheye\n      points:\n        - {pixel: [900, 1], ground_m: [1, 1]}\n",
        [
            "c.yaml:5:13: cameras[0].zones.line: covers 0 of the frame, next to nothing; at least 0.0001 is needed",
            "c.yaml:6:12: cameras[0].zones.bow: edges 1 and 3 cross; list the corners in order around the zone",
            "c.yaml:7:22: cameras[0].zones.out[1][0]: given 1.5; must be at most 1",
            "c.yaml:10:13: cameras[0].ground.lens: given 'fisheye'; allowed: auto, or a mapping of k1, k2 (`auto` estimates k1 "
            "from the points where they carry enough evidence)",
            "c.yaml:12:9: cameras[0].ground.points: given a list of 1; must have at least 4 of them (at least four, spread over "
            "the floor)",
            "c.yaml:12:19: cameras[0].ground.points[0].pixel: given [900, 1], outside the picture of 768 × 576 pixels that "
            "image_size names",
        ],
    ),
    "secrets": (
        "cameras:\n  - {id: till, source: 'rtsp://u:hunter2@cam/${NO_SUCH_VARIABLE}'}\nmqtt:\n  password: hunter2\n"
        "  username: [hunter2]\n  password_file: nope\nhttp:\n  host: 0.0.0.0\n  token: hunter2\n",
        [
            "c.yaml:2:24: cameras[0].source: the environment variable NO_SUCH_VARIABLE is not set",
            "c.yaml:4:3: mqtt.password: a password does not belong into this file; put it in a file and name that: "
            "password_file: /etc/edge-agent/mqtt-password, or set EDGE_AGENT_MQTT_PASSWORD",
            "c.yaml:5:13: mqtt.username: given a list of 1; must be text; put quotes around it (user name at the broker)",
            "c.yaml:6:18: mqtt.password_file: {folder}/nope: cannot read the secret in it: No such file or directory",
            "c.yaml:8:9: http.host: given '0.0.0.0', reachable from the network, which needs a token: set http.token_file to a "
            "file holding one, or EDGE_AGENT_HTTP_TOKEN; or keep 127.0.0.1",
            "c.yaml:9:3: http.token: a token does not belong into this file; put it in a file and name that: token_file: "
            "/etc/edge-agent/http-token, or set EDGE_AGENT_HTTP_TOKEN",
        ],
    ),
    "limits that contradict": (
        CAMERA
        + "track: {low_score: 0.6}\nuse_cases:\n  social_distancing: {leave_distance_m: 1.5, min_duration_s: -1}\n",
        [
            "c.yaml:3:20: track.low_score: low_score is 0.6, which must not be above high_score, 0.5",
            "c.yaml:5:41: use_cases.social_distancing.leave_distance_m: leave_distance_m is 1.5, which must not be below "
            "distance_m, 2",
            "c.yaml:5:62: use_cases.social_distancing.min_duration_s: given -1; must be at least 0 (a violation begins after it "
            "held for this long)",
        ],
    ),
    "times": (
        "cameras:\n  - {id: a, source: x, start: 2026-01-31}\n  - {id: b, source: x, start: 2026-01-31T12:00:00}\n"
        "  - {id: c, source: x, start: 2026-13-31T12:00:00Z}\n",
        [
            "c.yaml:2:31: cameras[0].start: given '2026-01-31'; must be a time like 2026-01-31T12:00:00Z",
            "c.yaml:3:31: cameras[1].start: given '2026-01-31T12:00:00'; needs a time zone, for example 2026-01-31T12:00:00Z",
            "c.yaml:4:31: cameras[2].start: not a value that YAML can hold; put quotes around it",
        ],
    ),
    "twice": (
        CAMERA + "site: a\nsite: b\nmqtt: {port: 1, port: x}\n",
        [
            "c.yaml:4:1: site: given twice, first in line 3; keep one",
            "c.yaml:5:17: mqtt.port: given twice, first in line 5; keep one",
        ],
    ),
    "not YAML": (
        "cameras:\n\t- id: a\n",
        [
            "c.yaml:2:1: not valid YAML: while scanning for the next token found character that cannot start any token (indent "
            "with spaces, not with tabs)",
        ],
    ),
    "empty": ("# nothing\n", ["c.yaml:1:1: the file is empty; at least `cameras:` is needed"]),
    "a list": ("- a\n", ["c.yaml:1:1: must be a mapping of sections such as `cameras:` and `mqtt:`"]),
    "sensors": (
        CAMERA + "device: box\nsensors:\n  - {id: a, file: t, mqtt: {topic: t}}\n  - {id: a, min: 5, max: 1}\n"
        "  - {id: b, mqtt: {topic: zigbee/+, kee: x}, every_s: 5, stale_after_s: 5}\n"
        "  - {id: c, mqtt: {topic: edge/v1/site/box/telemetry/b}}\n"
        "  - {id: d, hwmon: {chip: nct6775, input: cpu}}\n  - {id: e, iio: {name: bme280}, scale: x}\n",
        [
            "c.yaml:5:5: sensors[0]: names file and mqtt; it needs exactly one of file, hwmon, iio, mqtt",
            "c.yaml:6:5: sensors[1]: names no source; it needs exactly one of file, hwmon, iio, mqtt",
            "c.yaml:6:10: sensors[1].id: given 'a', which is already the id of sensors[0]; ids must differ",
            "c.yaml:6:18: sensors[1].min: is 5, which must be below max, 1",
            "c.yaml:7:27: sensors[2].mqtt.topic: given 'zigbee/+'; must have another form (its whole topic, without + and #)",
            "c.yaml:7:37: sensors[2].mqtt.kee: unknown key; did you mean key? Allowed here: topic, key",
            "c.yaml:7:73: sensors[2].stale_after_s: is 5, which must be above every_s, 5",
            "c.yaml:8:27: sensors[3].mqtt.topic: given 'edge/v1/site/box/telemetry/b', which this box itself publishes or "
            "listens to",
            "c.yaml:9:43: sensors[4].hwmon.input: given 'cpu'; must have another form (temp1, in0, curr1, power1, humidity1, "
            "fan2, ...)",
            "c.yaml:10:13: sensors[5].iio.channel: missing, and it must be given (temp for in_temp_input or in_temp_raw, "
            "voltage0, ...)",
            "c.yaml:10:41: sensors[5].scale: given 'x'; must be a number (a number is multiplied by this)",
        ],
    ),
    "no cameras": (
        "cameras: []\n",
        ["c.yaml:1:10: cameras: given a list of 0; must have at least 1 of them (cameras and files, 1 to 64)"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_messages(name: str) -> None:
    text, expected = BROKEN[name]
    found = problems(text)
    assert found == [line.replace("{folder}", str(Path.cwd())) for line in expected]
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"site: \xff\n", "c.yaml:1:1: not UTF-8 text"),
        ("a: &x [1]\nb: *x\n", "c.yaml:2:4: aliases"),
        ("[" * 10_000, "c.yaml:1:33: nested more than 32 levels deep"),
        ("{a: " * 10_000, "c.yaml:1:129: nested more than 32 levels deep"),
        ("cameras: [" + "1," * 60_000 + "]", "more than 50000 values"),
        (b"#" * (MAX_BYTES + 1), "c.yaml: larger than 1000000 bytes"),
        ("site: !!python/object/apply:os.system [id]\n" + CAMERA, "c.yaml:1:7: site: tags are not allowed"),
        ("a: b\x01\n", "c.yaml:1:5: the character U+0001 is not allowed"),
        ("a: 1\n---\nb: 1\n", "c.yaml:2:1: not valid YAML"),
        ("cameras:\n  - {id: a, source: 0, ground: {image_size: [1" + "0" * 400 + ", 1]}}\n", "image_size"),
        ("site: " + "9" * 5000 + "\n" + CAMERA, "c.yaml:1:7: site: not a value that YAML can hold"),
    ],
)
def test_hostile_files_are_refused(text: str | bytes, expected: str) -> None:
    assert expected in "\n".join(problems(text))


def test_a_file_that_is_not_there_or_not_a_file() -> None:
    for path, reason in ((Path("nope.yaml"), "no such file"), (Path(), "cannot be read")):
        with pytest.raises(ConfigError, match=reason):
            load(path)


def test_the_number_of_problems_is_bounded() -> None:
    found = problems(CAMERA + "".join(f"key{n}: 1\n" for n in range(500)))
    assert len(found) == 101
    assert found[-1] == "c.yaml: and 400 more problems"


def test_a_rule_is_told_when_other_fields_are_wrong_too() -> None:
    """Rules between values come out in the same run as faults in the values themselves."""
    text = "cameras:\n  - {id: a, source: 0, fps: x}\n  - {id: a, source: 0}\ntrack: {low_score: 0.9, bogus: 1}\n"
    places = [line.split(": ")[1] for line in problems(text)]
    assert places == ["cameras[0].fps", "cameras[1].id", "track.low_score", "track.bogus"]


EXAMPLE = (ROOT / "config.yaml").read_text(encoding="utf-8").splitlines()
ALLOWED = {
    key for section in [json_schema(), *json_schema()["$defs"].values()] for key in section.get("properties", {})
}
# A block mapping's line in the example (not in a comment, not inside a flow mapping); zones may have any name.
LINES = [
    n
    for n, line in enumerate(EXAMPLE)
    if line.strip().rstrip(":").isidentifier() or line.lstrip(" -").split(":")[0] in ALLOWED
]
KEYS = st.text(string.ascii_lowercase + "_", min_size=1, max_size=20).filter(
    lambda key: key not in ALLOWED | {"y", "n", "on", "no"}
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.sampled_from(LINES), key=KEYS)
def test_an_unknown_key_is_always_reported_at_its_line(line: int, key: str) -> None:
    """Put a key that nobody knows before any line of the example: exactly that is reported, at exactly that place."""
    text = EXAMPLE[line]
    start = len(text) - len(text.lstrip(" -"))
    dash = " " * start
    lines = [*EXAMPLE[:line], dash + f"{key}: 1", *EXAMPLE[line:]]
    if text.lstrip().startswith("- "):
        lines[line], lines[line + 1] = text[:start] + f"{key}: 1", dash + text[start:]
    found = problems("\n".join(lines))
    assert len(found) == 1
    assert found[0].startswith(f"c.yaml:{line + 1}:{start + 1}: ")
    assert f"{key}: " in found[0]


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(sorted(ALLOWED)) | st.text(max_size=5), inner, max_size=5)
        ),
        max_leaves=20,
    )
)
def test_no_content_can_crash_the_loader(data: Any) -> None:
    """Whatever stands in the sections, the answer is a Config or a ConfigError whose problems are one line each."""
    for text in (
        yaml.safe_dump(data, allow_unicode=True),
        yaml.safe_dump({"cameras": data, "mqtt": data, "use_cases": {"social_distancing": data}}),
    ):
        for problem in problems(text):
            assert problem.startswith("c.yaml:")
            assert "\n" not in problem


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_no_text_can_crash_the_reader(text: str) -> None:
    tree = read_tree(text)
    assert tree.faults or tree.data is None or isinstance(tree.data, dict | list | str | int | float)


def test_the_loader_and_the_model_agree_on_the_default_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CAMERA + "device: a\n", encoding="utf-8")
    direct = Config.model_validate({"cameras": [{"id": "till", "source": "0"}], "device": "a"})
    loaded = load(path)
    assert loaded.model_copy(update={"state_dir": direct.state_dir, "models_dir": direct.models_dir}) == direct
