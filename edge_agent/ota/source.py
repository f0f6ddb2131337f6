"""Where a repository's files come from: a web server, or a folder (a USB stick). Nothing that comes is trusted here."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from edge_agent.config import read_secret
from edge_agent.config_ota import OtaConfig
from edge_agent.errors import DownloadError
from edge_agent.tls import make_context
from edge_agent.web import BLOCK, SILENCE_S, Answer, Way, get

_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)")


@dataclass(frozen=True, slots=True)
class Stream:
    """A file as it comes. ``start`` is the offset of its first byte: 0 where the other side would not go on in the middle."""

    start: int
    tag: str | None
    """A mark of this very content (a strong ETag), by which to go on with it later."""
    blocks: Iterator[bytes]


class Source(Protocol):
    """A way to files."""

    def open(
        self, url: str, *, total_s: float, start: int = 0, tag: str | None = None
    ) -> AbstractContextManager[Stream]:
        """``url`` from byte ``start`` on, if it is still what ``tag`` marks.

        Raises DownloadError (its ``status`` is 404 for what is not there), SlowRetrieval; so does reading.
        """


def make_source(config: OtaConfig) -> Source:
    """As the configuration says. Raises ConfigError (files that are not there or no good)."""
    if urlsplit(config.repository).scheme == "file":
        return Folder()
    tls = None if config.tls is None else make_context(config.tls, "ota.tls")
    return Web(Way(config.proxy, tls, read_secret(config.token_file, "EDGE_AGENT_OTA_TOKEN")))


@dataclass(frozen=True, slots=True)
class Web:
    """HTTP(S)."""

    way: Way

    @contextlib.contextmanager
    def open(self, url: str, *, total_s: float, start: int = 0, tag: str | None = None) -> Iterator[Stream]:
        """See ``Source``."""
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            if tag is not None:
                headers["If-Range"] = tag
        with contextlib.ExitStack() as stack:
            try:
                answer = stack.enter_context(self._get(url, total_s, headers))
            except DownloadError as error:
                if error.status != 416 or not start:  # RFC 9110 15.5.17: there is no such byte in it
                    raise
                answer = stack.enter_context(self._get(url, total_s, {}))
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", "")) if answer.status == 206 else None
            if answer.status == 206 and (found is None or int(found[1]) != start):
                raise DownloadError(f"{answer.host} gives another part of the file than the one it was asked for")
            etag = answer.headers.get("ETag", "")
            strong = etag if re.fullmatch(r'"[!#-~]{1,200}"', etag) else None  # a weak one says nothing on bytes
            yield Stream(start if found else 0, strong, answer.blocks())

    def _get(self, url: str, total_s: float, headers: dict[str, str]) -> AbstractContextManager[Answer]:
        silence_s = min(SILENCE_S, total_s)
        headers = {"Accept-Encoding": "identity", **headers}
        return get(url, total_s=total_s, silence_s=silence_s, way=self.way, headers=headers)


class Folder:
    """``file://``. A stick is not trusted more than a server: no waiting on a pipe, no reading of a device."""

    @contextlib.contextmanager
    def open(self, url: str, *, total_s: float, start: int = 0, tag: str | None = None) -> Iterator[Stream]:
        """See ``Source``; ``tag`` and ``total_s`` are of no use here."""
        del total_s, tag
        path = urllib.request.url2pathname(urlsplit(url).path)
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise DownloadError(f"{path} is no regular file")
                file.seek(start)
                yield Stream(start, None, iter(lambda: file.read(BLOCK), b""))
        except FileNotFoundError as error:
            raise DownloadError(f"{path} is not there", status=404) from error
        except OSError as error:
            raise DownloadError(f"{path} cannot be read: {error.strerror}") from error
