"""What may stand before a broker: TLS with SNI and ALPN as at a cloud's port 443, and WebSocket (Debian's mosquitto has none)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import threading
from pathlib import Path

from tests.certificates import Pair, server_context
from tests.tcp_server import TcpServer, read_exactly

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


class Front:
    """Passes bytes on to a broker at ``target``; ``path`` puts WebSocket between, ``pair`` TLS around it.

    ``client_ca``: a certificate signed by it is asked for. ``alpn``: hang up on whoever does not offer it.
    """

    def __init__(
        self,
        target: int,
        *,
        pair: Pair | None = None,
        client_ca: Path | None = None,
        alpn: str | None = None,
        path: str | None = None,
    ) -> None:
        self.names: list[str | None] = []
        """That were asked for (SNI)."""
        self.requests: list[str] = []
        """First lines of HTTP requests."""
        self._target, self._alpn, self._path = target, alpn, path
        self._context = None if pair is None else self._make_context(pair, client_ca)
        self._server = TcpServer(self._serve)
        self.port = self._server.port

    def _make_context(self, pair: Pair, client_ca: Path | None) -> ssl.SSLContext:
        context = server_context(pair, client_ca)
        context.sni_callback = lambda _sock, name, _context: self.names.append(name)
        if self._alpn is not None:
            context.set_alpn_protocols([self._alpn])
        return context

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            client: socket.socket = plain
            if self._context is not None:
                client = secure = self._context.wrap_socket(plain, server_side=True)
                if secure.selected_alpn_protocol() != self._alpn:
                    secure.close()
                    return
            with client, socket.create_connection(("127.0.0.1", self._target)) as broker:
                if self._path is not None and not self._upgrade(client):
                    return
                threading.Thread(target=self._back, args=(broker, client), daemon=True).start()
                while data := self._receive(client):
                    broker.sendall(data)

    def _upgrade(self, client: socket.socket) -> bool:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += read_exactly(client, 1)
        first, *rest = request.decode().split("\r\n")
        self.requests.append(first)
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        if first.split(" ")[1] != self._path or headers.get("sec-websocket-protocol") != "mqtt":
            client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return False
        digest = hashlib.sha1(headers["sec-websocket-key"].encode() + _GUID).digest()
        answer = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
        answer += [b"Sec-WebSocket-Accept: " + base64.b64encode(digest), b"Sec-WebSocket-Protocol: mqtt", b"", b""]
        client.sendall(b"\r\n".join(answer))
        return True

    def _receive(self, client: socket.socket) -> bytes:
        if self._path is None:
            return client.recv(65536)
        _, size = read_exactly(client, 2)  # RFC 6455 §5.2; what a client sends is masked
        size &= 0x7F
        if size > 125:
            size = int.from_bytes(read_exactly(client, 2 if size == 126 else 8), "big")
        mask = read_exactly(client, 4)
        return bytes(byte ^ mask[at % 4] for at, byte in enumerate(read_exactly(client, size)))

    def _back(self, broker: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := broker.recv(100):
                client.sendall(data if self._path is None else bytes([0x82, len(data)]) + data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()
