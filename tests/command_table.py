"""Commands that are wrong, or from somebody who may not give them, and what a real agent answers.

``python -m tests.command_table`` prints them as a table.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.agent_process import RunningAgent
from tests.command_fixtures import ANSWERS, ROOT, Asker, config_for, wait_until_listening
from tests.mosquitto import broker, subscriber, wait_for

USERS = {"box": "of-the-box", "backend": "of-the-backend", "stranger": "of-nobody"}
ACL = [
    "user box",
    f"topic readwrite {ROOT}#",
    "topic write backend/answers/#",
    "user backend",
    f"topic write {ROOT}commands/+",
    "topic read edge/v1/#",
    "topic read backend/answers/#",
    "user stranger",
    "topic read edge/v1/#",
    f"topic write {ROOT}telemetry/#",
]
ALLOWED = ["ping", "status", "config.get", "snapshot", "log.level", "config.apply", "model.update"]
DEFAULT = "(beside the command)"


class Case(NamedTuple):
    """``code`` is what the answer must carry, "ok" for a result, "" where there must be none; ``says`` a part of its text."""

    about: str
    command: str
    payload: bytes
    code: str
    says: str = ""
    response_topic: str = ANSWERS
    answered_at: str = ANSWERS
    user: str = "backend"


def _with(ident: str, **args: Any) -> bytes:
    return json.dumps({"id": ident, "args": args}).encode()


def _apply(ident: str, **patch: Any) -> bytes:
    return _with(ident, config=patch)


CASES = [
    Case("not JSON", "ping", b"{", "malformed", "not JSON"),
    Case("not UTF-8", "ping", b"\xff\xfe{}", "malformed", "UTF-8"),
    Case("a list", "ping", b"[]", "malformed", "not a JSON object"),
    Case("a key twice", "ping", b'{"id":"a","id":"b"}', "malformed", "twice"),
    Case("60 000 levels deep", "ping", b'{"args":' + b"[" * 60_000, "malformed", "16 levels"),
    Case("17 levels deep", "ping", b'{"args":' + b"[" * 16 + b"]" * 16 + b"}", "malformed", "16 levels"),
    Case("a number that is none", "ping", b'{"id":NaN}', "malformed", "NaN"),
    Case("70 000 bytes", "ping", b" " * 70_000, "too_large", "65536"),
    Case("an unknown key", "ping", b'{"topic":"x"}', "malformed", "topic"),
    Case("an effect without an id", "log.level", b'{"args":{"level":"info"}}', "malformed", "id"),
    Case("an id with a space", "log.level", _with("a b", level="info"), "malformed", "id"),
    Case("an id of 65 characters", "log.level", _with("a" * 65, level="info"), "malformed", "id"),
    Case("an unknown command", "format.disk", b'{"id":"x1"}', "unknown_command", "there are: ping"),
    Case("a command with a space", "rm -rf", b'{"id":"x2"}', "unknown_command", "there are: ping"),
    Case("an unknown argument", "ping", b'{"args":{"loud":true}}', "invalid_args", "loud"),
    Case("a value that is not allowed", "log.level", _with("x3", level="loud"), "invalid_args", "debug"),
    Case("came too late", "ping", b'{"expires":"2020-01-01T00:00:00Z"}', "expired", "after the time"),
    Case("a time without a zone", "ping", b'{"expires":"2030-01-01T00:00:00"}', "malformed", "timezone"),
    Case("not listed in commands.allow", "restart", b'{"id":"x4"}', "not_allowed", "commands.allow"),
    Case("a picture where there are none", "snapshot", b'{"args":{"camera":"pets"}}', "not_allowed", "privacy.images"),
    Case(
        "a wrong value",
        "config.apply",
        _apply("x5", detect={"workers": 0}),
        "invalid_config",
        "detect.workers: given 0",
    ),
    Case("a key of the operator", "config.apply", _apply("x6", mqtt={"host": "evil"}), "invalid_config", "mqtt.host"),
    Case(
        "pictures for all", "config.apply", _apply("x7", privacy={"images": True}), "invalid_config", "privacy.images"
    ),
    Case(
        "a file as camera",
        "config.apply",
        _apply("x8", cameras={"pets": {"source": "/etc/shadow"}}),
        "invalid_config",
        "cameras.pets.source",
    ),
    Case(
        "a secret to a stranger",
        "config.apply",
        _apply("x9", cameras={"pets": {"source": "rtsp://evil/${EDGE_AGENT_MQTT_PASSWORD}"}}),
        "invalid_config",
        "cameras.pets.source",
    ),
    Case(
        "a library to load",
        "config.apply",
        _apply("x10", detect={"tflite": {"delegate": "/tmp/a.so"}}),
        "invalid_config",
    ),
    Case("a model that is not there", "config.apply", _apply("x11", model="nothing@9"), "invalid_config", "nothing"),
    Case("the id of another command", "log.level", _with("used", level="info"), "id_used", "another command"),
    Case("an update without a repository", "model.update", b'{"id":"x12"}', "not_available", "ota.repository"),
    Case("an answer to a stranger's topic", "ping", b"", "ok", "reply_prefixes", "stranger/inbox", DEFAULT),
    Case("an answer as an event", "ping", b"", "ok", "reply_prefixes", ROOT + "events/_device/alarm", DEFAULT),
    Case("an answer as a command", "ping", b"", "ok", "reply_prefixes", ROOT + "commands/restart", DEFAULT),
    Case("from whom the broker does not let", "restart", b'{"id":"never"}', "", user="stranger"),
]


class Answered(NamedTuple):
    """``topic`` and ``answer`` are empty where there was none."""

    topic: str
    answer: dict[str, Any]

    @property
    def code(self) -> str:
        """``ok``, or the code of the error, "" without an answer."""
        return "ok" if self.answer.get("ok") else self.answer.get("error", {}).get("code", "")

    @property
    def text(self) -> str:
        """What it says to people."""
        return str(self.answer.get("note") or self.answer.get("error", {}).get("message", ""))


@contextmanager
def table_agent(root: Path, folder: Path) -> Iterator[tuple[RunningAgent, dict[str, Asker]]]:
    """An agent at a broker with access rules, and who may command it or not, by name."""
    word = folder / "password"
    word.write_text(USERS["box"])
    word.chmod(0o600)
    with broker(folder / "broker", users=USERS, acl=ACL) as server:
        config = config_for(
            root,
            folder,
            server,
            mqtt={"username": "box", "password_file": str(word)},
            commands={"allow": ALLOWED},
        )
        with (
            subscriber(server.port, user=("backend", USERS["backend"])) as backend,
            subscriber(server.port, "nothing/#", user=("stranger", USERS["stranger"])) as stranger,
            RunningAgent(folder, "-c", config, "--realtime") as agent,
        ):
            wait_until_listening(backend)
            askers = {"backend": Asker(backend), "stranger": Asker(stranger)}
            assert askers["backend"].ask("log.level", {"id": "used", "args": {"level": "debug"}})["ok"]
            yield agent, askers


def ask(case: Case, askers: dict[str, Asker]) -> Answered:
    """Give the command, more slowly where the agent says that it is too much; what came back to whoever may read it."""
    asker, reader = askers[case.user], askers["backend"]
    while True:
        correlation = asker.send(case.command, case.payload, to=case.response_topic)
        if not case.code:
            reader.ask("ping")  # a later one was answered, so an answer to this one would be here
            found = reader.answers(correlation)
            return Answered(*found[0]) if found else Answered("", {})
        wait_for(lambda: reader.answers(correlation), 30, case.about)  # noqa: B023 - waited for at once
        answered = Answered(*reader.answers(correlation)[0])
        if answered.code != "rate_limited":
            return answered
        time.sleep(0.5)


def main() -> int:
    """Print the table; 1 where an answer is not the one that is expected."""
    wrong = 0
    sys.stdout.write("| what was sent | command | the answer |\n|---|---|---|\n")
    with tempfile.TemporaryDirectory() as name, table_agent(Path(__file__).parent.parent, Path(name)) as (_, askers):
        for case in CASES:
            answered = ask(case, askers)
            wrong += answered.code != case.code
            text = " ".join(answered.text.split())
            shown = (
                f"`{answered.code}`: {text[:150]}{'…' * (len(text) > 150)}"
                if answered.code
                else "(none: it never came)"
            )
            sys.stdout.write(f"| {case.about} | `{case.command}` | {shown} |\n")
            sys.stdout.flush()
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
