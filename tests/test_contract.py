"""The contract for machines: its schemas, its AsyncAPI document, the example in the documentation, and that the suite is held to it."""

from __future__ import annotations

import copy
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import best_match
from pydantic import TypeAdapter

from edge_agent.cli import main
from edge_agent.commands.catalogue import COMMANDS
from edge_agent.contract import asyncapi, schemas
from edge_agent.contract.commands import REQUESTS
from edge_agent.health.heartbeat import HeartbeatBuilder
from edge_agent.health.status import AgentStatus
from edge_agent.outbox.messages import draft
from edge_agent.types import Event
from tests import contract
from tests.health_fixtures import agent_status
from tests.mosquitto import broker, subscriber, wait_for
from tests.mqtt_fixtures import delivering
from tests.outbox_fixtures import UTC, make_event, new_id, rows, running
from tests.test_social_distancing import events, near, play, use_case

ROOT = Path(__file__).parent.parent
OFFICIAL = json.loads((ROOT / "tests" / "asyncapi" / "3.0.0.json").read_text(encoding="utf-8"))
KEYWORDS = {
    *("$ref", "allOf", "anyOf", "const", "enum", "type", "title", "description"),
    *("properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
    *("minimum", "maximum", "minLength", "maxLength", "pattern", "default"),
}


def subschemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    below = [*schema.get("allOf", []), *schema.get("anyOf", []), *schema.get("properties", {}).values()]
    for each in (*below, schema.get("items"), schema.get("additionalProperties")):
        if isinstance(each, dict):
            yield from subschemas(each)


# ---- the documents


def test_the_document_in_the_repository_is_the_current_one() -> None:
    assert (ROOT / "docs" / "asyncapi.yaml").read_text(encoding="utf-8") == asyncapi.as_yaml(), "run: make schema"


def test_the_document_is_asyncapi_3() -> None:
    document = yaml.safe_load(asyncapi.as_yaml())
    assert document == asyncapi.document()
    validator = Draft7Validator(OFFICIAL)
    assert best_match(validator.iter_errors(document)) is None
    document["operations"]["publish.status"]["bindings"]["mqtt"]["qos"] = 3
    assert best_match(validator.iter_errors(document)) is not None


def test_every_reference_in_the_document_leads_somewhere() -> None:
    document = asyncapi.document()
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)))
    assert len(references) > 30
    for reference in references:
        place: Any = document
        for step in reference.split("/"):
            place = place[step]


def test_every_command_is_received_and_answered_where_the_asker_says() -> None:
    document = asyncapi.document()
    received = {name: each for name, each in document["operations"].items() if each["action"] == "receive"}
    assert list(received) == [f"receive.commands.{name}" for name in COMMANDS]
    for name, operation in received.items():
        command = name.removeprefix("receive.commands.")
        channel = document["channels"][f"commands.{command}"]
        assert channel["address"] == f"edge/v1/{{site}}/{{device}}/commands/{command}"
        assert [one["$ref"].rpartition("/")[2] for one in operation["messages"]] == list(channel["messages"])
        # AsyncAPI 3.0, Operation Reply Object: with an address, the channel has none; its messages are among the channel's.
        assert document["channels"]["replies"]["address"] is None
        assert operation["reply"]["messages"] == [{"$ref": f"#/channels/replies/messages/{command}.answer"}]
        payload = document["components"]["messages"][f"{command}.request"]["payload"]["$ref"].rpartition("/")[2]
        assert document["components"]["schemas"][payload]["additionalProperties"] is False


def test_what_status_answers_has_a_type() -> None:
    adapter = TypeAdapter(AgentStatus)
    answer = {"command": "status", "ok": True, "result": json.loads(adapter.dump_json(agent_status()))}
    assert contract.fault("commands/status/reply", json.dumps(answer).encode()) == ""
    answer["result"]["cameras"][0]["fps"] = "fast"
    assert "fps" in contract.fault("commands/status/reply", json.dumps(answer).encode())


@pytest.mark.parametrize("schema", [schemas.events(), schemas.messages()], ids=["events", "messages"])
def test_schemas_say_the_same_in_draft_7_which_asyncapi_builds_on(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    Draft7Validator.check_schema(schema)
    used = {keyword for each in schema["$defs"].values() for part in subschemas(each) for keyword in part}
    assert {"pattern", "required", "minimum"} <= used <= KEYWORDS


def test_every_field_is_described_and_names_are_those_of_one_type() -> None:
    _, everything = schemas.describe([*schemas.PUBLISHED, *REQUESTS.values()], "")
    assert [name for name in everything if not re.fullmatch("[A-Z][A-Za-z]+", name)] == []
    _, definitions = schemas.describe([each for each in schemas.PUBLISHED if each.data_field == "data"], "")
    bare = [
        f"{name}.{key}"
        for name, each in definitions.items()
        for key, field in each["properties"].items()
        if not field.get("description")
    ]
    assert not bare


def test_each_event_has_a_schema_of_its_data_under_its_urn() -> None:
    schema = schemas.events()
    started, updated, ended = (sent(event) for event in events(play(use_case(), near(14.0), 24)))
    urn = started["dataschema"]
    validator = Draft202012Validator({"$defs": schema["$defs"], "$ref": f"#/$defs/{urn}"})
    for event in (started, updated, ended):
        assert validator.is_valid(event["data"])
        assert Draft202012Validator(schema).is_valid(event)
    assert not validator.is_valid({**started["data"], "people": "two"})
    assert len([name for name in schema["$defs"] if name.startswith("urn:")]) >= 7


def test_a_consumer_takes_fields_of_later_versions_and_a_producer_must_not_send_them() -> None:
    event = sent(events(play(use_case(), near(14.0), 24))[0])
    event["data"]["mood"] = "fine"
    schema = schemas.events()
    assert Draft202012Validator(schema).is_valid(event)
    assert not Draft202012Validator(contract.strict(schema)).is_valid(event)


@pytest.mark.parametrize("of", ["events", "messages", "asyncapi"])
def test_the_verb_prints_them(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", of, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"events": schemas.events, "messages": schemas.messages, "asyncapi": asyncapi.document}[of]()
    assert main(["schema", of]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == printed


# ---- what the schemas refuse


def sent(event: Event) -> dict[str, Any]:
    """An event as it goes out."""
    doc: dict[str, Any] = json.loads(draft(event, site="s", device="d", boot_id="b").payload(1, clock_ok=True))
    return doc


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"id": "1"}),
        (0, {"time": "2026-01-31T12:00:00Z"}),
        (0, {"sequence": 7}),
        (0, {"sequence": "7"}),
        (0, {"clockok": None}),
        (0, {"source": "mill/box/door"}),
        (0, {"extra": 1}),
        (0, {"type": "edge_agent.social_distancing.violation"}),
        (0, {"dataschema": "urn:edge-agent:event:social_distancing.violation:2"}),
        (0, {"data": None}),
        (0, {"data.ended": "2026-01-31T12:00:00.000Z"}),
        (0, {"data.reason": "left"}),
        (0, {"data.people": 2.5}),
        (0, {"data.min_distance_m": None}),
        (0, {"data.pairs": [{"a": 1, "b": 2}]}),
        (0, {"data.track_ids": list(range(51))}),
        (0, {"data.mood": "fine"}),
        (1, {"data.reason": None}),
        (2, {"data.ended": None}),
        (2, {"data.reason": "tired"}),
    ],
)
def test_an_event_that_is_not_as_described_is_found(number: int, change: dict[str, Any]) -> None:
    doc = sent(events(play(use_case(), near(14.0), 24))[number])
    assert contract.fault("events/cam/social_distancing", json.dumps(doc).encode()) == ""
    broken = copy.deepcopy(doc)
    for path, value in change.items():
        *above, name = path.split(".")
        (broken[above[0]] if above else broken)[name] = value
    assert contract.fault("events/cam/social_distancing", json.dumps(broken).encode())
    for name in ("sequence", "clockok", "bootid", "dataschema", "data"):
        without = {key: value for key, value in doc.items() if key != name}
        assert contract.fault("events/cam/social_distancing", json.dumps(without).encode())


def test_a_message_at_a_wrong_topic_is_found() -> None:
    doc = json.dumps(sent(events(play(use_case(), near(14.0), 24))[0])).encode()
    for topic in ("events/cam/other", "events/_device/social_distancing", "metrics/cam/social_distancing", "heartbeat"):
        assert contract.fault(topic, doc)
    assert contract.fault("telemetry-of-old", b"{}")
    for payload in (b"\xff", b"[]", b"7", b"[" * 100_000):
        assert contract.fault("status", payload)
        assert contract.fault("elsewhere", payload)


# ---- that the suite is held to it


def bad_event(tmp_path: Path) -> None:
    Event(new_id(UTC), "door", "social_distancing", "violation", "started", new_id(UTC), UTC, {"people": 2})


def unknown_use_case(tmp_path: Path) -> None:
    Event(new_id(UTC), "door", "teleport", "arrival", None, new_id(UTC), UTC, {})


def bad_envelope_committed(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox:
        outbox.put([Event("no-uuid", "door", contract.SYNTHETIC, "thing", None, "e", UTC, {})])
        assert outbox.flush(30)


def bad_heartbeat(tmp_path: Path) -> None:
    HeartbeatBuilder().build(agent_status(uptime_s=-5.0), UTC)


def bad_request_understood(tmp_path: Path) -> None:
    contract.check_understood("log.level", {"id": "a", "args": {"level": "loud"}})


def bad_answer(tmp_path: Path) -> None:
    contract.check_answer(b'{"command":"ping","ok":true,"result":{"time":1}}')


def left_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with running(path) as outbox:
        outbox.put([make_event(0)])
        assert outbox.flush(30)
    with closing(sqlite3.connect(path)) as cx, cx:
        cx.execute("UPDATE message SET payload=replace(payload, '\"specversion\"', '\"spec\"')")
    contract.OUTBOXES.append(path)
    contract.check_outboxes()


@pytest.mark.parametrize(
    ("publish", "told"),
    [
        (bad_event, "data"),
        (unknown_use_case, "not described.*teleport"),
        (bad_envelope_committed, r"\$\.id"),
        (bad_heartbeat, r"\$\.uptime_s"),
        (bad_request_understood, "log.level.*loud"),
        (bad_answer, "clock_ok"),
        (left_by_another_process, "spec"),
    ],
)
def test_what_breaks_the_contract_in_a_test_is_noted(
    publish: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    publish(tmp_path)
    found = contract.take_faults()
    assert found and all(re.search(told, fault) for fault in found)


@pytest.mark.slow
def test_what_breaks_the_contract_on_its_way_to_a_broker_is_noted(tmp_path: Path) -> None:
    with running(tmp_path / "o.db") as outbox, broker(tmp_path) as mosquitto, subscriber(mosquitto.port) as sub:
        with delivering(outbox, mosquitto.port) as sink:
            wait_for(lambda: sink.state().connected)
            sink.publish_now("model", HeartbeatBuilder().build(agent_status(), UTC), retain=False)
            wait_for(lambda: bool(sub.under("/model")))
        assert contract.take_faults() == [
            "model: $: 'active' is a required property",
            "model: sent as application/json, retained: False",
        ]
        with subscriber(mosquitto.port, "nothing") as other:  # as an agent in a process of its own
            other.publish("edge/v1/site/box/status", b'{"state":"away"}')
        wait_for(lambda: any("status: $" in fault for fault in contract.FAULTS))
    contract.take_faults()


BROKEN_TEST = """
from edge_agent.outbox.messages import MetricMessage
from edge_agent.types import Metric

def test_of_a_change_that_nobody_told_the_contract():
    Metric("door", "social_distancing", 0.0, 60.0, 60.0, {"people_mean": 1.0})
"""


@pytest.mark.slow
def test_a_test_whose_message_breaks_the_contract_fails(tmp_path: Path) -> None:
    test = tmp_path / "test_broken.py"
    test.write_text(BROKEN_TEST, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout
    assert "metrics/door/social_distancing: $.data" in done.stdout
    assert "1 passed, 1 error" in done.stdout


# ---- the example in the documentation


def test_the_consumer_in_the_documentation_sees_each_event_once_and_explains_every_gap(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "subscribe.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "subscribe.md", "exec"), names)
    take: Callable[[bytes], dict[str, Any] | None] = names["take"]
    with running(tmp_path / "o.db", report_every_s=0.0) as outbox:
        outbox.put([make_event(n) for n in range(10)])
        assert outbox.flush(30)
        before = rows(outbox)
        outbox.outlet("mqtt").refuse(before[4].row, 135, "Not authorized")
        wait_for(lambda: len(rows(outbox)) == 10, what="the report of the dead letter")
        *after, report = rows(outbox)
    taken = [take(row.payload) for row in (*before[:3], *before[1:3], *after[3:], *after)]
    assert [event["data"]["n"] for event in taken if event] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert names["missing"] == {5}
    told = take(report.payload)
    assert told and told["type"] == "edge_agent.device.dead_letter"
    assert names["missing"] == set()
