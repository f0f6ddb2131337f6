"""Private keys: files locked with a passphrase, or whatever ``securesystemslib`` reaches by a URI (an HSM, a cloud's KMS)."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.exceptions import KeyMismatchError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from edge_agent.durable import write_file
from edge_agent.errors import UsageError

MIN_PASSPHRASE = 12
Passphrase = Callable[[str, bool], str]
"""The passphrase (or PIN) of the key of that name; True: it is a new one, so ask twice."""


class Keyring:
    """Which private key lies where, by key id (``keys.json``); the files are in ``keys/`` and in the folders of ``more``.

    A key whose file is not in any of them is offline now, which is no fault.
    """

    def __init__(self, folder: Path, passphrase: Passphrase, more: Sequence[Path] = ()) -> None:
        self._index, self._own, self._more = folder / "keys.json", folder / "keys", more
        self._passphrase = passphrase
        self._signers: dict[str, Signer] = {}
        self._places: dict[str, str] = json.loads(self._index.read_text("utf-8")) if self._index.exists() else {}

    def make(self, name: str) -> SSlibKey:
        """A new Ed25519 key in a locked file, in the first of the folders of ``more`` or in ``keys/``. Raises UsageError."""
        folder = self._more[0] if self._more else self._own
        path = folder / f"{name}.pem"
        secret = self._passphrase(name, True)
        if len(secret) < MIN_PASSPHRASE:
            raise UsageError(f"the passphrase of {name} must have at least {MIN_PASSPHRASE} characters")
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(secret.encode()),
        )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
                os.fsync(file.fileno())
        except FileExistsError:
            raise UsageError(f"{path} is there already: a key is never overwritten") from None
        signer = CryptoSigner(private)
        self._signers[signer.public_key.keyid] = signer
        self.remember(signer.public_key, path.name)
        return signer.public_key

    def remember(self, key: Key, place: str) -> None:
        """``place`` is a file's name or a URI that securesystemslib knows."""
        self._places[key.keyid] = place
        write_file(self._index, json.dumps(self._places, indent=1, sort_keys=True).encode() + b"\n")

    def free_name(self, role: str) -> str:
        """A name for one more key of a role."""
        return next(name for n in itertools.count(1) if f"{(name := f'{role}-{n}')}.pem" not in self._places.values())

    def find(self, name: str) -> str:
        """The id of a key, by that, the beginning of that, or its file's name. Raises UsageError."""
        found = {keyid for keyid, place in self._places.items() if place in (name, f"{name}.pem")}
        found = found or {keyid for keyid in self._places if keyid.startswith(name)}
        if len(found) != 1:
            raise UsageError(f"{name!r} is no key of this repository, or more than one: see `edge-agent repo status`")
        return found.pop()

    def place(self, keyid: str) -> str:
        """For people: where it is."""
        return self._places.get(keyid, "elsewhere")

    def signer(self, key: Key) -> Signer | None:
        """Raises UsageError (a wrong passphrase, a file that is no key); None: it is not here."""
        if key.keyid not in self._signers:
            place = self._places.get(key.keyid)
            signer = None if place is None else self._open(key, place)
            if signer is None:
                return None
            self._signers[key.keyid] = signer
        return self._signers[key.keyid]

    def _open(self, key: Key, place: str) -> Signer | None:
        if not place.endswith(".pem"):
            try:
                return Signer.from_priv_key_uri(place, key, lambda what: self._passphrase(f"{what} of {place}", False))
            except Exception as error:
                raise UsageError(f"the key {place} cannot be used: {error}") from error
        path = next((p for f in (self._own, *self._more) if (p := f / place).is_file()), None)
        if path is None:
            return None
        secret = self._passphrase(path.stem, False).encode()
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), secret)
            return CryptoSigner(private, key)  # type: ignore[arg-type]
        except (ValueError, TypeError, KeyMismatchError, OSError) as error:
            raise UsageError(f"{path}: wrong passphrase, or not the key it should be ({error})") from None


def read_public(path: Path) -> SSlibKey:
    """A public key, PEM (Ed25519, ECDSA, RSA), of somebody who keeps the private one. Raises UsageError."""
    try:
        return SSlibKey.from_crypto(serialization.load_pem_public_key(path.read_bytes()))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: no public key in PEM format: {error}") from error
