"""What a code is called, so that nobody learns what it says; and whether a token in it is to be believed."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_agent.codes import token
from edge_agent.codes.reader import Reading
from edge_agent.config import read_secret
from edge_agent.config_codes import CodesConfig
from edge_agent.durable import write_file
from edge_agent.errors import ConfigError
from edge_agent.types import Code, Token

log = logging.getLogger(__name__)

SKEW_S = 120
"""Clocks of who issues tokens and of a box may differ by so much."""


class Naming:
    """Thread-safe. ``clock_ok`` says whether the clock is believed now, ``is_spent`` whether a token's id was used up.

    ``key`` makes the names of QR codes: without it nobody can try what text may be behind a name. ``keys`` sign tokens. ``groups``
    are names of codes by that of their group.
    """

    def __init__(
        self,
        key: bytes,
        keys: Sequence[bytes],
        clock_ok: Callable[[float], bool],
        is_spent: Callable[[str], bool],
        groups: Mapping[str, Sequence[str]],
    ) -> None:
        self._key, self._keys, self._clock_ok, self._is_spent = key, tuple(keys), clock_ok, is_spent
        self._groups: dict[str, tuple[str, ...]] = {}
        for group, names in groups.items():
            for name in dict.fromkeys(names):
                self._groups[name] = (*self._groups.get(name, ()), group)

    def code(self, reading: Reading, t: float, utc: float) -> Code:
        """What is told of a reading: ``t`` and ``utc`` are those of its frame."""
        found = self._token(reading.text, utc) if reading.kind == "qr" else None
        if reading.kind == "marker":
            name = f"marker-{reading.text}"
        elif found is not None and found.ident:
            name = f"token-{found.ident}"
        else:
            name = "qr-" + hmac.new(self._key, reading.text.encode(errors="replace"), hashlib.sha256).hexdigest()[:16]
        return Code(reading.kind, name, reading.box, reading.angle_deg, t, found, self._groups.get(name, ()))

    def _token(self, text: str, utc: float) -> Token | None:
        if not text.startswith(token.PREFIX):
            return None
        claims = token.read(text, self._keys)
        if claims is None:
            return Token("bad")
        if not self._clock_ok(utc):
            state = "no_clock"
        elif claims.expires <= utc:
            state = "expired"
        elif claims.issued > utc + SKEW_S:
            state = "early"
        else:
            state = "spent" if claims.once and self._is_spent(claims.ident) else "valid"
        return Token(
            state,  # type: ignore[arg-type]
            claims.ident,
            claims.purpose,
            claims.holder,
            claims.once,
            claims.issued,
            claims.expires,
        )


def token_keys(config: CodesConfig) -> list[bytes]:
    """Raises ConfigError that names every file which cannot be read, or holds too short a key."""
    keys, problems = [], []
    for index, file in enumerate(config.key_files):
        try:
            key = (read_secret(file, "") or "").encode()
        except ConfigError as error:
            problems += [f"codes.key_files[{index}]: {problem}" for problem in error.problems]
            continue
        if len(key) < token.MIN_KEY_BYTES:
            short = f"{file} holds {len(key)} bytes, a key needs {token.MIN_KEY_BYTES} or more"
            problems.append(f"codes.key_files[{index}]: {short}; make one: openssl rand -hex 32 >{file}")
        elif file.stat().st_mode & stat.S_IROTH:
            log.warning("codes.key_files[%d]: every user of this machine can read %s; chmod 600 it", index, file)
        keys.append(key)
    if problems:
        raise ConfigError(problems)
    return keys


def check_keys(config: CodesConfig) -> None:
    """Read all key files, as a start would, and keep nothing. Raises ConfigError."""
    token_keys(config)
    if config.hash_key_file is not None:
        read_secret(config.hash_key_file, "")


def naming_key(config: CodesConfig, state_dir: Path) -> bytes:
    """What names of QR codes are made with; made at random where this box has none yet. Raises ConfigError."""
    if config.hash_key_file is not None:
        return (read_secret(config.hash_key_file, "") or "").encode()
    own = state_dir / "codes.key"
    try:
        if (key := own.read_bytes() if own.exists() else b"") and len(key) >= token.MIN_KEY_BYTES:
            return key
        state_dir.mkdir(parents=True, exist_ok=True)
        write_file(own, os.urandom(token.MIN_KEY_BYTES))
        own.chmod(0o600)
        return own.read_bytes()
    except OSError as error:
        raise ConfigError([f"codes: {own}: {error.strerror}"]) from error
