"""The REST server: uvicorn on a socket we bind ourselves, in one thread, with everything bounded."""

from __future__ import annotations

import ipaddress
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_agent.config import HttpConfig, given_secret, read_secret
from edge_agent.errors import ConfigError, ListenError
from edge_agent.health.guard import Guard
from edge_agent.health.status import AgentStatus

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
MAX_HEADER_BYTES = 16 * 1024
IDLE_S = 10.0
"""A connection that begins no new request for so long is closed: nobody can use up the file descriptors of the agent."""
MIN_TOKEN = 16
TOKEN_VARIABLE = "EDGE_AGENT_HTTP_TOKEN"  # noqa: S105 - its name, not the token


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the answers come from. All are called in the HTTP thread and should take milliseconds.

    ``recent_events(since, limit)``: the newest ``limit`` CloudEvents, oldest first, not older than ``since`` (RFC 3339 UTC) where
    it is given. ``snapshot(camera)``: a JPEG, or None where there is no picture yet; itself None while pictures are not allowed.
    """

    status: Callable[[], AgentStatus]
    recent_events: Callable[[str | None, int], list[dict[str, Any]]]
    models: Callable[[], dict[str, Any]]
    snapshot: Callable[[str], bytes | None] | None


class RestServer:
    """Serves the four callables (see ``Sources``) over HTTP in its own thread.

    Raises ConfigError at construction where the configuration may not be served (beyond loopback without a token, an
    unreadable or short token). A token that is configured is required on loopback too.
    """

    def __init__(
        self,
        config: HttpConfig,
        status: Callable[[], AgentStatus],
        recent_events: Callable[[str | None, int], list[dict[str, Any]]],
        models: Callable[[], dict[str, Any]],
        snapshot: Callable[[str], bytes | None] | None = None,
    ) -> None:
        self._config = config
        self._sources = Sources(status, recent_events, models, snapshot)
        self._token = read_token(config)
        self._address = _resolve(config)
        self._loopback = ipaddress.ip_address(str(self._address[1][0]).partition("%")[0]).is_loopback
        if not self._loopback and self._token is None:
            need = f"a token is needed: set http.token_file or {TOKEN_VARIABLE}, or use 127.0.0.1"
            raise ConfigError([f"http.host: {config.host} is reachable from the network, so {need}"])
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self.bound: tuple[str, int] | None = None
        """(address, port) once started; the port is the real one where 0 was asked for."""

    @property
    def url(self) -> str:
        """Where it is, ``http://127.0.0.1:8080``; "" before the start."""
        if self.bound is None:
            return ""
        host, port = self.bound
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Bind, then serve in the background; connections wait in the backlog until the app is built. Raises ListenError."""
        sock = self._bind()
        self.bound = sock.getsockname()[:2]
        self._thread = threading.Thread(target=self._serve, args=(sock,), name="http", daemon=True)
        self._thread.start()

    def stop(self, deadline_s: float = 1.0) -> bool:
        """Close the port and let running answers finish; whether that was done in time. Safe to call twice or unstarted."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is None:
            return True
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _bind(self) -> socket.socket:
        family, address = self._address
        # asyncio sets TCP_NODELAY only where the protocol is named; without it every answer waits 40 ms for an ACK.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(MAX_CONNECTIONS)
        except OSError as error:
            sock.close()
            reason = os.strerror(error.errno) if error.errno else str(error)
            where = f"{self._config.host}:{self._config.port}"
            raise ListenError(f"http: cannot listen on {where}: {reason}; choose another http.port") from error
        return sock

    def _serve(self, sock: socket.socket) -> None:
        try:
            # FastAPI costs 0.4 s and 20 MB: a box whose API nobody asks does not pay. The first caller waits in the backlog.
            while not select.select([sock], [], [], 0.2)[0]:
                if self._stopping.is_set():
                    return
            server = _make_server(self._sources, self._token, self._loopback)
            self._server = server
            if not self._stopping.is_set():
                server.run(sockets=[sock])
        except Exception:  # the entry point of a thread
            log.exception("the REST API failed")
        finally:
            sock.close()


def _make_server(sources: Sources, token: str | None, loopback: bool) -> uvicorn.Server:
    import asyncio

    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from edge_agent.health.api import build_app

    class BoundedH11(H11Protocol):
        """Refuses connections beyond a number and closes those that ask nothing (uvicorn itself waits for ever)."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.transport: asyncio.Transport = transport
            self._seen: object = None
            if len(self.connections) > MAX_CONNECTIONS:
                transport.abort()
            else:
                self._timer = self.loop.call_later(IDLE_S, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if hasattr(self, "_timer"):
                self._timer.cancel()

        def _look(self) -> None:
            if self.cycle is self._seen:
                self.transport.abort()
                return
            self._seen = self.cycle
            self._timer = self.loop.call_later(IDLE_S, self._look)

    config = uvicorn.Config(
        Guard(build_app(sources), token=token, loopback=loopback),
        http=BoundedH11,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="error",  # a warning for each malformed request would let anybody fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def read_token(config: HttpConfig) -> str | None:
    """The bearer token from the environment, else from the file; None where neither is set. Raises ConfigError."""
    where = TOKEN_VARIABLE if given_secret(TOKEN_VARIABLE) else "http.token_file"
    try:
        token = read_secret(config.token_file, TOKEN_VARIABLE)
    except ConfigError as error:
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from error
    if token is None:
        return None
    if not (MIN_TOKEN <= len(token) <= 4096 and token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError([f"{where}: a token has {MIN_TOKEN} to 4096 printable ASCII characters without spaces"])
    return token


def _resolve(config: HttpConfig) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError([f"http.host: {config.host!r} is no address of this box: {error}"]) from error
    family, _, _, _, address = found[0]
    return family, address
