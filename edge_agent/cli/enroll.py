"""``enroll``: a key and a certificate for this box."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edge_agent.cli.common import add_verb, out
from edge_agent.errors import UsageError


def add(verbs: Any) -> None:
    """Add ``enroll``."""
    about = "make this box a key and a request for its certificate, or take the certificate"
    parser = add_verb(verbs, "enroll", _enroll, about, "enroll --csr box1.csr")
    parser.add_argument(
        "--renew", action="store_true", help="ask for the successor of the certificate there is: a new key"
    )
    parser.add_argument("--csr", type=Path, metavar="FILE", help="write the request here too; - prints it")
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="the certificate that was made from the request; - reads it"
    )


def _enroll(args: argparse.Namespace) -> int:
    from edge_agent import config_file
    from edge_agent.enrolment import Enrolment
    from edge_agent.types import rfc3339

    if args.certificate is not None and (args.renew or args.csr is not None):
        raise UsageError("--certificate takes what --csr asked for: give one of them")
    enrolment = Enrolment(config_file.load(args.config))
    if args.certificate is not None:
        taken = enrolment.accept(_content(args.certificate))
        facts = {"certificate": str(taken.path), "subject": taken.subject, "expires": rfc3339(taken.expires)}
        words = f"{taken.path}: {taken.subject}, until {rfc3339(taken.expires)[:10]}; a running agent takes a renewed one by itself"
    else:
        made = enrolment.request(renew=args.renew)
        facts = {"csr": str(made.path), "subject": made.subject}
        words = f"{made.path}: {made.subject}; let your authority sign it, then: edge-agent enroll --certificate FILE"
        if args.csr == Path("-"):
            words = made.pem.decode().rstrip()
        elif args.csr is not None:
            _write(args.csr, made.pem)
    out(json.dumps(facts) if args.json else words)
    return 0


def _content(file: Path) -> bytes:
    from edge_agent.tls import MAX_BYTES

    try:
        if file == Path("-"):
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
