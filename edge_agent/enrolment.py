"""The identity of a box: a key that never leaves it, a request for a certificate, and the certificate that came back.

All lies in ``state_dir/identity``. Key and certificates are one file, so that a renewal is one rename: a broker sees the old
pair or the new one. Until then the new key waits beside it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_agent.config import Config
from edge_agent.durable import write_file
from edge_agent.errors import UsageError
from edge_agent.tls import IDENTITY, MAX_BYTES

PENDING = "pending.key"
REQUEST = "device.csr"


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a certificate: where it is, its PEM text, and for whom."""

    path: Path
    pem: bytes
    subject: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate of this box. ``expires`` is POSIX seconds."""

    path: Path
    subject: str
    expires: float


class Enrolment:
    """Of the box that ``config`` describes. Files get the owner of the state folder, so that root may call it for the agent."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._pair = config.state_dir / IDENTITY
        self._folder = self._pair.parent

    def request(self, *, renew: bool) -> Request:
        """Make a key where none waits, and a request for its certificate. Raises UsageError: there is a certificate, and no
        ``renew``; or the folder cannot be written.
        """
        if not renew and (present := self.present()) is not None:
            raise UsageError(f"{present.path} is there, for {present.subject}; --renew asks for its successor")
        pending = self._folder / PENDING
        with _told(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own(self._folder)
            if not pending.exists():
                self._write(pending, _pem(ec.generate_private_key(ec.SECP256R1())), 0o600)
            key = _key(pending.read_bytes(), pending)
            text = self._signed_request(key).public_bytes(serialization.Encoding.PEM)
            self._write(self._folder / REQUEST, text, 0o644)
        return Request(self._folder / REQUEST, text, self._name.rfc4514_string())

    def accept(self, content: bytes) -> Certificate:
        """Put the certificate, and what follows it in its file, in the place of the one before. Raises UsageError: it is not ours."""
        chain = _certificates(content)
        key = self._key_of(chain[0])
        self._check(chain)
        pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
        with _told(self._folder):
            self._write(self._pair, _pem(key) + pem, 0o600)
            for name in (PENDING, REQUEST):
                (self._folder / name).unlink(missing_ok=True)
        return self._described(chain[0])

    def present(self) -> Certificate | None:
        """The certificate that is in use; None where there is none. Raises UsageError where it cannot be read."""
        with _told(self._folder):
            if not self._pair.exists():
                return None
            return self._described(_certificates(self._pair.read_bytes())[0])

    @property
    def _name(self) -> x509.Name:
        device = self._config.device or "device"
        parts = ((NameOID.ORGANIZATION_NAME, self._config.site), (NameOID.COMMON_NAME, device))
        return x509.Name([x509.NameAttribute(*part) for part in parts])

    def _signed_request(self, key: ec.EllipticCurvePrivateKey) -> x509.CertificateSigningRequest:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = x509.CertificateSigningRequestBuilder().subject_name(self._name)
        return builder.add_extension(usage, critical=False).sign(key, hashes.SHA256())

    def _key_of(self, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        public = certificate.public_key()
        for path in (self._folder / PENDING, self._pair):
            with _told(path):
                if path.exists() and (key := _key(path.read_bytes(), path)).public_key() == public:
                    return key
        raise UsageError(
            f"the certificate is for another key than the one that waits in {self._folder}; "
            "edge-agent enroll --csr - prints the request it has to be made from"
        )

    def _check(self, chain: list[x509.Certificate]) -> None:
        ours, device, now = chain[0], self._config.device, time.time()
        names = [str(name.value) for name in ours.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if names != [device]:
            said = ", ".join(names) or "nobody"
            raise UsageError(
                f"the certificate is for {said}; the broker knows this box as {device} (device: in the configuration)"
            )
        if ours.not_valid_after_utc.timestamp() < now:
            raise UsageError(
                f"the certificate expired on {ours.not_valid_after_utc:%Y-%m-%d} (or this box's clock is wrong)"
            )
        with contextlib.suppress(x509.ExtensionNotFound):
            usage = ours.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
                raise UsageError("the certificate is not one for a client (extended key usage)")
        for lower, upper in itertools.pairwise(chain):
            if lower.issuer != upper.subject:
                said = f"{upper.subject.rfc4514_string()} did not issue {lower.subject.rfc4514_string()}"
                raise UsageError(f"{said}; put this box's certificate first, then its issuer, and so on")

    def _described(self, certificate: x509.Certificate) -> Certificate:
        return Certificate(
            self._pair, certificate.subject.rfc4514_string(), certificate.not_valid_after_utc.timestamp()
        )

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        write_file(path, content, mode)
        self._own(path)

    def _own(self, path: Path) -> None:
        owner = self._config.state_dir.stat()
        if os.geteuid() == 0:
            os.chown(path, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{error.filename or path}: {error.strerror}; run it as root, or as the agent's user"
        ) from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key(content: bytes, path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except ValueError as error:
        raise UsageError(f"{path}: the key in it is damaged; remove the file, and enroll anew") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{path}: not a key that enroll made; remove the file, and enroll anew")
    return key


def _certificates(content: bytes) -> list[x509.Certificate]:
    if len(content) > MAX_BYTES:
        raise UsageError(f"more than {MAX_BYTES} bytes are no certificate")
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise UsageError("no certificate in PEM format (-----BEGIN CERTIFICATE-----) is in it") from error
