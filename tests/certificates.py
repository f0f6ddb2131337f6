"""A certificate authority for tests, made with the openssl program."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM files."""

    cert: Path
    key: Path


class Authority:
    """A CA with elliptic keys (RSA ones take long). ``cert`` is what a client is to trust."""

    def __init__(self, folder: Path, name: str = "test CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.cert, self._key = folder, folder / "ca.pem", folder / "ca.key"
        _openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.cert, "-subj", f"/CN={name}", "-days", 30
        )

    def issue(self, name: str, *, names: str = "DNS:localhost,IP:127.0.0.1", days: int = 30) -> Pair:
        """A certificate for ``name`` (its CN) and ``names``; ``days`` -1: its time is over."""
        key, request, cert = (self._folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        _openssl("req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signed = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions, "-days", days)
        _openssl("x509", "-req", "-in", request, "-out", cert, *signed)
        key.chmod(0o600)
        return Pair(cert, key)

    def sign(self, request: bytes, *, days: int = 30, name: str | None = None, extension: str = "") -> bytes:
        """The certificate for a request (PEM); ``name`` in place of the one that it asks for (``/CN=x``)."""
        asked, cert, extensions = (self._folder / f"asked.{end}" for end in ("csr", "pem", "ext"))
        asked.write_bytes(request)
        extensions.write_text(extension + "\n")
        signed = ("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions, "-days", days)
        _openssl("x509", "-req", "-in", asked, "-out", cert, *signed, *(("-subj", name) if name else ()))
        return cert.read_bytes()


def server_context(pair: Pair, client_ca: Path | None = None) -> ssl.SSLContext:
    """For a server that shows ``pair`` and, with ``client_ca``, wants certificates of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
