"""Every attack on an update, and a crash at every step of one: one line each; exit 1 where one got through or left no valid model.

    python -m benchmarks.ota_attacks [--json] [--only attacks|cuts|kills|configs] [--every N] [--dir FOLDER]

Attacks come over a real HTTP server with real keys. Power cuts are played on a model of the disk that a real run's system calls feed:
what was not synced is lost, or only its names are, or only its contents, or all but the names in one folder. Kills are real ones.
``configs``: cuts and kills for a signed configuration. ``--every`` looks at one of N of the disks that could be left. ``--dir`` is
where all this happens.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests import config_crashes
from tests.ota_attacks import ATTACKS, World, perform, world
from tests.ota_crashes import Crash, kills, power_cuts

KILLS = [
    *(("rename", n) for n in range(1, 23)),
    *(("fsync", n) for n in range(1, 45)),
    *(("mkdir", n) for n in (3, 6, 9, 12)),
    *(("unlinkat", n) for n in (1, 3, 5, 7)),
]
CONFIG_KILLS = [
    *(("rename", n) for n in range(1, 15)),
    *(("fsync", n) for n in range(1, 30, 2)),
]
MODELS = Path(__file__).parent.parent / "models"


def attacks(folder: Path) -> Iterator[dict[str, Any]]:
    """One after the other, each on a box of its own."""
    for number, attack in enumerate(ATTACKS):
        outcome = perform(attack, folder / f"attack-{number}")
        facts = {
            "kind": "attack",
            "name": attack.name,
            "held": outcome.held(attack),
            "expected": attack.expected.__name__,
        }
        yield {**facts, **asdict(outcome)}


def crashes(found: Iterator[Crash], kind: str) -> Iterator[dict[str, Any]]:
    """As lines."""
    for crash in found:
        yield {"kind": kind, "name": crash.point, "held": not crash.faults, **asdict(crash)}


@contextmanager
def updating(folder: Path) -> Iterator[World]:
    """A box with version 1, a repository with version 2."""
    with world(folder) as scene:
        scene.advance()
        yield scene


def rows(folder: Path, only: str | None, every: int) -> Iterator[dict[str, Any]]:
    """Everything that was asked for."""
    if only in (None, "attacks"):
        yield from attacks(folder)
    if only in (None, "cuts"):
        with updating(folder / "cuts") as scene:
            yield from crashes(power_cuts(scene, folder / "cuts", every), "power cut")
    if only in (None, "kills"):
        with updating(folder / "kills") as scene:
            yield from crashes(kills(scene, folder / "kills", KILLS[::every]), "kill")
    if only in (None, "configs"):
        (folder / "configs").mkdir()
        scene_of_configs = config_crashes.scene(folder / "configs", MODELS)
        yield from crashes(config_crashes.power_cuts(scene_of_configs, folder / "configs", every), "config cut")
        yield from crashes(config_crashes.kills(scene_of_configs, CONFIG_KILLS[::every]), "config kill")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--only", choices=["attacks", "cuts", "kills", "configs"])
    parser.add_argument("--every", type=int, default=1, metavar="N")
    parser.add_argument("--dir", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    logging.disable()
    began, total, failed = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="ota-") as place:
        for row in rows(Path(place), args.only, args.every):
            total, failed = total + 1, failed + (not row["held"])
            sys.stdout.write((json.dumps(row) if args.json else _line(row)) + "\n")
            sys.stdout.flush()
    if not args.json:
        sys.stdout.write(f"{total - failed} of {total} held, {time.monotonic() - began:.0f} s\n")
    return 1 if failed or not total else 0


def _line(row: dict[str, Any]) -> str:
    told = row["error"] or "ACCEPTED" if row["kind"] == "attack" else f"active {row['active']}, {row['state']}"
    faults = "; ".join(row.get("faults", [])) or row.get("text", "")
    return f"{'ok  ' if row['held'] else 'FAIL'} {row['kind']:11} {row['name']}: {told}{'' if row['held'] else f' ({faults})'}"


if __name__ == "__main__":
    sys.exit(main())
