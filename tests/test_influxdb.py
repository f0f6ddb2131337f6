"""The InfluxDB sink: on VictoriaMetrics, on InfluxDB's own parser and types, and on servers that answer what a test wants."""

from __future__ import annotations

import builtins
import gzip
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config_base import TlsConfig
from edge_agent.config_sinks import InfluxDbConfig
from edge_agent.errors import ConfigError, HardwareError, SinkUnavailable
from edge_agent.health.status import CameraStatus
from edge_agent.outbox import Outbox
from edge_agent.outbox.verify import verify
from edge_agent.sinks.batch import BatchPump
from edge_agent.sinks.influxdb import InfluxDbSink
from tests.certificates import Authority, server_context
from tests.contract import SYNTHETIC
from tests.file_server import Answer, Server, serve, status
from tests.mosquitto import free_port, wait_for
from tests.outbox_fixtures import (
    depth,
    make_event,
    make_heartbeat,
    make_metric,
    make_telemetry,
    pumping,
    rows,
    running,
)
from tests.time_series import VictoriaMetrics, influxdb, victoria_metrics

BOTH = ("mqtt", "influxdb")
WRITE = "/api/v2/write"


def make_sink(url: str, **config: Any) -> InfluxDbSink:
    return InfluxDbSink(InfluxDbConfig(url=url, **config), site="mill", device="box-7")


def lines(server: Server) -> list[str]:
    """Line protocol of all writes so far, decompressed."""
    text = [gzip.decompress(posted.body).decode() for posted in server.posted]
    return [line for body in text for line in body.splitlines() if line]


# ---- real servers


@pytest.mark.slow
def test_everything_arrives_at_victoria_metrics(tmp_path: Path) -> None:
    beat = make_heartbeat(cameras=(CameraStatus("gate", "delivering", fps=6.98),))
    with (
        victoria_metrics(tmp_path / "vm") as server,
        running(tmp_path / "o.db", sinks=BOTH) as outbox,
        pumping(outbox, "influxdb", make_sink(server.url)) as pump,
    ):
        outbox.put([*(make_event(n) for n in range(450)), *(make_metric(n) for n in range(30)), beat])
        outbox.put([make_telemetry(n) for n in range(5)])
        wait_for(lambda: outbox.stat().accepted["telemetry"] == 6 and depth(outbox, "influxdb") == 0)
        assert (pump.state.delivered, pump.state.refused, pump.state.last_error) == (486, 0, "")
        ((labels, sequences),) = server.series("edge_event_synthetic_sequence")
        assert sequences == [float(n) for n in range(1, 451)]
        assert labels == {
            "__name__": "edge_event_synthetic_sequence",
            "site": "mill",
            "device": "box-7",
            "camera": "door",
            "use_case": SYNTHETIC,
            "what": "thing",
        }
        assert server.values("edge_metric_synthetic_people") == [float(n) for n in range(30)]
        assert server.values("edge_heartbeat_sequence") == [0.0]
        assert server.values("edge_telemetry_.*_value") == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert server.series("edge_heartbeat_camera_fps")[0][0]["camera"] == "gate"


@pytest.mark.slow
def test_nothing_is_lost_while_the_server_is_away_at_first_or_in_the_middle(tmp_path: Path) -> None:
    server = VictoriaMetrics(tmp_path / "vm", free_port())
    try:
        with (
            running(tmp_path / "o.db", sinks=BOTH) as outbox,
            pumping(outbox, "influxdb", make_sink(server.url)) as pump,
        ):
            outbox.put([make_event(n) for n in range(100)])
            wait_for(lambda: pump.state.failures > 2)
            assert pump.state.last_error == f"{server.url}: Connection refused" and depth(outbox, "influxdb") == 100
            server.start()
            wait_for(lambda: depth(outbox, "influxdb") == 0)
            server.stop()
            outbox.put([make_event(n) for n in range(100, 200)])
            wait_for(lambda: pump.state.failures > 2)
            server.start()
            wait_for(lambda: depth(outbox, "influxdb") == 0)
            assert set(server.values("edge_event_synthetic_sequence")) == {float(n) for n in range(1, 201)}
    finally:
        server.stop()


@pytest.mark.slow
def test_influxdb_takes_every_line_and_refuses_one_of_another_type_alone(tmp_path: Path) -> None:
    """By its own parser and field types."""
    with (
        influxdb(tmp_path / "influx") as server,
        running(tmp_path / "o.db", sinks=BOTH, report_every_s=0.0) as outbox,
        pumping(outbox, "influxdb", make_sink(server.url)) as pump,
    ):
        outbox.put([make_event(n, "started", note='say "hi"\\ , = \n x', zone="Zürich") for n in range(100)])
        outbox.put([make_metric(n) for n in range(20)])
        wait_for(lambda: depth(outbox, "influxdb") == 0 and pump.state.delivered == 120)
        kept = server.ask("SELECT * FROM edge_event_synthetic")
        assert [row["sequence"] for row in kept] == list(range(1, 101))
        assert kept[0]["note"] == 'say "hi"\\ , =   x' and kept[0]["zone"] == "Zürich"
        assert {row["time"] // 10**6 for row in kept} == {1_700_000_000_000 + 1000 * n for n in range(100)}
        bad = make_event(1000, "started", zone=5.0)
        outbox.put([*(make_event(n, "started", zone="a") for n in range(100, 150)), bad, make_event(151, zone="b")])
        wait_for(lambda: pump.state.refused == 1 and depth(outbox, "influxdb") == 0)
        kept = server.ask("SELECT sequence, id FROM edge_event_synthetic")
        assert [row["sequence"] for row in kept] == [n for n in range(1, 153) if n != 151]
        assert bad.id not in {row["id"] for row in kept}
        told = [json.loads(row.payload)["data"] for row in rows(outbox) if row.topic == "events/_device/dead_letter"]
        assert told[0]["sink"] == "influxdb" and told[0]["sequences"] == [["0000000000000151"] * 2]
        (reason,) = told[0]["reasons"]
        assert reason.startswith('partial write: field type conflict: input field "zone"')
        assert len(server.ask("SHOW SERIES")) <= 4, "started, without a phase, metrics, and dead_letter of the box"
    assert verify(tmp_path / "o.db").problems == []


@pytest.mark.slow
def test_what_is_written_twice_is_there_once(tmp_path: Path) -> None:
    with influxdb(tmp_path / "influx") as server, running(tmp_path / "o.db", sinks=BOTH) as outbox:
        outbox.put([make_event(1, "started") for _ in range(50)])  # of one series, in one millisecond
        assert outbox.flush(10)
        batch, sink = rows(outbox, 0, "influxdb"), make_sink(server.url)
        for _ in range(2):
            assert {verdict.outcome for verdict in sink.deliver(batch)} == {"accept"}
        kept = server.ask("SELECT sequence FROM edge_event_synthetic")
        assert [row["sequence"] for row in kept] == list(range(1, 51))


@pytest.mark.slow
def test_a_database_that_is_not_there_keeps_everything(tmp_path: Path) -> None:
    with influxdb(tmp_path / "influx") as server, running(tmp_path / "o.db", sinks=BOTH) as outbox:
        outbox.put([make_event(1)])
        assert outbox.flush(10)
        with pytest.raises(
            SinkUnavailable, match=r"404 Not Found \(database not found: \"nope\"\); correct influxdb.org"
        ):
            make_sink(server.url, bucket="nope").deliver(rows(outbox, 0, "influxdb"))
        make_sink(server.url).probe()
        assert server.ask("SHOW MEASUREMENTS") == []


# ---- answers


def said(code: str, message: str) -> bytes:
    return json.dumps({"code": code, "message": message}).encode()


@contextmanager
def answering(
    tmp_path: Path, answer: Answer, count: int = 5, **config: Any
) -> Iterator[tuple[Outbox, Server, BatchPump]]:
    """A pump with ``count`` events before a server that gives this answer."""
    with (
        serve({WRITE: answer}) as server,
        running(tmp_path / "o.db", sinks=BOTH, report_every_s=0.0) as outbox,
        pumping(outbox, "influxdb", make_sink(server.url, **config)) as pump,
    ):
        outbox.put([make_event(n) for n in range(count)])
        assert outbox.flush(10)
        yield outbox, server, pump


def one_bad(code: int, content: bytes) -> Answer:
    """As a server that does not take ``n=2``."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        server: Server = handler.server.served  # type: ignore[attr-defined]
        bad = b"n=2," in gzip.decompress(server.posted[-1].body)
        (status(code, content) if bad else status(204))(handler)

    return answer


@pytest.mark.parametrize(
    ("code", "content", "reason"),
    [
        (
            400,
            said("invalid", "unable to parse 'edge_event n=2,x': missing tag value"),
            "unable to parse '…': missing tag value",
        ),
        (422, said("unprocessable entity", "partial write: points beyond retention policy dropped=1"), None),
        (400, b'{"error":"partial write: field type conflict"}', "partial write: field type conflict"),
        (413, said("request too large", "points batch is too large"), "points batch is too large"),
        (413, b"<html>nginx</html>", "413 Request Entity Too Large"),
    ],
)
def test_only_the_message_at_fault_is_refused(tmp_path: Path, code: int, content: bytes, reason: str | None) -> None:
    with answering(tmp_path, one_bad(code, content)) as (outbox, server, pump):
        wait_for(lambda: pump.state.refused == 1 and depth(outbox, "influxdb") == 0)
        assert pump.state.last_error == ""
        (letter,) = [json.loads(row.payload) for row in rows(outbox) if row.topic == "events/_device/dead_letter"]
        assert letter["data"]["sequences"] == [["0000000000000003"] * 2]
        assert list(letter["data"]["reasons"]) == [reason or "partial write: points beyond retention policy dropped=1"]
        assert {n for n in range(5) if any(f"n={n}," in line for line in lines(server))} == set(range(5))
    assert verify(tmp_path / "o.db").problems == []


@pytest.mark.parametrize(
    ("code", "content", "text"),
    [
        (
            401,
            said("unauthorized", "unauthorized access"),
            "401 Unauthorized (unauthorized access); is influxdb.token_file the right",
        ),
        (
            403,
            said("forbidden", "insufficient permissions"),
            "403 Forbidden (insufficient permissions); the token may not write",
        ),
        (404, said("not found", 'bucket "x" not found'), '404 Not Found (bucket "x" not found); correct influxdb.org'),
        (400, b"<html>a proxy between</html>", "400 Bad Request"),
        (422, b"", "422 Unprocessable"),
        (429, said("too many requests", "quota"), "429 Too Many Requests (quota)"),
        (500, said("internal error", "panic"), "500 Internal Server Error (panic)"),
        (503, b"", "503 Service Unavailable"),
        (302, b"", "302 Found"),
        (418, b"[" * 50_000, "418 I'm a Teapot"),
    ],
)
def test_what_is_no_messages_fault_keeps_them_all_and_says_so(
    tmp_path: Path, code: int, content: bytes, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "token").write_text("hunter2hunter2")
    well = list[bool]()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (status(204) if well else status(code, content, Location="http://localhost:1/"))(handler)

    with (
        caplog.at_level(logging.DEBUG),
        answering(tmp_path, answer, token_file=tmp_path / "token") as (outbox, server, pump),
    ):
        wait_for(lambda: pump.state.failures > 2)
        assert pump.state.last_error.startswith(f"{server.url} answers {text}")
        assert depth(outbox, "influxdb") == 5 and pump.state.refused == 0
        assert all(posted.headers["Authorization"] == "Token hunter2hunter2" for posted in server.posted)
        well.append(True)
        wait_for(lambda: depth(outbox, "influxdb") == 0)
        assert pump.state.last_error == ""
    assert "hunter2" not in caplog.text and caplog.text.count(f"answers {code}") == 1
    assert outbox.stat().refused["events"] == 0


@pytest.mark.parametrize("value", ["30", "Wed, 01 Jan 2200 00:00:00 GMT"])
def test_the_pause_that_the_server_asks_for_is_kept(tmp_path: Path, value: str) -> None:
    with answering(tmp_path, status(503, Retry_After=value)) as (_, server, pump):
        wait_for(lambda: pump.state.failures == 1)
        assert not pump._stopped.wait(0.5), "the pauses of this pump are 50 ms at most"
        assert len(server.posted) == 1


@pytest.mark.parametrize(("code", "passes"), [(204, True), (400, True), (401, False), (404, False), (500, False)])
def test_a_probe_writes_nothing_and_finds_out_whether_we_may(code: int, passes: bool) -> None:
    with serve({WRITE: status(code, said("invalid", "writing requires points") if code != 204 else b"")}) as server:
        if passes:
            make_sink(server.url).probe()
        else:
            with pytest.raises(SinkUnavailable, match=f"answers {code}"):
                make_sink(server.url).probe()
        assert lines(server) == []


def test_requests_are_compressed_and_name_organisation_and_bucket(tmp_path: Path) -> None:
    with answering(tmp_path, status(204), org="our org", bucket="cam&era") as (outbox, server, _):
        wait_for(lambda: depth(outbox, "influxdb") == 0 and server.posted != [])
        (posted, *_) = server.posted
        assert posted.target == f"{WRITE}?org=our+org&bucket=cam%26era&precision=ns"
        assert posted.headers["Content-Encoding"] == "gzip" and "Authorization" not in posted.headers


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    def silent(handler: BaseHTTPRequestHandler) -> None:
        handler.server.served.over.wait(60)  # type: ignore[attr-defined]

    with answering(tmp_path, silent, timeout_s=1) as (outbox, server, pump):
        wait_for(lambda: pump.state.last_error == f"{server.url}: no answer in time")
        assert depth(outbox, "influxdb") == 5


# ---- TLS, secrets, package


def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others", "another CA")
    box = ours.issue("box")
    mutual = TlsConfig(ca_file=ours.cert, cert_file=box.cert, key_file=box.key)
    with serve({WRITE: status(204)}, server_context(ours.issue("server"), ours.cert)) as server:
        make_sink(server.url, tls=mutual).probe()
        with pytest.raises(
            SinkUnavailable, match=r"the server's certificate is not accepted.*ca_file must hold the CA"
        ):
            make_sink(server.url, tls=TlsConfig(ca_file=others.cert)).probe()
        with pytest.raises(SinkUnavailable, match="certificate"):
            make_sink(server.url, tls=TlsConfig(ca_file=ours.cert)).probe()
        with pytest.raises(SinkUnavailable, match="certificate is not accepted"):
            make_sink(server.url).probe()
    with serve({WRITE: status(204)}) as server, pytest.raises(SinkUnavailable, match="no TLS there"):
        make_sink(server.url.replace("http:", "https:"), tls=mutual).probe()


def test_token_and_certificates_are_read_anew_after_a_refusal(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old-token\n")

    def answer(handler: BaseHTTPRequestHandler) -> None:
        status(204 if handler.headers["Authorization"] == "Token new-token" else 401)(handler)

    with answering(tmp_path, answer, token_file=token) as (outbox, _, pump):
        wait_for(lambda: pump.state.failures > 0)
        token.unlink()
        wait_for(lambda: pump.state.last_error.startswith(f"influxdb.token_file: {token}: cannot read the secret"))
        token.write_text("new-token\n")
        wait_for(lambda: depth(outbox, "influxdb") == 0)


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"", "is empty"), ("Grüße\n".encode(), "no token"), (b"a\x01b\n", "no token"), (b"\xff\n", "not text")],
)
def test_a_token_that_cannot_be_is_told_before_the_start(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match=f"influxdb.token_file: .*{text}"):
        make_sink("http://localhost:1", token_file=tmp_path / "token")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("influxdb_client"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(HardwareError, match=r"needs the extra influxdb \(No module .*\): pip install influxdb-client"):
        make_sink("http://localhost:1")
