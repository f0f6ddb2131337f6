"""TLS for whatever connects to the outside: a context from the configuration, and its troubles in words.

Files are read anew for every context, so that a certificate can be renewed while the agent runs.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_agent.config_base import TlsConfig
from edge_agent.errors import ConfigError

MAX_BYTES = 1_000_000
"""Of a PEM file; the CAs of a whole system fit in well."""
SOON_S = 14 * 86400.0
"""A certificate that ends within this time is warned about."""
IDENTITY = Path("identity/device.pem")
"""In the state folder: key and certificate that ``edge-agent enroll`` got for this box."""
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----(.{0,200})", re.DOTALL)
_ALERTS = {
    "CERTIFICATE_REQUIRED": "it wants a certificate of ours (cert_file, key_file)",
    "HANDSHAKE_FAILURE": "no common ground; perhaps it wants a certificate of ours (cert_file, key_file)",
    "CERTIFICATE_EXPIRED": "our certificate (cert_file) has expired",
    "CERTIFICATE_REVOKED": "our certificate (cert_file) is revoked",
    "UNKNOWN_CA": "it does not know the CA of our certificate (cert_file)",
    "BAD_CERTIFICATE": "it does not accept our certificate (cert_file)",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate (cert_file)",
    "UNSUPPORTED_CERTIFICATE": "it does not accept our kind of certificate (cert_file)",
    "ACCESS_DENIED": "our certificate (cert_file) may not connect",
    "PROTOCOL_VERSION": "no TLS version in common (min_version)",
    "UNRECOGNIZED_NAME": "it does not know the name it was asked for (server_name)",
    "NO_APPLICATION_PROTOCOL": "it knows none of the protocols that were offered (alpn)",
}


class TlsSocket(ssl.SSLSocket):
    """Remembers in its context why reading failed: TLS 1.3 refuses a client's certificate only after the handshake."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As ever. Raises OSError."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if isinstance(self.context, TlsContext):
                self.context.trouble = explain(error)
            raise


class TlsContext(ssl.SSLContext):
    """Asks for ``server_name`` whatever host is connected to; knows the last connection that was ``opened`` and its ``trouble``."""

    sslsocket_class = TlsSocket
    server_name: str | None = None
    trouble = ""
    opened: ssl.SSLSocket | None = None

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        """As ever. Raises OSError."""
        if self.server_name is not None:
            options["server_hostname"] = self.server_name
        self.opened = super().wrap_socket(sock, *args, **options)
        return self.opened


def make_context(config: TlsConfig, section: str) -> TlsContext:
    """For a client. Raises ConfigError with ``section.key: what is wrong with its file``."""
    faults = [f"{section}.{key}: {text}" for key, text in problems(config)]
    if faults:
        raise ConfigError(faults)
    return _context(config)


def problems(config: TlsConfig) -> Iterator[tuple[str, str]]:
    """(key, what is wrong): what no connection could be made with. Whether dates are right is not looked at."""
    if config.ca_file is not None:
        content = _read(config.ca_file)
        if text := _about_certificate(content):
            yield "ca_file", f"{config.ca_file}: {text}"
        else:
            try:
                _bare(config).load_verify_locations(cafile=config.ca_file)
            except ssl.SSLError as error:
                yield "ca_file", f"{config.ca_file}: cannot be used: {_plain(error)}"
    if config.cert_file is not None:
        yield from _problems_of_ours(config, config.cert_file)


def _problems_of_ours(config: TlsConfig, cert_file: Path) -> Iterator[tuple[str, str]]:
    place, key_file = ("key_file", config.key_file) if config.key_file else ("cert_file", cert_file)
    bad = False
    if text := _about_certificate(_read(cert_file)):
        bad = True
        yield "cert_file", f"{cert_file}: {text}"
    if (text := _about_key(_read(key_file))) and not (bad and place == "cert_file"):
        bad = True
        yield place, f"{key_file}: {text}"
    if bad:
        return
    try:
        _bare(config).load_cert_chain(cert_file, config.key_file, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            yield place, f"{key_file}: is not the key of the certificate in {cert_file}"
        else:
            yield "cert_file", f"{cert_file}: cannot be used: {_plain(error)}"


def warnings(config: TlsConfig, now: float) -> Iterator[tuple[str, str]]:
    """(key, what): certificates whose time is over, near its end, or to come, at ``now`` (POSIX seconds)."""
    for key in ("ca_file", "cert_file"):
        content = _read(files(config)[key]) if key in files(config) else b""
        spans = [validity(pem) for pem in _CERTIFICATE.findall(content)] if isinstance(content, bytes) else []
        known = [span for span in spans if span is not None]
        if not known:
            continue
        # One of many CAs may be past; our own certificate is the first in its file.
        begins, ends = max(known, key=lambda span: span[1]) if key == "ca_file" else known[0]
        if now > ends:
            yield key, f"{files(config)[key]}: the certificate expired on {_day(ends)} (or this box's clock is wrong)"
        elif now < begins:
            yield (
                key,
                f"{files(config)[key]}: the certificate is valid from {_day(begins)} on (is this box's clock right?)",
            )
        elif ends - now < SOON_S:
            yield key, f"{files(config)[key]}: the certificate expires on {_day(ends)}; renew it"


def ours(config: TlsConfig) -> tuple[float, float] | None:
    """From when to when our own certificate is valid, POSIX seconds; None where there is none, or none that can be read."""
    content = b"" if config.cert_file is None else _read(config.cert_file)
    found = _CERTIFICATE.search(content) if isinstance(content, bytes) else None
    return None if found is None else validity(found[0])


def stamp(config: TlsConfig) -> tuple[tuple[int, int], ...]:
    """Changes with each file of ours that is replaced."""
    found = []
    for file in (config.cert_file, config.key_file):
        with contextlib.suppress(OSError):
            if file is not None:
                stat = file.stat()
                found.append((stat.st_ino, stat.st_mtime_ns))
    return tuple(found)


def files(config: TlsConfig) -> dict[str, Path]:
    """The files that are named, by key."""
    named = {"ca_file": config.ca_file, "cert_file": config.cert_file, "key_file": config.key_file}
    return {key: file for key, file in named.items() if file is not None}


def explain(error: Exception, who: str = "the broker") -> str:
    """An error of the ssl module, or of a socket in a handshake, as something to act on. Keys are those of the ``tls`` section."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{who}'s certificate is not accepted: {error.verify_message}{_hint(error.verify_code)}"
    reason = (getattr(error, "reason", None) or "").upper()
    if reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"}:
        return "no TLS there: this port speaks without it; correct the port, or do without TLS there"
    for alert, text in _ALERTS.items():
        if reason.endswith(f"ALERT_{alert}") or reason == alert:
            return f"{who} refused TLS: {text}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionResetError):
        return f"{who} ended the connection in the TLS handshake; does it speak TLS here, and accept our certificate?"
    return f"TLS: {_plain(error)}"


def _hint(code: int) -> str:
    if code in {18, 19, 20, 21}:  # X509_V_ERR_*: self-signed, or no known issuer
        return "; ca_file must hold the CA that signed it"
    if code in {9, 10}:
        return " (or this box's clock is wrong)"
    return "; host or server_name must be a name in it" if code in {62, 64} else ""


def _plain(error: Exception) -> str:
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).replace("_", " ").lower() if str(text).isupper() else str(text)


def _bare(config: TlsConfig) -> TlsContext:
    context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[config.min_version]
    return context


def _context(config: TlsConfig) -> TlsContext:
    context = _bare(config)
    context.server_name = config.server_name
    if config.alpn:
        context.set_alpn_protocols(config.alpn)
    if config.ca_file:
        context.load_verify_locations(cafile=config.ca_file)
    else:
        context.load_default_certs()
    if config.cert_file:
        # A passphrase would be asked for on the terminal, which a service does not have.
        context.load_cert_chain(config.cert_file, config.key_file, password="")
    return context


def _read(file: Path) -> bytes | str:
    """What is in it, or why it cannot be had."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return content if len(content) <= MAX_BYTES else f"larger than {MAX_BYTES} bytes; this is no certificate"


def _about_certificate(content: bytes | str) -> str:
    if isinstance(content, str):
        return content
    return "" if _CERTIFICATE.search(content) else "holds no certificate in PEM format (-----BEGIN CERTIFICATE-----)"


def _about_key(content: bytes | str) -> str:
    if isinstance(content, str):
        return content
    found = _KEY.search(content)
    if found is None:
        return "holds no private key in PEM format (-----BEGIN PRIVATE KEY-----)"
    if b"ENCRYPTED" in found[1] or b"ENCRYPTED" in found[2]:
        return "the key is locked with a passphrase, which nobody types at a start; unlock it: openssl pkey -in OLD -out NEW"
    return ""


def validity(pem: bytes) -> tuple[float, float] | None:
    """From when to when a certificate is valid, POSIX seconds; None where it cannot be told."""
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))
        at = _enter(der, _enter(der, 0))  # RFC 5280 §4.1: Certificate, TBSCertificate
        if der[at] == 0xA0:  # version, where it is not the first
            at = _skip(der, at)
        for _ in ("serialNumber", "signature", "issuer"):
            at = _skip(der, at)
        begins = _enter(der, at)
        return _time(der, begins), _time(der, _skip(der, begins))
    except (ValueError, IndexError, OverflowError):
        return None


def _length(der: bytes, at: int) -> tuple[int, int]:
    """(where the content of the element at ``at`` begins, how long it is) (X.690 §8.1.3)."""
    first = der[at + 1]
    if first < 0x80:
        return at + 2, first
    size = first & 0x7F
    return at + 2 + size, int.from_bytes(der[at + 2 : at + 2 + size], "big")


def _enter(der: bytes, at: int) -> int:
    return _length(der, at)[0]


def _skip(der: bytes, at: int) -> int:
    start, size = _length(der, at)
    return start + size


def _time(der: bytes, at: int) -> float:
    start, size = _length(der, at)
    text = der[start : start + size].decode("ascii")
    if der[at] == 0x17:  # UTCTime: RFC 5280 §4.1.2.5.1 says what its two digits mean
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")
