"""InfluxDB 2: a copy of all messages for charts, in batches, by ``influxdb-client``, which comes with an extra."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

from edge_agent.config_sinks import InfluxDbConfig
from edge_agent.errors import ConfigError, HardwareError, SinkUnavailable
from edge_agent.sinks.http import answer, place, printable, retry_after_s, secret, tls_context, unanswered
from edge_agent.sinks.influxdb_points import Point, Unfit, points
from edge_agent.sinks.store import ACCEPT, Row, Verdict

_SECTION = "influxdb"
_HINTS = {
    401: "is influxdb.token_file the right token, and still valid?",
    403: "the token may not write to influxdb.bucket",
    404: "correct influxdb.org, influxdb.bucket or influxdb.url",
}
Item: TypeAlias = tuple[Row, list[Point]]


class InfluxDbSink:
    """Writes points; one request at a time, none of them twice: the pump repeats. Made without a connection.

    Raises HardwareError at construction where the package is missing, ConfigError where a secret or certificate cannot be used.
    """

    size = 200

    def __init__(self, config: InfluxDbConfig, *, site: str, device: str) -> None:
        try:
            from influxdb_client import InfluxDBClient
            from influxdb_client.client.write_api import SYNCHRONOUS
            from influxdb_client.rest import ApiException
            from urllib3.exceptions import HTTPError
        except ImportError as error:
            need = "influxdb.enabled is true, and that needs the extra influxdb"
            raise HardwareError(f"{need} ({error}): pip install influxdb-client") from error
        self._make_client, self._how = InfluxDBClient, SYNCHRONOUS
        self._refused, self._unanswered = ApiException, HTTPError
        self._config, self._tags = config, {"site": site, "device": device}
        self._client: Any = None
        self.address = place(config.url)
        self._open()

    def wants(self, row: Row) -> bool:
        """All of them."""
        return True

    def deliver(self, batch: Sequence[Row]) -> list[Verdict]:
        """See ``BatchSink``. A message that InfluxDB refuses is found by halving, and refused alone."""
        verdicts: dict[int, Verdict] = {}
        items = [(row, made) for row in batch if (made := self._points(row, verdicts)) is not None]
        self._deliver(items, verdicts)
        return [verdicts[row.row] for row in batch]

    def close(self) -> None:
        """See ``BatchSink``; another delivery connects anew."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def probe(self) -> None:
        """Ask whether we may write, and write nothing. Raises SinkUnavailable."""
        # An empty line is no point; token, organisation and bucket are looked at all the same. To miss the points is an answer, too.
        self._write(b"\n")

    def _points(self, row: Row, verdicts: dict[int, Verdict]) -> list[Point] | None:
        try:
            return points(row, self._tags)
        except Unfit as error:
            verdicts[row.row] = Verdict("reject", 0, str(error))
            return None

    def _deliver(self, items: list[Item], verdicts: dict[int, Verdict]) -> None:
        fault = self._write([point for _, made in items for point in made]) if items else None
        if fault is None:
            verdicts.update((row.row, ACCEPT) for row, _ in items)
        elif len(items) == 1:
            verdicts[items[0][0].row] = fault
        else:
            # What was written already is written again: the same points, which changes nothing.
            half = len(items) // 2
            self._deliver(items[:half], verdicts)
            self._deliver(items[half:], verdicts)

    def _write(self, record: list[Point] | bytes) -> Verdict | None:
        """None where all was written, else what is to be said of it where nothing but it is at fault. Raises SinkUnavailable."""
        config = self._config
        try:
            if self._client is None:
                self._open()
            api = self._client.write_api(write_options=self._how)
            api.write(bucket=config.bucket, org=config.org, record=record, write_precision="ns")
        except self._refused as error:
            return self._refusal(error)
        except ConfigError as error:
            raise SinkUnavailable("; ".join(error.problems)) from error
        except (OSError, self._unanswered) as error:
            self.close()
            raise unanswered(_SECTION, config.url, config.tls, error) from error
        return None

    def _refusal(self, error: Any) -> Verdict:
        """Whether the points are at fault. Raises SinkUnavailable where they are not: the next ones would fare no better."""
        if not error.status:  # how the client reports that TLS failed
            self.close()
            raise unanswered(_SECTION, self._config.url, self._config.tls, error) from error
        status, said = int(error.status), _said(error.body)
        # A proxy between, too, may say 400 or 422, of a request that InfluxDB never saw; InfluxDB speaks JSON.
        if status == 413 or (status in {400, 422} and said):
            return Verdict("reject", status, said or answer(status))
        self.close()  # the next one reads token and certificates anew
        hint = f"; {_HINTS[status]}" if status in _HINTS else ""
        wish = retry_after_s(error.headers.get("Retry-After"), time.time())
        raise SinkUnavailable(f"{self.address} answers {answer(status, said)}{hint}", wish) from error

    def _open(self) -> None:
        config = self._config
        self._client = self._make_client(
            url=config.url,
            token=secret(_SECTION, "token", config.token_file) or "",
            org=config.org,
            timeout=round(config.timeout_s * 1000),
            enable_gzip=True,
            ssl_context=tls_context(_SECTION, config.url, config.tls),
            retries=False,
        )


def _said(body: Any) -> str:
    """InfluxDB's own words, of version 2 or 1; without the line they are about, so that equal faults read alike. Else ""."""
    try:
        doc = json.loads(body or b"")
        text = doc.get("message") or doc.get("error")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return printable(re.sub(r"'.*'", "'…'", text, flags=re.DOTALL)) if isinstance(text, str) else ""
