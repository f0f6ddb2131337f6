"""A real HTTP server on a free port whose paths do what a test wants."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Posted:
    """A request with a body; the names of ``headers`` in any case."""

    target: str
    headers: Message
    body: bytes


@dataclass
class Server:
    """``url`` is the root; ``asked`` the request lines' targets so far; ``over`` is set at the end, for answers that wait."""

    url: str
    over: threading.Event
    asked: list[str] = field(default_factory=list)
    posted: list[Posted] = field(default_factory=list)
    connections: int = 0


def body(content: bytes, *, says: int | None = None) -> Answer:
    """``content``; its header says ``says`` bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if says is None else says))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def status(code: int, content: bytes = b"", **headers: str) -> Answer:
    """Only that, and ``content``; in names of ``headers`` an underscore stands for a dash."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if code != 204:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def unsized(content: bytes) -> Answer:
    """``content`` without a word on its length: it ends with the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def leads_to(url: str) -> Answer:
    """A redirect."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@contextlib.contextmanager
def serve(answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Answer each target, its query left out, with its function, any other with 404. A function may wait for the server's ``over``."""

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            served.connections += 1
            super().setup()

        def do_GET(self) -> None:
            served.asked.append(self.path)
            path = self.path.partition("?")[0]
            if path not in answers:
                self.send_error(404)
                return
            with contextlib.suppress(OSError):  # a client that had enough is no failure
                answers[path](self)

        def do_POST(self) -> None:
            self.protocol_version, self.close_connection = "HTTP/1.1", False
            body = self.rfile.read(int(self.headers["Content-Length"]))
            served.posted.append(Posted(self.path, self.headers, body))
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library has it
            pass

    class Listener(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that refuses our certificate is none either."""

    server = Listener(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    scheme = "http" if tls is None else "https"
    served = Server(f"{scheme}://localhost:{server.server_address[1]}", threading.Event())
    server.served = served  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.over.set()
        server.shutdown()
        thread.join(10)
        server.server_close()
