"""Webhooks: each event as one signed HTTPS request, in order.

The body is the CloudEvent in structured mode (CloudEvents HTTP binding 1.0, §3.2), the signature that of Standard Webhooks 1.0.0.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hmac
import http.client
import json
import re
import time
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from edge_agent import __version__
from edge_agent.config_sinks import WebhookConfig
from edge_agent.errors import ConfigError, SinkUnavailable
from edge_agent.sinks.http import answer, place, printable, retry_after_s, secret, tls_context, unanswered
from edge_agent.sinks.store import ACCEPT, Row, Verdict

_SECTION = "webhook"
_PREFIX = "whsec_"
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""Without a full stop, which parts the signed content."""
_KEY_BYTES = range(24, 65)
_IDLE_S = 2.0
"""An idle connection is not used again after this: many servers close theirs after 5 s, and a request would meet the end."""
_READ = 65_536
_LATER = {408, 425, 429}
_HINTS = {
    401: "is webhook.token_file the right token, and webhook.secret_file the right key?",
    403: "the server lets nobody in with this token or signature",
    404: "correct webhook.url",
    405: "correct webhook.url; what is there takes no POST",
    407: "a proxy wants a password",
}


class _Answer(NamedTuple):
    status: int
    retry_after: str | None
    location: str | None


class WebhookSink:
    """Posts events, one at a time, so that it is known of each whether it was delivered. Made without a connection.

    Raises ConfigError at construction where the secret, the token or a certificate is missing or cannot be used.
    """

    size = 1

    def __init__(self, config: WebhookConfig) -> None:
        if config.url is None:
            raise ConfigError(["webhook.url: missing; where are the events to be posted?"])
        self._config, self._url = config, config.url
        self.address = place(config.url)
        self._types = re.compile("|".join(f"(?:{fnmatch.translate(pattern)})" for pattern in config.types))
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0
        _key(config)
        secret(_SECTION, "token", config.token_file)
        tls_context(_SECTION, config.url, config.tls)

    def wants(self, row: Row) -> bool:
        """Events of the types that are asked for."""
        return row.topic.startswith("events/") and self._types.match(_field(row, "type")) is not None

    def deliver(self, batch: Sequence[Row]) -> list[Verdict]:
        """See ``BatchSink``."""
        return [self._deliver(row) for row in batch]

    def close(self) -> None:
        """See ``BatchSink``; another delivery connects anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def probe(self) -> None:
        """Connect, TLS included, and send nothing. Raises SinkUnavailable."""
        try:
            self._connected()
        except ConfigError as error:
            raise SinkUnavailable("; ".join(error.problems)) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unanswered(error) from error
        finally:
            self.close()

    def _deliver(self, row: Row) -> Verdict:
        ident = _field(row, "id")
        if not _ID.fullmatch(ident):
            return Verdict("reject", 0, "not a CloudEvent with an id that a header can hold")
        try:
            got = self._post(row, ident)
        except ConfigError as error:
            raise SinkUnavailable("; ".join(error.problems)) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unanswered(error) from error
        status = got.status
        if 200 <= status < 300:
            return ACCEPT
        self.close()
        text = f"{self.address} answers {answer(status)}"
        if 300 <= status < 400:
            raise SinkUnavailable(f"{text}, which leads to {_target(got.location)}: not followed; correct webhook.url")
        if status in _HINTS:
            raise SinkUnavailable(f"{text}; {_HINTS[status]}")
        if 400 <= status < 500 and status not in _LATER:
            return Verdict("reject", status, answer(status))
        raise SinkUnavailable(text, retry_after_s(got.retry_after, time.time()))

    def _post(self, row: Row, ident: str) -> _Answer:
        stamp = int(time.time())
        headers = {
            "Content-Type": row.content_type,
            "User-Agent": f"edge-agent/{__version__}",
            "webhook-id": ident,
            "webhook-timestamp": str(stamp),
            "webhook-signature": sign(_key(self._config), ident, stamp, row.payload),
        }
        token = secret(_SECTION, "token", self._config.token_file)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = self._connected()
        parts = urlsplit(self._url)
        connection.request(
            "POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), row.payload, headers
        )
        response = connection.getresponse()
        response.read(_READ)
        self._used = time.monotonic()
        if not response.isclosed():  # more than anybody reads
            self.close()
        return _Answer(response.status, response.headers.get("Retry-After"), response.headers.get("Location"))

    def _connected(self) -> http.client.HTTPConnection:
        if time.monotonic() - self._used > _IDLE_S:
            self.close()
        if self._connection is None:
            parts = urlsplit(self._url)
            context = tls_context(_SECTION, self._url, self._config.tls)
            host, timeout_s = parts.hostname or "", self._config.timeout_s
            self._connection = (
                http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
                if context is None
                else http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=context)
            )
            self._connection.connect()
        return self._connection

    def _unanswered(self, error: Exception) -> SinkUnavailable:
        return unanswered(_SECTION, self._url, self._config.tls, error)


def sign(key: bytes, ident: str, stamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``; ``stamp`` in whole POSIX seconds."""
    digest = hmac.digest(key, f"{ident}.{stamp}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def _key(config: WebhookConfig) -> bytes:
    """Read anew for each request, so that it can be changed. Raises ConfigError."""
    text = secret(_SECTION, "secret", config.secret_file)
    make = "make one: echo whsec_$(head -c 32 /dev/urandom | base64)"
    if text is None:
        raise ConfigError([f"webhook.secret_file: missing, and every request is signed; {make}"])
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError([f"webhook.secret_file: what is in it is no key, whsec_ and base64; {make}"]) from None
    if len(key) not in _KEY_BYTES:
        span = f"{_KEY_BYTES[0]} to {_KEY_BYTES[-1]} bytes"
        raise ConfigError([f"webhook.secret_file: the key has {len(key)} bytes, it must have {span}; {make}"])
    return key


def _field(row: Row, name: str) -> str:
    """Of a CloudEvent; "" where it is none, which a message read back from a damaged file may be."""
    try:
        value = json.loads(row.payload)[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""


def _target(location: str | None) -> str:
    try:
        parts = urlsplit(location or "")
        return printable(place(location or "")) if parts.netloc else "another path"
    except ValueError:
        return "nowhere"
