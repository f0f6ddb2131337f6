"""Real servers for time series on free ports: VictoriaMetrics, and InfluxDB 1 behind a front that speaks version 2's write path."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.mosquitto import free_port, wait_for


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status < 300)
    return False


class VictoriaMetrics:
    """Takes InfluxDB's writes at ``url``; a field becomes a series named after measurement and field. Text is kept as 0."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        program = shutil.which("victoria-metrics")
        assert program, "victoria-metrics is not installed: make test-deps"
        options = [f"-storageDataPath={self._folder}/data", f"-httpListenAddr=127.0.0.1:{self.port}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, *options, "-retentionPeriod=100y", "-memory.allowedBytes=64MB"], stdout=log, stderr=log
            )
        wait_for(lambda: _answers(f"{self.url}/health"), what="VictoriaMetrics")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def series(self, name: str) -> list[tuple[dict[str, str], list[float]]]:
        """Labels and values, in the order of their times, of every series with a name that matches; all of time."""
        with urllib.request.urlopen(f"{self.url}/internal/force_flush", timeout=20):
            pass
        query = urlencode({"match[]": f'{{__name__=~"{name}"}}', "start": "1", "end": "4000000000"})
        with urllib.request.urlopen(f"{self.url}/api/v1/export?{query}", timeout=20) as answer:
            found = [json.loads(line) for line in answer.read().splitlines()]
        return [(series["metric"], series["values"]) for series in found]

    def values(self, name: str) -> list[float]:
        """Of all series of that name together."""
        return [value for _, values in self.series(name) for value in values]


@contextmanager
def victoria_metrics(folder: Path) -> Iterator[VictoriaMetrics]:
    """Started, and gone at the end."""
    made = VictoriaMetrics(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class InfluxDb:
    """InfluxDB 1.6 has the parser and the field types of version 2, but not its path: ``url`` is a front that translates.

    ``writes`` are the bodies that came, as line protocol.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port, self._rpc = free_port(), free_port()
        self.writes: list[bytes] = []
        self.url = ""

    def start(self) -> None:
        program = shutil.which("influxd")
        assert program, "influxd is not installed: make test-deps"
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "influxdb.conf"
        config.write_text(
            f'reporting-disabled = true\nbind-address = "127.0.0.1:{self._rpc}"\n'
            f'[meta]\ndir = "{self._folder}/meta"\n[data]\ndir = "{self._folder}/data"\nwal-dir = "{self._folder}/wal"\n'
            f'[http]\nbind-address = "127.0.0.1:{self._port}"\n[monitor]\nstore-enabled = false\n'
        )
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([program, "-config", str(config)], stdout=log, stderr=log)
        wait_for(lambda: _answers(f"http://127.0.0.1:{self._port}/ping"), what="InfluxDB")
        self._front = ThreadingHTTPServer(("127.0.0.1", 0), self._translator())
        self._front.daemon_threads = True
        threading.Thread(target=self._front.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._front.server_address[1]}"

    def stop(self) -> None:
        if self._process is not None:
            self._front.shutdown()
            self._front.server_close()
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def ask(self, query: str, database: str = "edge-agent") -> list[dict[str, Any]]:
        """InfluxQL; the rows of all series, times in nanoseconds."""
        body = urlencode({"q": query, "db": database, "epoch": "ns"}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/query", body, timeout=20) as answer:
            (result,) = json.loads(answer.read())["results"]
        found = result.get("series", [])
        return [dict(zip(one["columns"], row, strict=True)) for one in found for row in one.get("values", [])]

    def _translator(self) -> type[BaseHTTPRequestHandler]:
        served = self

        class Translator(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = urlsplit(self.path)
                given = {key: values[0] for key, values in parse_qs(asked.query).items()}
                assert asked.path == "/api/v2/write", self.path
                assert self.headers["Content-Encoding"] == "gzip", "it was to be compressed"
                served.writes.append(gzip.decompress(body))
                query = urlencode({"db": given["bucket"], "precision": given["precision"]})
                behind = http.client.HTTPConnection("127.0.0.1", served._port, timeout=20)
                behind.request("POST", f"/write?{query}", body, {"Content-Encoding": "gzip"})
                answer = behind.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                behind.close()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library has it
                pass

        return Translator


@contextmanager
def influxdb(folder: Path) -> Iterator[InfluxDb]:
    """Started, with the database ``edge-agent``, and gone at the end."""
    made = InfluxDb(folder)
    made.start()
    try:
        made.ask('CREATE DATABASE "edge-agent"')
        yield made
    finally:
        made.stop()
