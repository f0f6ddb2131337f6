"""What stands in front of every REST request: who may ask, for which host, and how big a question may be."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
_OWN = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    b"connect-src 'self'; font-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""For /docs: everything from here. The component writes its styles inline."""


class Guard:
    """ASGI wrapper. With a ``token`` every request must bear it; on loopback the Host header must name loopback.

    A page on the internet can make a browser on this box ask 127.0.0.1 under the page's own name (DNS rebinding); the
    Host header gives it away. Beyond loopback the token does that work. No CORS header is ever sent.
    """

    def __init__(self, app: App, *, token: str | None, loopback: bool) -> None:
        self._app, self._loopback = app, loopback
        self._token = token.encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or uvicorn's lifespan talk, which passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refusal = self._refusal(scope["method"], headers)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        policy = _OWN if scope["path"].startswith("/docs") else _NOTHING

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS, (b"content-security-policy", policy)]
                if message["status"] == 500:  # uvicorn drops the connection after an exception: the client must know
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if self._loopback and not is_loopback_name(headers.get(b"host", b"").decode("latin-1")):
            return 421, "this API answers to localhost only"
        if self._token is not None and not self._bears_token(headers.get(b"authorization", b"")):
            return 401, "a bearer token is needed"
        if method != "GET":
            return 405, "this API is read-only"
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            return 413, "no request here has a body"
        return None

    def _bears_token(self, header: bytes) -> bool:
        scheme, _, given = header.partition(b" ")
        assert self._token is not None
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token)


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 405:
        headers.append((b"allow", b"GET"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def is_loopback_name(host: str) -> bool:
    """Whether a Host header (name or address, with or without port) means this box itself."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
