"""Commands between their way in and their answer: what is taken, done once, remembered, and never lost."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge_agent.commands import envelope, ledger
from edge_agent.commands.catalogue import COMMANDS
from edge_agent.commands.desk import LATER, MAX_WAITING, Asked, Desk, Handler, Later, Outcome, Record
from edge_agent.commands.ledger import Address, Ledger
from edge_agent.commands.over_mqtt import BURST, Allowance, address
from edge_agent.contract.schemas import command_schemas
from edge_agent.errors import CommandError
from edge_agent.sinks.mqtt_inbound import Inbound
from edge_agent.types import rfc3339
from tests.agent_process import run_agent
from tests.mosquitto import wait_for

HERE = Address("answers/here", b"c")
ROOT = "edge/v1/site/box/"


class NoBeat:
    def begin(self) -> None: ...
    def end(self) -> None: ...


class Office:
    """A desk with a worker, and what it did: ``done`` names, ``posted`` answers over MQTT, ``records``."""

    def __init__(self, path: Path, boot_id: str = "boot-1", clock_ok: bool = True) -> None:
        self.done: list[str] = []
        self.posted: list[tuple[Address, dict[str, Any]]] = []
        self.records: list[Record] = []
        self.connected = True
        self.resume: Outcome | CommandError | Later = CommandError("interrupted", "the agent ended")
        handlers: dict[str, Handler] = {name: self.handler(name) for name in COMMANDS}
        self.ledger = Ledger(path, boot_id, lambda: clock_ok)
        self.desk = Desk(
            handlers,
            self.ledger,
            post=self.post,
            resume=lambda _name, _ident: self.resume,
            on_record=self.records.append,
            clock_ok=lambda: clock_ok,
        )
        self.act: Callable[[envelope.Request], Outcome | Later] = lambda _: {"done": len(self.done)}
        self.desk.recover()
        threading.Thread(target=self.desk.work, args=(NoBeat(),), daemon=True).start()

    def handler(self, name: str) -> Handler:
        def handle(request: envelope.Request) -> Outcome | Later:
            self.done.append(name)
            return self.act(request)

        return handle

    def post(self, to: Address, answer: bytes) -> bool:
        if self.connected:
            self.posted.append((to, json.loads(answer)))
        return self.connected

    def ask(self, name: str, payload: dict[str, Any] | None = None, to: Any = HERE, **options: Any) -> None:
        self.desk.ask(Asked(name, json.dumps(payload or {}).encode(), "mqtt", to, **options))

    def answer(self, name: str, payload: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Ask and wait."""
        seen = len(self.posted)
        self.ask(name, payload, **options)
        wait_for(lambda: len(self.posted) > seen, what=f"an answer to {name}")
        return self.posted[-1][1]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path / "commands.db")
    yield made
    made.ledger.close()


def code(answer: dict[str, Any]) -> str:
    return str(answer["error"]["code"])


def test_an_id_is_done_once_and_answered_each_time(office: Office) -> None:
    first = office.answer("restart", {"id": "a"})
    assert office.answer("restart", {"id": "a"}) == first and office.done == ["restart"]
    assert code(office.answer("model.rollback", {"id": "a"})) == "id_used"
    assert code(office.answer("restart", {"id": "a", "args": {"x": 1}})) == "invalid_args"
    assert office.answer("restart", {"id": "b"})["result"] == {"done": 2}
    # What only reads is done each time, and not written down.
    assert office.answer("ping", {"id": "a"})["ok"] and office.answer("ping", {"id": "a"})["ok"]
    assert [record.id for record in office.records] == ["a", "b"]


def test_a_later_expiry_does_not_make_it_another_command(office: Office) -> None:
    first = office.answer("restart", {"id": "a", "expires": rfc3339(time.time() + 60)})
    assert office.answer("restart", {"id": "a", "expires": rfc3339(time.time() + 90)}) == first


def test_the_id_is_on_disk_before_anything_is_done(office: Office, tmp_path: Path) -> None:
    def look(_: envelope.Request) -> Outcome:
        with closing(sqlite3.connect(tmp_path / "commands.db")) as database:
            return {"rows": database.execute("SELECT id, answer FROM command").fetchall()}

    office.act = look
    assert office.answer("restart", {"id": "a"})["result"] == {"rows": [["a", None]]}


def test_what_another_run_left_under_way_is_told_to_whoever_asked(tmp_path: Path) -> None:
    first = Office(tmp_path / "commands.db")
    first.act = lambda _: LATER
    first.ask("restart", {"id": "a"})
    wait_for(lambda: first.done)
    first.ledger.close()
    second = Office(tmp_path / "commands.db", boot_id="boot-2")
    assert code(second.posted[0][1]) == "interrupted" and second.posted[0][0] == HERE
    assert second.answer("restart", {"id": "a"}) == second.posted[0][1] and second.done == []
    assert second.records == [Record("restart", "a", "interrupted", "the agent ended")]
    second.ledger.close()


def test_an_answer_waits_for_the_connection(office: Office) -> None:
    office.connected = False
    office.ask("restart", {"id": "a"})
    wait_for(lambda: office.records)
    assert not office.posted
    office.connected = True
    office.desk.tell()
    office.desk.tell()
    assert [answer["id"] for _, answer in office.posted] == ["a"]


def test_who_asks_again_meanwhile_gets_the_answer_when_it_is_there(office: Office) -> None:
    go, heard = threading.Event(), list[bytes]()
    office.act = lambda _: {"waited": go.wait(10)}
    office.ask("restart", {"id": "a"})
    other = Address("answers/other")
    office.ask("restart", {"id": "a"}, to=other)
    office.ask("restart", {"id": "a"}, to=heard.append)
    go.set()
    wait_for(lambda: heard and office.posted)
    assert [to for to, _ in office.posted] == [other] and office.done == ["restart"]
    assert json.loads(heard[0])["result"] == {"waited": True}


def test_a_queue_has_an_end_and_a_command_that_hangs_is_told(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    office.act = lambda _: {"waited": go.wait(30)}
    office.ask("ping")
    wait_for(lambda: office.done)
    for _ in range(MAX_WAITING):
        office.ask("ping")
    assert not office.posted
    assert code(office.answer("ping")) == "busy" and code(office.answer("restart", {"id": "a"})) == "busy"
    now = time.monotonic()
    office.desk.look()
    monkeypatch.setattr(time, "monotonic", lambda: now + 11)
    office.desk.look()
    assert code(office.posted[-1][1]) == "timeout"
    told = len(office.posted)
    go.set()
    # The late result is nobody's any more, and those behind it waited too long.
    wait_for(lambda: len(office.posted) == told + MAX_WAITING)
    assert {code(answer) for _, answer in office.posted[told:]} == {"expired"} and office.done == ["ping"]


@pytest.mark.parametrize("clock_ok", [True, False])
def test_a_time_that_cannot_be_judged_refuses_what_has_an_effect(tmp_path: Path, clock_ok: bool) -> None:
    office = Office(tmp_path / "commands.db", clock_ok=clock_ok)
    past, future = rfc3339(time.time() - 5), rfc3339(time.time() + 60)
    assert code(office.answer("restart", {"id": "a", "expires": past})) == ("expired" if clock_ok else "clock_unsure")
    assert office.answer("restart", {"id": "b", "expires": future})["ok"] is clock_ok
    assert office.answer("ping", {"expires": future})["ok"]
    office.ledger.close()


def test_a_message_that_expires_while_it_waits_is_not_done(office: Office) -> None:
    assert code(office.answer("restart", {"id": "a"}, expiry_s=0)) == "expired" and office.done == []


def test_a_fault_of_ours_is_answered_and_does_not_end_the_worker(office: Office) -> None:
    office.act = lambda _: {"x": 1 / 0}
    assert "ZeroDivisionError" in office.answer("ping")["error"]["message"]
    office.act = lambda _: {"x": float("nan")}
    assert code(office.answer("ping")) == "failed"
    office.act = lambda _: {"x": "y" * envelope.MAX_ANSWER}
    assert code(office.answer("ping")) == "too_large"
    office.act = lambda _: {}
    assert office.answer("ping")["ok"]


def test_what_cannot_be_written_down_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    office = Office(tmp_path / "file" / "commands.db")
    assert code(office.answer("restart", {"id": "a"})) == "not_recorded" and office.done == []
    assert office.answer("ping")["ok"]


def test_a_damaged_ledger_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "commands.db"
    path.write_bytes(b"no database" * 1000)
    office = Office(path)
    assert office.answer("restart", {"id": "a"})["ok"]
    assert (tmp_path / "commands.db.corrupt").read_bytes().startswith(b"no database")
    office.ledger.close()


def test_the_ledger_is_bounded_and_what_comes_again_and_again_stays(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_ROWS", 10)
    office.answer("restart", {"id": "retained"})
    for n in range(25):
        office.answer("restart", {"id": str(n)})
        office.answer("restart", {"id": "retained"})
    assert office.done == ["restart"] * 26
    with closing(sqlite3.connect(office.ledger._file.path)) as database:
        kept = {row[0] for row in database.execute("SELECT id FROM command")}
    assert kept == {"retained", *map(str, range(16, 25))}


@pytest.mark.parametrize("clock_ok", [True, False])
def test_age_counts_only_by_a_clock_that_can_be_believed(
    tmp_path: Path, clock_ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = Office(tmp_path / "commands.db", clock_ok=clock_ok)
    office.answer("restart", {"id": "old"})
    later = time.time() + ledger.MAX_AGE_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    office.answer("restart", {"id": "new"})
    office.answer("restart", {"id": "old"})
    assert len(office.done) == (3 if clock_ok else 2)
    office.ledger.close()


def asking(response_topic: str | None, name: str = "ping") -> Inbound:
    return Inbound(f"{ROOT}commands/{name}", b"", response_topic=response_topic, correlation=b"c")


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        ("edge/v1/site/box/replies/a", True),
        ("edge/v1/site/box/commands/ping/reply/a", True),
        ("backend/answers/a", True),
        ("backend/answers", False),
        ("backend/answersX/a", False),
        ("edge/v1/site/box", False),
        ("edge/v1/site/box2/replies/a", False),
        ("edge/v1/site/box/status", False),
        ("edge/v1/site/box/events/gate/x", False),
        ("edge/v1/site/box/commands/restart", False),
        ("backend/answers/#", False),
        ("backend/answers/+/a", False),
        ("backend/answers/\0", False),
        ("backend/answers/" + "ä" * 300, False),
        ("$SYS/a", False),
        ("", False),
    ],
)
def test_where_an_answer_may_go(wanted: str, allowed: bool) -> None:
    to = address(asking(wanted), ROOT, ["backend/answers/"])
    assert to.topic == (wanted if allowed else f"{ROOT}commands/ping/reply")
    assert bool(to.note) is not allowed and to.correlation == b"c"


def test_a_strangers_text_does_not_become_a_topic() -> None:
    assert address(asking(None, "ping"), ROOT, []).topic == f"{ROOT}commands/ping/reply"
    assert address(asking(None, "PING\x07" * 99), ROOT, []).topic == f"{ROOT}commands/unknown/reply"


def test_an_allowance_fills_up_again() -> None:
    now = [0.0]
    allowance = Allowance(BURST, 2.0, lambda: now[0])
    assert [allowance.take() for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    now[0] = 1.0
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    now[0] = 1e6
    assert [allowance.take() for _ in range(BURST + 1)] == [True] * BURST + [False]


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_can_break_the_reader(payload: bytes) -> None:
    for name in ("ping", "restart", "config.apply"):
        assert refusal(name, payload) in {None, "malformed", "invalid_args"}


def refusal(name: str, payload: bytes) -> str | None:
    """The code that the reader answers, None where it understands."""
    try:
        envelope.understand(name, envelope.load(payload))
    except CommandError as error:
        assert json.loads(envelope.failed(name, None, error))["ok"] is False
        return error.code
    return None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["id", "expires", "args", "x"]), json_values, max_size=4))
def test_no_json_can_break_the_reader(data: dict[str, Any]) -> None:
    for name in COMMANDS:
        assert refusal(name, json.dumps(data).encode()) in {None, "malformed", "invalid_args"}
    envelope.ident_of(data)


def test_there_is_a_schema_for_every_command() -> None:
    done = run_agent("schema", "commands")
    commands = json.loads(done.stdout)["commands"]
    assert list(commands) == list(COMMANDS) and commands == command_schemas()["commands"]
    for name, schema in commands.items():
        Draft202012Validator.check_schema(schema["request"])
        Draft202012Validator.check_schema(schema["answer"])
        assert ("id" in schema["request"].get("required", [])) is COMMANDS[name].effect
        assert schema["request"]["additionalProperties"] is False


def test_the_schemas_fit_what_is_asked_and_answered(office: Office) -> None:
    schema = command_schemas()["commands"]["restart"]
    ask, answer = (Draft202012Validator(schema[what]) for what in ("request", "answer"))
    assert ask.is_valid({"id": "a"}) and not ask.is_valid({}) and not ask.is_valid({"id": "a b"})
    office.act = lambda _: {"boot_id": "b", "version": "1"}
    assert answer.is_valid(office.answer("restart", {"id": "a"}))
    assert answer.is_valid(office.answer("restart", {"id": "a", "x": 1}))
    assert not answer.is_valid({"command": "restart", "ok": True})
    assert not answer.is_valid({"command": "restart", "ok": True, "result": {"boot_id": 1, "version": "1"}})
