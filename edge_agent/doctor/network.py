"""The way out: addresses, the broker, the agent's own port."""

from __future__ import annotations

import errno
import secrets
import socket
import ssl
import time
from functools import partial

from edge_agent.config import Config, HttpConfig
from edge_agent.config_base import TlsConfig
from edge_agent.config_mqtt import Address, MqttConfig
from edge_agent.doctor import servers
from edge_agent.doctor.box import Box
from edge_agent.doctor.finding import Check, Outcome, fail, ok, skip, warn
from edge_agent.errors import ConfigError, SinkUnavailable
from edge_agent.health.rest import RestServer
from edge_agent.sinks.mqtt_connection import ClosedUnanswered, Refused
from edge_agent.sinks.mqtt_visit import acknowledged, visit
from edge_agent.tls import SOON_S, explain, make_context, warnings

AREA = "network"
_TCP_S = 4.0
_ACK_S = 4.0
_NO_CONFIG = "no configuration that names one"
_OFF = "mqtt.enabled is false"
_TLS_FIX = "see docs/broker.md; openssl s_client shows what the broker sends"


def checks(box: Box) -> list[Check]:
    """Of this area; of each broker where there are several."""
    found = [Check(AREA, "interfaces", interfaces)]
    for number in range(1 if box.config is None else len(box.config.mqtt.addresses)):
        name = f"broker {number + 1}" if number else "broker"
        found += [
            Check(AREA, f"{name} reachable", partial(reachable, number=number)),
            Check(AREA, f"{name} TLS", partial(tls, number=number)),
            Check(AREA, f"{name} login", partial(login, number=number), timeout_s=14.0),
        ]
    return [*found, *servers.checks(box, AREA), Check(AREA, "REST port", rest_port)]


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


def reachable(box: Box, number: int = 0) -> Outcome:
    """Name and TCP port of a broker."""
    mqtt = _mqtt(box)
    if isinstance(mqtt, Outcome):
        return mqtt
    address = mqtt.addresses[number]
    began = time.monotonic()
    try:
        with socket.create_connection(address, timeout=_TCP_S) as sock:
            took, peer = 1000 * (time.monotonic() - began), sock.getpeername()[0]
    except socket.gaierror as error:
        return fail(
            f"{address}: the name cannot be resolved ({error.strerror})", "correct mqtt.host, or the box's name server"
        )
    except ConnectionRefusedError:
        return fail(f"{address}: refused, nothing listens there", "start the broker, or correct mqtt.port")
    except TimeoutError:
        return fail(f"{address}: no answer within {_TCP_S:g} s", "a firewall between, or the broker is off")
    except OSError as error:
        return fail(f"{address}: {error.strerror or error}", "see `interfaces`; is there a route to it?")
    return ok(f"{address} ({peer}), connected in {took:.0f} ms")


def tls(box: Box, number: int = 0) -> Outcome:
    """Whether what is configured and what the port speaks fit; certificates and their dates."""
    mqtt = _mqtt(box)
    if isinstance(mqtt, Outcome):
        return mqtt
    address = mqtt.addresses[number]
    try:
        return _plain(address) if mqtt.tls is None else _encrypted(mqtt.tls, address)
    except OSError:
        return skip("not reachable")


def _plain(address: Address) -> Outcome:
    if version := _tls_version(address):
        fix = "add a line `tls:` to the section mqtt, and below it what docs/broker.md says"
        return fail(f"{address} speaks {version}, and the configuration has no mqtt.tls", fix)
    if servers.local(address.host):
        return ok("none, and the broker is on this box")
    return warn("none: events and the password cross the network in the clear", "mqtt.tls: docs/broker.md; or a VPN")


def _encrypted(config: TlsConfig, address: Address) -> Outcome:
    try:
        context = make_context(config, "mqtt.tls")
    except ConfigError as error:
        return fail("; ".join(error.problems), _TLS_FIX)
    dates = "; ".join(f"mqtt.tls.{key}: {text}" for key, text in warnings(config, time.time()))
    with socket.create_connection(address, timeout=_TCP_S) as sock:
        try:
            with context.wrap_socket(sock, server_hostname=address.host) as secure:
                version, certificate = secure.version(), secure.getpeercert() or {}
        except OSError as error:
            return fail("; ".join(filter(None, [f"{address}: {explain(error)}", dates])), _TLS_FIX)
    left_days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400
    text = f"{version}, the broker's certificate is valid for {left_days:.0f} more days"
    if dates:
        return (fail if "expired" in dates else warn)(
            f"{text}; {dates}", "renew it; the agent reads it at each connection"
        )
    if left_days < SOON_S / 86400:
        return warn(text, "renew it at the broker")
    return ok(f"{text}{', ours is sent where it asks' if config.cert_file else ''}")


def _tls_version(address: Address) -> str:
    """The TLS version the port speaks, "" where it speaks none. Raises OSError where it cannot be reached."""
    # Nothing is sent over it, so that whom we talk to need not be proven.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address, timeout=_TCP_S) as sock:
        try:
            with context.wrap_socket(sock, server_hostname=address.host) as secure:
                return secure.version() or "TLS"
        except ssl.SSLError as error:
            # An alert is an answer in TLS: it wants a certificate of ours, or another version.
            return "TLS" if "ALERT" in (error.reason or "") else ""
        except OSError:
            return ""


def login(box: Box, number: int = 0) -> Outcome:
    """CONNECT with the agent's credentials, under a name of its own so that a running agent keeps its session; one PUBLISH."""
    mqtt = _mqtt(box)
    if isinstance(mqtt, Outcome):
        return mqtt
    assert box.config is not None
    who = f"user {mqtt.username}" if mqtt.username else "no user name"
    # Where a name was given the broker may let in no other; it is free while no agent runs.
    name = mqtt.client_id if mqtt.client_id and box.agent is None else f"edge-agent-doctor-{secrets.token_hex(6)}"
    try:
        return _greet(box.config, mqtt.addresses[number], name, who)
    except Refused as error:
        fix = (
            "correct mqtt.username and mqtt.password_file (or EDGE_AGENT_MQTT_PASSWORD), and the broker's list of users"
        )
        return fail(f"{who}: {error}", fix)
    except ClosedUnanswered as error:
        fix = "is it an MQTT broker, does it want TLS (`broker TLS`), a certificate of ours, a certain client_id? See its log"
        return fail(f"{who}: {error}", fix)
    except SinkUnavailable as error:
        if "cannot connect" in str(error) and mqtt.tls is None and mqtt.websocket_path is None:
            return skip("not reachable")
        return fail(f"{who}: {error}", "see `broker TLS`, docs/broker.md, and the broker's log")


def _greet(config: Config, address: Address, name: str, who: str) -> Outcome:
    topic = f"edge/v1/{config.site}/{config.device}/doctor"
    connection = visit(config.mqtt, address, name, lambda: False)
    try:
        answer = acknowledged(connection, connection.publish(topic, b"{}", "application/json", retain=False), _ACK_S)
    finally:
        connection.close()
    text = f"{who}: MQTT {connection.version}"
    if answer is None:
        return warn(f"{text}; a message was not acknowledged within {_ACK_S:g} s", "see the broker's log")
    code, reason = answer
    if code >= 0x80:
        return fail(
            f"{text}; may not publish {topic}: {reason}",
            f"allow this user to write edge/v1/{config.site}/{config.device}/#",
        )
    return ok(f"{text}, may publish below edge/v1/{config.site}/{config.device}/")


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
