from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_agent.config import HttpConfig
from edge_agent.errors import ConfigError, ListenError
from edge_agent.health import rest
from edge_agent.health.guard import is_loopback_name
from edge_agent.health.rest import MAX_CONNECTIONS, RestServer
from edge_agent.health.status import AgentStatus, ModelStatus, WorkerStatus
from tests.health_fixtures import agent_status

TOKEN = "correct-horse-battery"
JPEG = b"\xff\xd8picture\xff\xd9"
EVENTS = [{"id": str(number), "type": "edge_agent.social_distancing.violation.started"} for number in range(600)]


@dataclass
class Agent:
    """Stands behind the API."""

    status: AgentStatus = field(default_factory=agent_status)
    asked: list[tuple[str | None, int]] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def events(self, since: str | None, limit: int) -> list[dict[str, Any]]:
        self.asked.append((since, limit))
        return EVENTS[:limit]

    def serve(self, config: HttpConfig, *, images: bool = True) -> RestServer:
        snapshot = self.pictures.get if images else None
        return RestServer(
            config, lambda: self.status, self.events, lambda: {"models": [{"name": "person-n"}]}, snapshot
        )


Starter = Callable[..., tuple[Agent, RestServer, httpx.Client]]


@pytest.fixture
def start() -> Iterator[Starter]:
    running: list[tuple[RestServer, httpx.Client]] = []

    def make(host: str = "127.0.0.1", **options: Any) -> tuple[Agent, RestServer, httpx.Client]:
        agent = Agent()
        server = agent.serve(HttpConfig(host=host, port=0), **options)
        server.start()
        client = httpx.Client(base_url=server.url.replace("0.0.0.0", "127.0.0.1"), timeout=20)
        running.append((server, client))
        return agent, server, client

    yield make
    for server, client in running:
        client.close()
        assert server.stop(10)
        assert not server.alive


def test_probes_follow_the_state(start: Starter) -> None:
    agent, _, client = start()
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").status_code == 200
    agent.status = replace(agent.status, model=ModelStatus(error="damaged"))
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "failing")
    assert answer.json()["parts"]["model"] == {"status": "failing", "reason": "damaged"}
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    agent.status = replace(agent.status, workers=(WorkerStatus("detect-0", True, "stuck", 31.0),))
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["parts"]["workers"]["reason"]) == (503, "detect-0 stuck")


def test_state_cameras_models_metrics(start: Starter) -> None:
    _, _, client = start()
    status = client.get("/api/v1/status").json()
    assert (status["device"], status["cameras"][0]["fps"], status["outbox"]["depth"]) == (
        "box-7",
        6.98,
        {"event": 2, "metric": 1},
    )
    assert client.get("/api/v1/cameras").json() == status["cameras"]
    assert client.get("/api/v1/models").json() == {"models": [{"name": "person-n"}]}
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'edge_agent_camera_fps{camera="gate"} 6.98\n' in metrics.text


def test_events_are_validated_and_bounded(start: Starter) -> None:
    agent, _, client = start()
    assert len(client.get("/api/v1/events").json()) == 100
    good = {"since": "2026-01-31T13:00:00+01:00", "limit": "500"}
    assert len(client.get("/api/v1/events", params=good).json()) == 500
    assert agent.asked == [(None, 100), ("2026-01-31T12:00:00.000Z", 500)]
    for bad in ("limit=0", "limit=501", "limit=x", "since=yesterday", "since=2026-01-31T12:00:00"):
        answer = client.get(f"/api/v1/events?{bad}")
        assert answer.status_code == 422, bad
        assert answer.json()["detail"]
    assert len(agent.asked) == 2


def test_times_at_the_edges_of_the_calendar_are_refused_not_fatal(start: Starter) -> None:
    _, _, client = start()
    for since in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "1e300", "-1e18", "nan"):
        assert client.get("/api/v1/events", params={"since": since}).status_code in {200, 422}, since


def test_snapshots_only_when_allowed(start: Starter) -> None:
    agent, _, client = start()
    assert client.get("/api/v1/cameras/gate/snapshot.jpg").json() == {
        "detail": "this camera has delivered no picture yet"
    }
    agent.pictures["gate"] = JPEG
    answer = client.get("/api/v1/cameras/gate/snapshot.jpg")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/jpeg", JPEG)
    assert client.get("/api/v1/cameras/yard/snapshot.jpg").status_code == 404
    assert client.get("/api/v1/cameras/..%2f..%2fetc/snapshot.jpg").status_code in {404, 422}
    _, _, closed = start(images=False)
    answer = closed.get("/api/v1/cameras/gate/snapshot.jpg")
    assert answer.status_code == 403
    assert "privacy.images" in answer.json()["detail"]


def test_docs_come_from_here_alone(start: Starter) -> None:
    _, _, client = start()
    page = client.get("/docs")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|spec-url)="([^"]+)"', page.text)
    assert links == ["/docs/rapidoc-min.js", "/docs/openapi.json"]
    assert not re.search(r"https?://", page.text)
    assert len(client.get(links[0]).content) > 500_000
    paths = client.get(links[1]).json()["paths"]
    assert {"/healthz", "/readyz", "/metrics", "/api/v1/events", "/api/v1/cameras/{camera_id}/snapshot.jpg"} <= set(
        paths
    )


def test_every_answer_bears_the_security_headers(start: Starter) -> None:
    _, _, client = start()
    for path in ("/healthz", "/docs", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::2]:80", "192.168.1.5"]
)
def test_a_foreign_host_name_is_refused(start: Starter, host: str) -> None:
    _, _, client = start()
    assert client.get("/api/v1/status", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("[::1]:80", True),
        ("127.9.9.9", True),
        ("", False),
        ("[", False),
        ("::1", False),
    ],
)
def test_names_of_loopback(host: str, own: bool) -> None:
    assert is_loopback_name(host) is own


def test_only_reading(start: Starter) -> None:
    _, _, client = start()
    assert client.post("/api/v1/status", json={}).status_code == 405
    assert client.options("/api/v1/status").status_code == 405
    assert client.request("GET", "/api/v1/status", content=b"x" * 100).status_code == 413


def test_beyond_loopback_a_token_is_needed(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"http.host: 0.0.0.0 is reachable from the network"):
        Agent().serve(HttpConfig(host="0.0.0.0", port=0))
    monkeypatch.setenv("EDGE_AGENT_HTTP_TOKEN", TOKEN)
    _, server, client = start(host="0.0.0.0")
    assert server.bound is not None and server.bound[0] == "0.0.0.0"
    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/status", "/docs", "/docs/openapi.json", "/nowhere"):
        refused = client.get(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), path
    for header in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"):
        given = {"authorization": header.encode()}
        assert client.get("/healthz", headers=given).status_code == 401, header  # type: ignore[arg-type]
    allowed = {"authorization": f"Bearer {TOKEN}", "host": "box-7.mill.example"}
    assert client.get("/healthz", headers=allowed).status_code == 200


def test_a_token_from_a_file(start: Starter, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    server = Agent().serve(HttpConfig(port=0, token_file=file))
    server.start()
    try:
        assert httpx.get(f"{server.url}/healthz").status_code == 401
        assert httpx.get(f"{server.url}/healthz", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
    finally:
        assert server.stop(10)


@pytest.mark.parametrize("content", [b"", b"short", b"has a space in the middle", b"\xff" * 20, b"x" * 5000])
def test_a_bad_token_is_a_configuration_error_that_does_not_tell_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Agent().serve(HttpConfig(port=0, token_file=file))
    assert "http.token_file" in str(caught.value)
    assert "in the middle" not in str(caught.value)


def test_a_missing_token_file_and_an_unknown_host() -> None:
    with pytest.raises(ConfigError, match=r"http.token_file: /nowhere/token: cannot read"):
        Agent().serve(HttpConfig(port=0, token_file=Path("/nowhere/token")))
    with pytest.raises(ConfigError, match=r"http.host: 'no.such.invalid'"):
        Agent().serve(HttpConfig(host="no.such.invalid", port=0))


def test_a_taken_port_is_a_clear_error(start: Starter) -> None:
    _, server, _ = start()
    assert server.bound is not None
    port = server.bound[1]
    second = Agent().serve(HttpConfig(port=port))
    with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        second.start()
    assert second.stop(1)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_ipv6_loopback(start: Starter) -> None:
    _, server, client = start(host="::1")
    assert server.url.startswith("http://[::1]:")
    assert client.get("/healthz").status_code == 200


def test_stopping_at_once_unstarted_and_twice() -> None:
    server = Agent().serve(HttpConfig(port=0))
    assert server.stop(1)
    server = Agent().serve(HttpConfig(port=0))
    server.start()
    assert server.stop(20)  # while the app may still be in the making
    assert server.stop(1)
    assert server.bound is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.bound, timeout=5)


def test_the_port_can_be_used_again_at_once(start: Starter) -> None:
    server = Agent().serve(HttpConfig(port=0))
    server.start()
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert server.stop(10)
    assert server.bound is not None
    again = Agent().serve(HttpConfig(port=server.bound[1]))
    again.start()
    assert again.stop(10)


def test_idle_connections_cannot_use_up_descriptors(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "IDLE_S", 0.3)
    _, server, client = start()
    assert server.bound is not None
    assert client.get("/healthz").status_code == 200  # it is up
    idle = [socket.create_connection(server.bound, timeout=10) for _ in range(MAX_CONNECTIONS + 5)]
    try:
        idle[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")  # half a request, and never the rest
        for sock in idle:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
    finally:
        for sock in idle:
            sock.close()
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_a_header_that_never_ends_is_cut(start: Starter) -> None:
    _, server, _ = start()
    assert server.bound is not None
    with socket.create_connection(server.bound, timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert b"400" in sock.recv(1000).split(b"\r\n")[0]


def test_malformed_requests_do_not_fill_the_log(start: Starter, caplog: pytest.LogCaptureFixture) -> None:
    _, server, _ = start()
    assert server.bound is not None
    for _ in range(3):
        with socket.create_connection(server.bound) as client:
            client.sendall(b"\x16\x03\x01 not HTTP\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 400")
    assert not caplog.records


def test_a_failing_source_is_a_500_and_the_server_lives_on(start: Starter, caplog: pytest.LogCaptureFixture) -> None:
    agent, server, client = start()
    agent.status = None  # type: ignore[assignment]
    with caplog.at_level(logging.CRITICAL):
        assert client.get("/healthz").status_code == 500
    agent.status = agent_status()
    assert client.get("/healthz").status_code == 200
    assert server.alive


def test_threads_and_descriptors_are_given_back() -> None:
    def once() -> None:
        server = Agent().serve(HttpConfig(port=0))
        server.start()
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert server.stop(10)

    once()
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        once()
    end = time.monotonic() + 5
    while (threading.active_count(), len(os.listdir("/proc/self/fd"))) != before:  # noqa: PTH208
        assert time.monotonic() < end
        time.sleep(0.01)


def test_answers_do_not_wait_for_delayed_acknowledgements(start: Starter) -> None:
    """Without TCP_NODELAY each answer on a kept connection takes 40 ms or more: 4 s for these hundred, which need 0.1 s."""
    _, _, client = start()
    assert client.get("/healthz").status_code == 200
    began = time.monotonic()
    for _ in range(100):
        client.get("/healthz")
    assert time.monotonic() - began < 3.5
