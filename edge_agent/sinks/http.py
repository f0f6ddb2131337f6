"""What the sinks that speak HTTP share: secrets, TLS, and what a server or the lack of one means, in words."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from edge_agent.config import read_secret
from edge_agent.config_base import TlsConfig
from edge_agent.errors import ConfigError, SinkUnavailable
from edge_agent.tls import TlsContext, explain, make_context, warnings

MAX_SAID = 200
"""Characters of what a server says that are kept."""


def secret(section: str, key: str, file: Path | None) -> str | None:
    """Of ``EDGE_AGENT_<SECTION>_<KEY>`` or the file; fit for a header. None where neither is set. Raises ConfigError."""
    variable = f"EDGE_AGENT_{section}_{key}".upper()
    where = f"{section}.{key}_file"
    try:
        value = read_secret(file, variable)
    except ConfigError as error:
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from error
    if value is not None and not (value.isascii() and value.isprintable()):
        raise ConfigError([f"{where}: what is in it is no {key}: it has more than printable ASCII characters"])
    return value


def tls_context(section: str, url: str, config: TlsConfig | None) -> TlsContext | None:
    """For connections to ``url``; None where that is no https. Files are read anew. Raises ConfigError."""
    if urlsplit(url).scheme != "https":
        return None
    return make_context(config or TlsConfig(), f"{section}.tls")


def place(url: str) -> str:
    """Scheme, host and port: what a log may show, as there may be secrets in the rest."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def printable(text: str) -> str:
    """On one line, cut, without control characters: somebody else wrote it."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_SAID].strip()


def answer(status: int, said: str = "") -> str:
    """A status in words, and what the server said."""
    name = next((f" {known.phrase}" for known in HTTPStatus if known == status), "")
    return f"{status}{name}" + (f" ({said})" if said else "")


def unanswered(section: str, url: str, tls: TlsConfig | None, error: Exception) -> SinkUnavailable:
    """No answer came: why, and what is wrong with the dates of our certificates, which the server may not say."""
    told = [] if tls is None else [f"{section}.tls.{key}: {text}" for key, text in warnings(tls, time.time())]
    return SinkUnavailable("; ".join([f"{place(url)}: {why(error)}", *told]))


def why(error: Exception) -> str:
    """The error below all the others as something to act on."""
    while isinstance(below := error.__cause__ or error.__context__ or next(iter(error.args), None), Exception):
        error = below
    if isinstance(error, ssl.SSLError):
        return explain(error, "the server")
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
        return "it hung up without an answer"
    if isinstance(error, http.client.HTTPException):
        return f"what answers is no HTTP server ({type(error).__name__})"
    return printable((error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__)


def retry_after_s(value: str | None, now: float) -> float:
    """``Retry-After`` (RFC 9110 §10.2.3), seconds or a date, at ``now`` (POSIX seconds); 0 where there is none to be read."""
    if value is None:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value[:10])
    try:
        return max(parsedate_to_datetime(value).timestamp() - now, 0.0)
    except (ValueError, OverflowError, TypeError):
        return 0.0
