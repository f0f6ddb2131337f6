"""``codes``: tokens made, and pictures of codes read as a camera would."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from edge_agent import config_file
from edge_agent.cli.common import add_verb, duration, out
from edge_agent.config_codes import CodesConfig
from edge_agent.errors import ConfigError, UsageError

_MODULE_PX = 8


def add(verbs: Any) -> None:
    """Add ``codes`` and its own verbs."""
    parser = verbs.add_parser("codes", help="make tokens, and read codes as a camera does")
    own = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    about = "make a signed token for codes.key_files, and its QR code"
    token = add_verb(own, "token", _token, about, "codes token --for dispenser --valid 1h --png token.png")
    token.add_argument("--for", dest="purpose", required=True, metavar="PURPOSE", help="what it is good for")
    token.add_argument("--valid", type=duration, required=True, metavar="TIME", help="90s, 15m, 8h, 30d: from now on")
    token.add_argument("--holder", default="", metavar="NAME", help="who or what it is for: a pseudonym is enough")
    token.add_argument("--many", action="store_true", help="good until it expires; default: once")
    token.add_argument("--png", type=Path, metavar="FILE", help="write its QR code there instead of printing the token")
    about = "read the codes in a picture and tell the names by which the configuration knows them"
    read = add_verb(own, "read", _read, about, "codes read badge.png")
    read.add_argument("picture", type=Path, metavar="PICTURE")


def _token(args: argparse.Namespace) -> int:
    from edge_agent.codes import token
    from edge_agent.codes.naming import token_keys

    codes = config_file.load(args.config).codes
    keys = token_keys(codes) if codes is not None else []
    if not keys:
        raise ConfigError(
            [f"codes.key_files: names no key in {args.config}; make one: openssl rand -hex 32 >token.key"]
        )
    try:
        text = token.make(
            keys[0], purpose=args.purpose, holder=args.holder, once=not args.many, now=time.time(), life_s=args.valid
        )
    except ValueError as error:
        raise UsageError(f"codes token: {error}") from error
    claims = token.read(text, keys)
    assert claims is not None
    if args.png is not None:
        _draw(args.png, text)
    told = {"id": claims.ident, "for": claims.purpose, "holder": claims.holder, "once": claims.once}
    told |= {"issued": claims.issued, "expires": claims.expires}
    if args.json:
        out(json.dumps({"ok": True, **told, **({} if args.png is not None else {"token": text})}))
    else:
        out(text if args.png is None else f"token-{claims.ident}: {args.png}")
    return 0


def _draw(path: Path, text: str) -> None:
    """The QR code, read again before it is believed."""
    import cv2
    import numpy as np

    from edge_agent.codes.reader import Reader

    modules = cv2.QRCodeEncoder.create().encode(text)
    edge = 4 - _border(modules)
    picture = cv2.copyMakeBorder(modules, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(255,))
    picture = np.kron(picture, np.ones((_MODULE_PX, _MODULE_PX), np.uint8))
    if [reading.text for reading in Reader(qr=True, markers=None).read(picture)] != [text]:
        raise UsageError(
            "this OpenCV draws a QR code that it cannot read; print the token and draw it with another tool"
        )
    ok, png = cv2.imencode(".png", picture)
    try:
        path.write_bytes(png.tobytes() if ok else b"")
    except OSError as error:
        raise UsageError(f"--png {path}: {error.strerror}") from error


def _border(modules: Any) -> int:
    """Rows that OpenCV left white around it; 4 are needed (ISO/IEC 18004)."""
    dark = (modules < 128).any(axis=1).nonzero()[0]
    return min(int(dark[0]), 4)


def _read(args: argparse.Namespace) -> int:
    import cv2

    from edge_agent.codes.naming import Naming, naming_key, token_keys
    from edge_agent.codes.reader import Reader

    config = config_file.load(args.config)
    codes = config.codes if config.codes is not None else CodesConfig()
    picture = cv2.imread(str(args.picture))
    if picture is None:
        raise UsageError(f"{args.picture}: no picture that can be read")
    naming = Naming(
        naming_key(codes, config.state_dir), token_keys(codes), lambda _: True, lambda _: False, codes.names
    )
    readings = Reader(qr=codes.qr, markers=codes.markers).read(picture)
    found = [naming.code(reading, 0.0, time.time()) for reading in readings]
    told = [
        {
            "kind": code.kind,
            "name": code.name,
            "groups": list(code.groups),
            "token": code.token.state if code.token is not None else None,
            "for": code.token.purpose if code.token is not None else None,
        }
        for code in found
    ]
    if args.json:
        out(json.dumps({"ok": True, "codes": told}))
    else:
        for code in told:
            groups = f" ({', '.join(code['groups'])})" if code["groups"] else ""
            token = f": {code['token']} token for {code['for'] or 'nothing known'}" if code["token"] else ""
            out(f"{code['name']}{groups}{token}")
        if not told:
            out("no code found")
    return 0 if told else 1
