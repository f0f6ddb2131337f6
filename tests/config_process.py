"""A box that takes a signed configuration, as a process of its own: to be killed, and to be watched at its writing.

``python -m tests.config_process CONFIG``: fetch version 1, start again with it, confirm it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.config_fixtures import NAME, ConfigBox


def main(path: str) -> None:
    ConfigBox(Path(path)).settle(f"{NAME}@1")


if __name__ == "__main__":
    main(*sys.argv[1:])
