"""The webhook sink: what is sent, who may believe it, and what becomes of an event at each answer."""

from __future__ import annotations

import base64
import json
import logging
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config_base import TlsConfig
from edge_agent.config_sinks import WebhookConfig
from edge_agent.errors import ConfigError, SinkUnavailable
from edge_agent.outbox import Outbox
from edge_agent.outbox.messages import Row
from edge_agent.outbox.verify import verify
from edge_agent.sinks.batch import BatchPump
from edge_agent.sinks.webhook import WebhookSink, sign
from edge_agent.types import DEVICE, Event
from tests.certificates import Authority, server_context
from tests.file_server import Answer, Server, body, serve, status
from tests.mosquitto import free_port, wait_for
from tests.outbox_fixtures import UTC, depth, make_event, make_metric, new_id, pumping, rows, running
from tests.tcp_server import TcpServer

BOTH = ("mqtt", "webhook")
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(SECRET + "\n")
    return tmp_path / "secret"


@contextmanager
def answering(
    secret_file: Path, answer: Answer, count: int = 3, **config: Any
) -> Iterator[tuple[Outbox, Server, BatchPump]]:
    """A pump with ``count`` events before a server that gives this answer."""
    with serve({"/hook": answer}) as server:
        sink = WebhookSink(WebhookConfig(url=f"{server.url}/hook", secret_file=secret_file, **config))
        path = secret_file.parent / "o.db"
        with (
            running(path, sinks=BOTH, wants={"webhook": sink.wants}, report_every_s=0.0) as outbox,
            pumping(outbox, "webhook", sink) as pump,
        ):
            outbox.put([make_event(n) for n in range(count)])
            assert outbox.flush(10)
            yield outbox, server, pump


def numbers(server: Server) -> list[int]:
    """Of the events so far; -1 for one about the box."""
    return [json.loads(posted.body)["data"].get("n", -1) for posted in server.posted]


def test_the_signature_is_that_of_the_standard() -> None:
    """A published example of the scheme that Standard Webhooks 1.0.0 took over from Svix."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    payload = b'{"test": 2432232314}'
    given = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, payload)
    assert given == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_events_go_one_by_one_in_order_signed_and_as_they_are(secret_file: Path) -> None:
    (secret_file.parent / "token").write_text("bearer-token\n")
    before = int(time.time())
    with answering(secret_file, status(204), count=50, token_file=secret_file.parent / "token") as (
        outbox,
        server,
        pump,
    ):
        wait_for(lambda: depth(outbox, "webhook") == 0 and pump.state.delivered == 50)
        assert numbers(server) == list(range(50))
        assert server.connections == 1, "kept open"
        stored = [row.payload for row in rows(outbox)]
        assert [posted.body for posted in server.posted] == stored
        for posted in server.posted:
            ident, stamp = posted.headers["webhook-id"], posted.headers["webhook-timestamp"]
            assert ident == json.loads(posted.body)["id"]
            assert before <= int(stamp) <= time.time()
            assert posted.headers["webhook-signature"] == sign(KEY, ident, int(stamp), posted.body)
            assert posted.headers["Content-Type"] == "application/cloudevents+json"
            assert posted.headers["Authorization"] == "Bearer bearer-token"
            assert posted.headers["User-Agent"].startswith("edge-agent/")


def test_only_events_of_the_types_that_are_asked_for(secret_file: Path) -> None:
    types = ["edge_agent.synthetic.*.started", "*.camera_state"]
    with answering(secret_file, status(200), count=0, types=types) as (outbox, server, _):
        ident = new_id(UTC)
        change = Event(
            ident,
            DEVICE,
            "device",
            "camera_state",
            None,
            ident,
            UTC,
            {"camera": "till-2", "state": "reconnecting", "previous": "delivering", "reason": ""},
        )
        wanted = make_event(1, "started")
        outbox.put([wanted, make_event(2, "ended"), make_event(3), make_metric(4), change])
        wait_for(lambda: len(server.posted) == 2 and depth(outbox, "webhook") == 0)
        assert [json.loads(posted.body)["id"] for posted in server.posted] == [wanted.id, ident]
        assert outbox.stat().sinks["mqtt"].depth == {"events": 4, "metrics": 1, "telemetry": 0}
    assert verify(secret_file.parent / "o.db").problems == []


@pytest.mark.parametrize("code", [400, 406, 410, 413, 415, 422, 451])
def test_an_event_that_is_refused_is_a_dead_letter_and_the_next_one_follows(secret_file: Path, code: int) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        server: Server = handler.server.served  # type: ignore[attr-defined]
        (status(code, b"no") if b'"n":1' in server.posted[-1].body else status(202))(handler)

    with answering(secret_file, answer) as (outbox, server, pump):
        wait_for(lambda: pump.state.refused == 1 and pump.state.delivered >= 2 and depth(outbox, "webhook") == 0)
        assert pump.state.last_error == ""
        assert numbers(server)[:3] == [0, 1, 2]
        (report,) = [json.loads(r.payload)["data"] for r in rows(outbox) if r.topic == "events/_device/dead_letter"]
        assert report["sink"] == "webhook" and report["sequences"] == [["0000000000000002"] * 2]
        assert [reason[:3] for reason in report["reasons"]] == [str(code)]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (401, "401 Unauthorized; is webhook.token_file the right token"),
        (403, "403 Forbidden; the server lets nobody in"),
        (404, "404 Not Found; correct webhook.url"),
        (405, "405 Method Not Allowed; correct webhook.url"),
        (408, "408 Request Timeout"),
        (425, "425 Too Early"),
        (429, "429 Too Many Requests"),
        (500, "500 Internal Server Error"),
        (502, "502 Bad Gateway"),
        (503, "503 Service Unavailable"),
        (599, "599"),
    ],
)
def test_whatever_may_pass_keeps_the_event_and_the_order(
    secret_file: Path, code: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    well = list[bool]()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (status(204) if well else status(code))(handler)

    with caplog.at_level(logging.DEBUG), answering(secret_file, answer) as (outbox, server, pump):
        wait_for(lambda: pump.state.failures > 2)
        assert pump.state.last_error.startswith(f"{server.url} answers {text}")
        assert depth(outbox, "webhook") == 3 and set(numbers(server)) == {0}, "the first one, again and again"
        well.append(True)
        wait_for(lambda: depth(outbox, "webhook") == 0)
        assert numbers(server)[-2:] == [1, 2] and pump.state.refused == 0
    assert SECRET not in caplog.text and caplog.text.count(f"answers {code}") == 1


@pytest.mark.parametrize(("code", "value"), [(429, "30"), (503, "Wed, 01 Jan 2200 00:00:00 GMT")])
def test_the_pause_that_the_server_asks_for_is_kept(secret_file: Path, code: int, value: str) -> None:
    with answering(secret_file, status(code, Retry_After=value)) as (_, server, pump):
        wait_for(lambda: pump.state.failures == 1)
        assert not pump._stopped.wait(0.5), "the pauses of this pump are 50 ms at most"
        assert len(server.posted) == 1


@pytest.mark.parametrize("value", ["soon", "-5", "٣", "Wed, 99 Jan 2200 00:00:00 GMT", "9" * 400, ""])
def test_a_pause_that_cannot_be_read_or_meant_does_not_stop_it(secret_file: Path, value: str) -> None:
    from edge_agent.sinks.http import retry_after_s

    assert 0.0 <= retry_after_s(value, time.time()) < 1e10
    assert retry_after_s(None, 0.0) == 0.0


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(secret_file: Path, code: int) -> None:
    """Whoever could send one would get the events, and the token."""
    with serve({"/other": status(200)}) as other:
        with answering(secret_file, status(code, Location=f"{other.url}/other?key=hunter2")) as (outbox, _, pump):
            wait_for(lambda: pump.state.failures > 1)
            assert pump.state.last_error.endswith(f"leads to {other.url}: not followed; correct webhook.url")
            assert depth(outbox, "webhook") == 3
        assert other.asked == []


@pytest.mark.parametrize(
    ("location", "text"),
    [("/there", "another path"), ("http://[", "nowhere"), ("//host/x", "://host"), (None, "another path")],
)
def test_a_redirect_to_anywhere_is_told(secret_file: Path, location: str | None, text: str) -> None:
    answer = status(302) if location is None else status(302, Location=location)
    with answering(secret_file, answer) as (_, server, pump):
        wait_for(lambda: pump.state.failures > 0)
        assert pump.state.last_error == (
            f"{server.url} answers 302 Found, which leads to {text}: not followed; correct webhook.url"
        )


def test_nobody_reads_a_long_answer_to_its_end(secret_file: Path) -> None:
    with answering(secret_file, body(b"x" * 1_000_000)) as (outbox, server, _):
        wait_for(lambda: depth(outbox, "webhook") == 0)
        assert server.connections == 3


def test_an_answer_that_never_ends_is_none(secret_file: Path) -> None:
    with answering(secret_file, body(b"x" * 10, says=100), timeout_s=1) as (outbox, _, pump):
        wait_for(lambda: pump.state.failures > 0)
        assert depth(outbox, "webhook") == 3


@pytest.mark.parametrize(
    ("say", "text"),
    [
        (b"", "it hung up without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", "what answers is no HTTP server (BadStatusLine)"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200, "what answers is no HTTP server (HTTPException)"),
    ],
)
def test_what_is_no_http_server_is_told(secret_file: Path, say: bytes, text: str) -> None:
    def answer(client: socket.socket) -> None:
        with client:
            client.recv(65536)
            client.sendall(say)

    server = TcpServer(answer)
    sink = WebhookSink(WebhookConfig(url=f"http://localhost:{server.port}/", secret_file=secret_file))
    with pytest.raises(SinkUnavailable) as told:
        sink.deliver([Row(1, 1, "events/door/x", b'{"id":"1"}')])
    assert str(told.value) == f"http://localhost:{server.port}: {text}"
    server.close()


def test_a_server_that_is_silent_or_away_is_given_up(secret_file: Path) -> None:
    def silent(handler: BaseHTTPRequestHandler) -> None:
        handler.server.served.over.wait(60)  # type: ignore[attr-defined]

    with answering(secret_file, silent, timeout_s=1) as (outbox, server, pump):
        wait_for(lambda: pump.state.failures > 0)
        assert pump.state.last_error == f"{server.url}: no answer in time" and depth(outbox, "webhook") == 3
    port = free_port()
    sink = WebhookSink(WebhookConfig(url=f"http://localhost:{port}/hook?key=hunter2", secret_file=secret_file))
    with pytest.raises(SinkUnavailable) as told:
        sink.probe()
    assert str(told.value) == f"http://localhost:{port}: Connection refused"


def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again(secret_file: Path) -> None:
    with answering(secret_file, status(204), count=1) as (outbox, server, pump):
        wait_for(lambda: depth(outbox, "webhook") == 0 and pump.state.delivered == 1)
        time.sleep(2.1)  # as long as a connection may be idle
        outbox.put([make_event(1)])
        wait_for(lambda: len(server.posted) == 2)
        assert server.connections == 2 and pump.state.failures == 0


def test_tls_with_certificates_of_both_sides(secret_file: Path, tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others", "another CA")
    box = ours.issue("box")
    row = Row(1, 1, "events/door/x", b'{"id":"1"}')

    def send(url: str, **tls: Any) -> str:
        sink = WebhookSink(WebhookConfig(url=f"{url}/hook", secret_file=secret_file, tls=TlsConfig(**tls)))
        try:
            return sink.deliver([row])[0].outcome
        except SinkUnavailable as error:
            return str(error)

    with serve({"/hook": status(204)}, server_context(ours.issue("server"), ours.cert)) as server:
        mutual = {"ca_file": ours.cert, "cert_file": box.cert, "key_file": box.key}
        assert send(server.url, **mutual) == "accept"
        assert "the server's certificate is not accepted" in send(server.url, **mutual | {"ca_file": others.cert})
        assert "certificate" in send(server.url, ca_file=ours.cert)
        assert "host or server_name must be a name in it" in send(server.url, **mutual, server_name="other.example")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is empty"),
        ("correct horse battery staple", "is no key, whsec_ and base64"),
        ("whsec_" + "Ü" * 40, "more than printable ASCII"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "the key has 23 bytes, it must have 24 to 64"),
        ("whsec_" + base64.b64encode(b"x" * 65).decode(), "the key has 65 bytes"),
    ],
)
def test_a_key_that_cannot_be_is_told_before_the_start(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "secret").write_text(content)
    with pytest.raises(ConfigError, match=f"^webhook.secret_file: .*{text}") as told:
        WebhookSink(WebhookConfig(url="https://hooks.example/", secret_file=tmp_path / "secret"))
    assert not content or content not in str(told.value)


def test_without_a_key_nothing_is_sent() -> None:
    with pytest.raises(ConfigError, match=r"webhook.secret_file: missing.*head -c 32"):
        WebhookSink(WebhookConfig(url="https://hooks.example/"))


def test_the_key_may_come_from_the_environment_and_change(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(secret_file, status(204), count=1) as (outbox, server, _):
        wait_for(lambda: depth(outbox, "webhook") == 0 and len(server.posted) == 1)
        other = bytes(reversed(KEY))
        monkeypatch.setenv("EDGE_AGENT_WEBHOOK_SECRET", base64.b64encode(other).decode())
        outbox.put([make_event(1)])
        wait_for(lambda: len(server.posted) == 2)
        last = server.posted[-1]
        stamp = int(last.headers["webhook-timestamp"])
        assert last.headers["webhook-signature"] == sign(other, last.headers["webhook-id"], stamp, last.body)


@pytest.mark.parametrize(
    "payload", [b"{not json", b"[]", b'{"id":5}', b'{"id":"a\\r\\nX: y"}', b'{"id":"a.b"}', b"\xff"]
)
def test_what_is_no_event_with_an_id_is_refused_unsent(secret_file: Path, payload: bytes) -> None:
    with serve({"/hook": status(204)}) as server:
        sink = WebhookSink(WebhookConfig(url=f"{server.url}/hook", secret_file=secret_file))
        row = Row(1, 1, "events/door/x", payload)
        assert isinstance(sink.wants(row), bool)
        assert [verdict.outcome for verdict in sink.deliver([row])] == ["reject"]
        assert server.posted == []


@contextmanager
def receiver(root: Path, secret_file: Path, out: Path) -> Iterator[str]:
    """The example of the documentation, as its reader runs it."""
    port = free_port()
    command = [sys.executable, str(root / "docs" / "examples" / "webhook_receiver.py"), str(secret_file), str(port)]
    with out.open("wb") as written, subprocess.Popen(command, stdout=written, stderr=subprocess.DEVNULL) as process:
        try:
            with socket.socket() as probe:
                wait_for(lambda: probe.connect_ex(("127.0.0.1", port)) == 0, what="the receiver")
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()


@pytest.mark.slow
def test_the_receiver_of_the_documentation_believes_us_and_nobody_else(
    root: Path, secret_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with receiver(root, secret_file, out) as url:
        sink = WebhookSink(WebhookConfig(url=url, secret_file=secret_file))
        doc = {"id": "1", "type": "edge_agent.x.y", "time": "2026-01-31T12:00:00Z", "data": {"n": 1}}
        row = Row(1, 1, "events/door/x", json.dumps(doc).encode())
        assert [sink.deliver([row])[0].outcome for _ in range(2)] == ["accept", "accept"]
        sink.close()
        now = int(time.time())
        forged = [
            {"webhook-signature": sign(bytes(32), "2", now, row.payload)},
            {"webhook-signature": sign(KEY, "other", now, row.payload)},
            {"webhook-signature": sign(KEY, "2", now, row.payload + b" ")},
            {"webhook-signature": sign(KEY, "2", now - 400, row.payload), "webhook-timestamp": str(now - 400)},
            {"webhook-signature": ""},
            {"webhook-timestamp": "soon"},
        ]
        for headers in forged:
            request = urllib.request.Request(
                url, row.payload, {"webhook-id": "2", "webhook-timestamp": str(now)} | headers
            )
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(request, timeout=10)
        (tmp_path / "wrong").write_text("whsec_" + base64.b64encode(bytes(32)).decode())
        with pytest.raises(SinkUnavailable, match=r"webhook.secret_file the right key\?"):
            WebhookSink(WebhookConfig(url=url, secret_file=tmp_path / "wrong")).deliver([row])
    assert out.read_text() == 'edge_agent.x.y 2026-01-31T12:00:00Z {"n": 1}\n', "once"
