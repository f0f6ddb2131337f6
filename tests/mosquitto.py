"""A real mosquitto on a free port: with its log, to be killed and started again, with a password file and ACLs if wanted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.certificates import Pair


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for(condition: Callable[[], Any], timeout_s: float = 20.0, what: str = "condition") -> None:
    """Poll until it holds; fail at the deadline."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"{what} not within {timeout_s} s"
        time.sleep(0.01)


class Mosquitto:
    """``extra`` are configuration lines; ``users`` name → password (no anonymous clients then); ``acl`` the lines of an ACL file."""

    def __init__(
        self,
        folder: Path,
        *,
        users: dict[str, str] | None = None,
        acl: list[str] | None = None,
        extra: tuple[str, ...] = (),
    ) -> None:
        self.port, self.folder = free_port(), folder
        self.log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"listener {self.port} 127.0.0.1", "log_type all", "max_queued_messages 1000000", *extra]
        if os.getuid() == 0:
            lines.append("user root")
        if users:
            file = folder / "passwd"
            file.touch(mode=0o600)
            for name, word in users.items():
                subprocess.run(["mosquitto_passwd", "-b", str(file), name, word], check=True, capture_output=True)
            lines += ["allow_anonymous false", f"password_file {file}"]
        else:
            lines.append("allow_anonymous true")
        if acl:
            rules = folder / "acl"
            rules.write_text("\n".join(acl) + "\n")
            rules.chmod(0o600)
            lines.append(f"acl_file {rules}")
        self._config.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "mosquitto is not installed: make test-deps"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([program, "-c", str(self._config)], stdout=log, stderr=log)
        wait_for(self._listens, what=f"mosquitto on {self.port}: {self.log.read_text()[-500:]}")

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-2000:]
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it; by default without a chance to say anything."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(10)
            self._process = None

    def log_text(self) -> str:
        """All that it wrote so far."""
        return self.log.read_text(errors="replace")


class Subscriber:
    """paho as the other side: keeps every message that came, with its topic, properties and retain flag.

    With a ``session`` the broker keeps what comes while it is away, for the next one with the same name.
    """

    def __init__(
        self, port: int, topic: str = "#", *, user: tuple[str, str] | None = None, session: str | None = None
    ) -> None:
        self.messages: list[paho.MQTTMessage] = []
        self._own: set[tuple[str, bytes]] = set()
        self._subscribed = threading.Event()
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            session or "",
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        if user:
            client.username_pw_set(*user)
        client.on_message = lambda _c, _u, message: self.receive(message)
        client.on_subscribe = lambda *_: self._subscribed.set()
        lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        if session is not None:
            lasting.SessionExpiryInterval = 2**32 - 1
        client.connect("127.0.0.1", port, clean_start=session is None, properties=lasting)
        client.loop_start()
        client.subscribe(topic, qos=1)
        assert self._subscribed.wait(10)

    def receive(self, message: paho.MQTTMessage) -> None:
        """It came; called by paho's thread."""
        self.messages.append(message)

    def published(self, message: paho.MQTTMessage) -> bool:
        """Whether we sent it ourselves: then it is no agent's."""
        return (message.topic, bytes(message.payload)) in self._own

    def under(self, part: str) -> list[paho.MQTTMessage]:
        """Those whose topic contains ``part``."""
        return [message for message in list(self.messages) if part in message.topic]

    def publish(self, topic: str, payload: bytes, *, retain: bool = True, properties: Properties | None = None) -> None:
        """Send at QoS 1; returns once the broker has it."""
        self._own.add((topic, payload))
        self._client.publish(topic, payload, qos=1, retain=retain, properties=properties).wait_for_publish(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # Without a cycle it goes at once, and closes its sockets before anybody misses them.
        self._client.on_message = self._client.on_subscribe = None


@contextmanager
def broker(folder: Path, **options: Any) -> Iterator[Mosquitto]:
    """Started, and gone at the end."""
    made = Mosquitto(folder, **options)
    made.start()
    try:
        yield made
    finally:
        made.kill()


@contextmanager
def tls_broker(folder: Path, server: Pair, *lines: str, **options: Any) -> Iterator[tuple[Mosquitto, int]]:
    """One that listens in the clear too, for the other side, and its TLS port."""
    port = free_port()
    extra = (f"listener {port} 127.0.0.1", f"certfile {server.cert}", f"keyfile {server.key}", *lines)
    with broker(folder, extra=extra, **options) as mosquitto:
        yield mosquitto, port


@contextmanager
def subscriber(port: int, topic: str = "#", *, user: tuple[str, str] | None = None) -> Iterator[Subscriber]:
    """Subscribed, and closed at the end."""
    made = Subscriber(port, topic, user=user)
    try:
        yield made
    finally:
        made.close()
