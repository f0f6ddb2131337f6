"""``calibrate``: the ground plane of a camera."""

from __future__ import annotations

import argparse
import json
from typing import Any

from edge_agent import config_file
from edge_agent.cli.common import add_verb, out


def add(verbs: Any) -> None:
    """Add ``calibrate``."""
    parser = add_verb(
        verbs,
        "calibrate",
        _calibrate,
        "fit a camera's ground plane to measured points and show how well they agree",
        'calibrate --camera pets --points "502,208=-2,-6; 410,230=-5,-5; 379,266=-8,-6; 298,304=-11,-6"',
    )
    parser.add_argument("--camera", metavar="ID", help="default: the first one")
    parser.add_argument("--points", metavar='"u,v=x,y; …"', help="pixels = metres; default: those of the configuration")
    parser.add_argument(
        "--image-size", metavar="WxH", help="picture the pixels were measured in; default: the configured one"
    )


def _calibrate(args: argparse.Namespace) -> int:
    from edge_agent.calibration import calibrate

    config = config_file.load(args.config)
    result = calibrate(config, args.camera, args.points, args.image_size)
    if args.json:
        out(json.dumps({"ok": True, **result.facts}))
    else:
        out(result.table)
        out("\nFor the configuration:\n")
        out(result.yaml)
    return 0
