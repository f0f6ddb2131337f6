"""One GET over HTTP(S): HTTPS is never left on the way, nobody is waited for for ever, and what went wrong is said in words."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from edge_agent import __version__
from edge_agent.errors import DownloadError, SlowRetrieval

BLOCK = 1 << 16
SILENCE_S = 30.0
"""Longest wait for a connection, and for the next bytes."""
SLOWEST = 4096
"""Bytes a second on the average; a server that is slower is given up."""


@dataclass(frozen=True, slots=True)
class Way:
    """How requests get out. ``proxy`` is its address, None: as the environment says (``https_proxy``, …)."""

    proxy: str | None = None
    tls: ssl.SSLContext | None = None
    """None: the authorities of this machine."""
    token: str | None = field(default=None, repr=False)
    """A bearer token; it goes to the host that was asked for, and not on to where that leads."""

    def about_proxy(self, url: str) -> str:
        """Which proxy a request goes through, for messages, without its password; "" for none."""
        parts = urlsplit(url)
        proxy = self.proxy or urllib.request.getproxies().get(parts.scheme)
        if not proxy or (self.proxy is None and urllib.request.proxy_bypass(parts.hostname or "")):
            return ""
        return f" (by the proxy {host_of(proxy if '//' in proxy else f'//{proxy}')})"


@dataclass(slots=True)
class Answer:
    """What came. ``host`` is where redirects led to."""

    host: str
    status: int
    headers: http.client.HTTPMessage
    length: int | None
    """Bytes that it says will come."""
    _response: http.client.HTTPResponse
    _deadline: float

    def blocks(self) -> Iterator[bytes]:
        """The content as it comes. Raises DownloadError (broken off), SlowRetrieval."""
        total = 0
        while True:
            try:
                block = self._response.read1(
                    BLOCK
                )  # what is here, not a full block: a trickle must come to the deadline
            except TimeoutError as error:
                raise SlowRetrieval(f"{self.host} broke off after {total} bytes: {_why(error)}") from error
            except (OSError, http.client.HTTPException) as error:
                raise DownloadError(f"{self.host} broke off after {total} bytes: {_why(error)}") from error
            if not block:
                return
            total += len(block)
            if time.monotonic() > self._deadline:
                raise SlowRetrieval(f"{self.host} is too slow ({total} bytes so far): given up")
            yield block


@contextlib.contextmanager
def get(
    url: str,
    *,
    total_s: float,
    silence_s: float = SILENCE_S,
    way: Way | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Answer]:
    """Ask for ``url``, which is an http or https one, and hand out what comes; ``total_s`` limits the whole.

    Raises DownloadError (no way there, refused; ``status`` says what the server answered), SlowRetrieval (silent).
    """
    way, deadline = way or Way(), time.monotonic() + total_s
    redirects = _Redirects(url)
    request = urllib.request.Request(url, headers={"User-Agent": f"edge-agent/{__version__}", **(headers or {})})  # noqa: S310
    if way.token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {way.token}")
    proxies = None if way.proxy is None else dict.fromkeys(("http", "https"), way.proxy)
    opener = urllib.request.build_opener(
        redirects, urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=way.tls)
    )
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=silence_s)
    except urllib.error.HTTPError as error:
        error.close()
        text = f"{redirects.host}{way.about_proxy(url)} answers with status {error.code}"
        raise DownloadError(text, status=error.code) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        kind = SlowRetrieval if isinstance(_reason(error), TimeoutError) else DownloadError
        raise kind(f"{redirects.host}{way.about_proxy(url)} cannot be reached: {_why(error)}") from error
    with response:
        yield Answer(redirects.host, response.status, response.headers, response.length, response, deadline)


def host_of(url: str) -> str:
    """For messages."""
    return printable(urlsplit(url).hostname or "the server")


def printable(text: str) -> str:
    """What a server says goes to a terminal: nothing but printable characters, and not too many."""
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Where the request has got to. HTTPS never leads to plain HTTP, and nothing leads to a file of this machine."""

    def __init__(self, url: str) -> None:
        self.host = host_of(url)
        self._allowed = ("https",) if urlsplit(url).scheme == "https" else ("https", "http")

    def redirect_request(  # noqa: PLR0917 - as the library has it
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Follow, or raise DownloadError."""
        if urlsplit(newurl).scheme not in self._allowed:
            raise DownloadError(f"{self.host} leads on to {host_of(newurl)} without HTTPS: refused")
        self.host = host_of(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _reason(error: Exception) -> object:
    return getattr(error, "reason", None) or error


def _why(error: Exception) -> str:
    """The reason on one line."""
    reason = _reason(error)
    if isinstance(reason, TimeoutError):
        return "silent for too long"
    return printable(str(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__))
