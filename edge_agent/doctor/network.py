"""The way out: addresses, the broker, the agent's own port."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
import ssl
import time

from edge_agent.config import Config, HttpConfig, MqttConfig
from edge_agent.doctor.box import Box
from edge_agent.doctor.finding import Check, Outcome, fail, ok, skip, warn
from edge_agent.errors import ConfigError, SinkError, SinkUnavailable
from edge_agent.health.rest import RestServer
from edge_agent.sinks.mqtt_connection import ClosedUnanswered, Connection, Refused, Will

AREA = "network"
_TCP_S = 4.0
_ACK_S = 4.0
_NO_CONFIG = "no configuration that names one"
_OFF = "mqtt.enabled is false"


def checks(_: Box) -> list[Check]:
    """Of this area."""
    return [
        Check(AREA, "interfaces", interfaces),
        Check(AREA, "broker reachable", reachable),
        Check(AREA, "broker TLS", tls),
        Check(AREA, "broker login", login, timeout_s=14.0),
        Check(AREA, "REST port", rest_port),
    ]


def interfaces(box: Box) -> Outcome:
    """Links that are up, and a way out of the local network."""
    up = [
        path.parent.name
        for path in box.glob("sys/class/net/*/operstate")
        if box.read(str(path.relative_to(box.root))) in {"up", "unknown"} and path.parent.name != "lo"
    ]
    if not up:
        return warn("no network interface is up", "plug in the cable or join the Wi-Fi: `ip link`, `nmcli device`")
    # proc(5): the destination 00000000 is the default route; IPv6's are in another file, with 32 digits.
    four = any(line.split()[1:2] == ["00000000"] for line in box.read("proc/net/route").splitlines())
    six = any(
        line.startswith("0" * 32 + " 00 ") and not line.endswith(" lo")
        for line in box.read("proc/net/ipv6_route").splitlines()
    )
    text = f"{', '.join(up[:6])} up"
    return ok(f"{text}, with a default route") if four or six else ok(f"{text}, no default route: local network only")


def _mqtt(box: Box) -> MqttConfig | Outcome:
    if box.config is None:
        return skip(_NO_CONFIG)
    return box.config.mqtt if box.config.mqtt.enabled else skip(_OFF)


def reachable(box: Box) -> Outcome:
    """Name and TCP port."""
    mqtt = _mqtt(box)
    if isinstance(mqtt, Outcome):
        return mqtt
    where = f"{mqtt.host}:{mqtt.port}"
    began = time.monotonic()
    try:
        with socket.create_connection((mqtt.host, mqtt.port), timeout=_TCP_S) as sock:
            took, peer = 1000 * (time.monotonic() - began), sock.getpeername()[0]
    except socket.gaierror as error:
        return fail(
            f"{where}: the name cannot be resolved ({error.strerror})", "correct mqtt.host, or the box's name server"
        )
    except ConnectionRefusedError:
        return fail(f"{where}: refused, nothing listens there", "start the broker, or correct mqtt.port")
    except TimeoutError:
        return fail(f"{where}: no answer within {_TCP_S:g} s", "a firewall between, or the broker is off")
    except OSError as error:
        return fail(f"{where}: {error.strerror or error}", "see `interfaces`; is there a route to it?")
    return ok(f"{where} ({peer}), connected in {took:.0f} ms")


def tls(box: Box) -> Outcome:
    """Whether the port speaks TLS, which this version's MQTT client does not."""
    mqtt = _mqtt(box)
    if isinstance(mqtt, Outcome):
        return mqtt
    try:
        version = _tls_version(mqtt)
    except OSError:
        return skip("not reachable")
    if version:
        fix = "let it listen without TLS on the inner network, or put a local broker with a TLS bridge between"
        return fail(f"{mqtt.host}:{mqtt.port} speaks {version}; this version of edge-agent connects without TLS", fix)
    if _local(mqtt.host):
        return ok("none, and the broker is on this box")
    return warn("none: events and the password cross the network in the clear", "use a network of its own, or a VPN")


def _tls_version(mqtt: MqttConfig) -> str:
    """The TLS version the port speaks, "" where it speaks none. Raises OSError where it cannot be reached."""
    # Nothing is sent over it, so that whom we talk to need not be proven.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((mqtt.host, mqtt.port), timeout=_TCP_S) as sock:
        try:
            with context.wrap_socket(sock, server_hostname=mqtt.host) as secure:
                return secure.version() or "TLS"
        except ssl.SSLError as error:
            # An alert is an answer in TLS: it wants a certificate of ours, or another version.
            return "TLS" if "ALERT" in (error.reason or "") else ""
        except OSError:
            return ""


def _local(host: str) -> bool:
    try:
        return all(ipaddress.ip_address(info[4][0]).is_loopback for info in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False


def login(box: Box) -> Outcome:
    """CONNECT with the agent's credentials, under a name of its own so that a running agent keeps its session; one PUBLISH."""
    mqtt = _mqtt(box)
    if isinstance(mqtt, Outcome):
        return mqtt
    assert box.config is not None
    who = f"user {mqtt.username}" if mqtt.username else "no user name"
    try:
        return _greet(box.config, who)
    except Refused as error:
        fix = (
            "correct mqtt.username and mqtt.password_file (or EDGE_AGENT_MQTT_PASSWORD), and the broker's list of users"
        )
        return fail(f"{who}: {error}", fix)
    except ClosedUnanswered as error:
        return fail(f"{who}: {error}", "is it an MQTT broker, and without TLS? See `broker TLS` and its log")
    except SinkUnavailable as error:
        if "cannot connect" in str(error):
            return skip("not reachable")
        return fail(f"{who}: {error}", "see the broker's log")


def _greet(config: Config, who: str) -> Outcome:
    topic = f"edge/v1/{config.site}/{config.device}/doctor"
    # An empty retained will leaves nothing behind should we be killed.
    name = f"edge-agent-doctor-{secrets.token_hex(6)}"
    connection = None
    for version in ("5.0", "3.1.1"):
        connection = Connection(config.mqtt, name, version, Will(topic, b""), lambda: None)
        try:
            connection.open(lambda: False)
            break
        except (ClosedUnanswered, Refused) as error:
            connection.close()
            if version == "3.1.1" or (isinstance(error, Refused) and error.code != 132):
                raise
        except SinkError:
            connection.close()
            raise
    assert connection is not None
    try:
        mid = connection.publish(topic, b"{}", "application/json", retain=False)
        code, reason = _acknowledged(connection, mid)
    finally:
        connection.close()
    text = f"{who}: MQTT {connection.version}"
    if code is None:
        return warn(f"{text}; a message was not acknowledged within {_ACK_S:g} s", "see the broker's log")
    if code >= 128:
        return fail(
            f"{text}; may not publish {topic}: {reason}",
            f"allow this user to write edge/v1/{config.site}/{config.device}/#",
        )
    return ok(f"{text}, may publish below edge/v1/{config.site}/{config.device}/")


def _acknowledged(connection: Connection, mid: int) -> tuple[int | None, str]:
    until = time.monotonic() + _ACK_S
    while time.monotonic() < until:
        connection.check()
        for acknowledged, code, reason in connection.acks():
            if acknowledged == mid:
                return code, reason
        time.sleep(0.02)
    return None, ""


def rest_port(box: Box) -> Outcome:
    """Whether the agent may have the address and port of its REST API."""
    if box.config is None:
        return skip(_NO_CONFIG)
    http = box.config.http
    if not http.enabled:
        return skip("http.enabled is false")
    where = f"{http.host}:{http.port}"
    if box.agent is not None:
        if box.agent.status is None:
            return warn(f"an agent is running, but {box.agent.why}", "see `running agent`")
        return ok(f"{where} is the running agent's")
    return _free(http, where)


def _free(http: HttpConfig, where: str) -> Outcome:
    try:
        RestServer(http, _nothing, _nothing, _nothing)  # type: ignore[arg-type]
        family, _, _, _, address = socket.getaddrinfo(
            http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except ConfigError as error:
        return fail(str(error), "see http in docs/configure.md")
    except PermissionError:
        return fail(f"{where}: ports below 1024 need a privilege", "choose an http.port from 1024 up")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return fail(
                f"{where} is taken by another program",
                f"`sudo ss -ltnp 'sport = :{http.port}'` names it; or choose another",
            )
        return fail(f"{where}: {error.strerror}", "correct http.host: it must be an address of this box")
    return ok(f"{where} is free" if http.port else "any free port")


def _nothing() -> None:
    """In place of what a REST server that is never started would ask."""
