"""What TUF's library found, as our errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.exceptions import DownloadError as TufDownloadError
from tuf.ngclient import FetcherInterface

from edge_agent.errors import (
    DownloadError,
    EndlessData,
    MetadataExpired,
    MixedMetadata,
    RolledBack,
    Tampered,
    UpdateRefused,
    WrongKey,
)
from edge_agent.ota.source import Source
from edge_agent.web import printable

FILE_S = 120.0
"""For one file of metadata, however slow the line."""
_TYPES: tuple[tuple[type[Exception], type[UpdateRefused], str], ...] = (
    (ExpiredMetadataError, MetadataExpired, "it has expired: held back by somebody, or not refreshed by its owner"),
    (UnsignedMetadataError, WrongKey, "it is not signed as this box's root of trust asks for"),
    (DownloadLengthMismatchError, EndlessData, "more came than such a file may have"),
    (LengthOrHashMismatchError, Tampered, "it is not what was signed"),
    (RepositoryError, Tampered, "it is no valid metadata (the page of a proxy or a login?)"),
)


class Fetcher(FetcherInterface):
    """How TUF's library gets at files. Remembers the last one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.content = "", b""

    def _fetch(self, url: str) -> Iterator[bytes]:
        """See ``FetcherInterface``. A generator, so that our errors come out as they are: the library wraps those of the call."""
        self.name, self.content = urlsplit(url).path.rpartition("/")[2], b""
        try:
            with self._source.open(url, total_s=FILE_S) as stream:
                for block in stream.blocks:
                    self.content += block
                    yield block
        except DownloadError as error:
            if error.status is None:
                raise
            raise DownloadHTTPError(str(error), error.status) from error


@contextlib.contextmanager
def in_our_words(fetcher: Fetcher) -> Iterator[None]:
    """Turn errors of the library into UpdateRefused and DownloadError."""
    try:
        yield
    except BadVersionNumberError as error:
        kind = MixedMetadata if _is_another(fetcher) else RolledBack
        why = (
            "it belongs to another state of the repository"
            if kind is MixedMetadata
            else "it is older than what was seen"
        )
        raise kind(f"{_name(fetcher)} is refused: {why} ({error})") from error
    except (RepositoryError, DownloadLengthMismatchError) as error:
        ours, why = next((ours, why) for theirs, ours, why in _TYPES if isinstance(error, theirs))
        raise ours(f"{_name(fetcher)} is refused: {why} ({printable(str(error))})") from error
    except DownloadHTTPError as error:
        raise DownloadError(f"{_name(fetcher)}: {error}", status=error.status_code) from error
    except TufDownloadError as error:
        raise DownloadError(f"{_name(fetcher)}: {error}") from error


def _name(fetcher: Fetcher) -> str:
    return printable(fetcher.name) or "what is here"


def _is_another(fetcher: Fetcher) -> bool:
    """Whether the version in the file, whose signature was checked before that, is not the one of its name (7.snapshot.json)."""
    number = fetcher.name.partition(".")[0]
    return number.isdecimal() and json.loads(fetcher.content)["signed"]["version"] != int(number)
