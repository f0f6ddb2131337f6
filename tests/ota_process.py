"""A box that updates, as a process of its own: to be killed, and to be watched at its writing.

``python -m tests.ota_process STATE URL ROOT``: install what the channel says, let it take over, start again on it, confirm it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.ota_fixtures import Client

BOOT = "a-boot"


def main(state: str, url: str, root: str) -> None:
    client = Client(Path(state), url, Path(root))
    with client.store.lock():
        client.install()
        client.activation().activate(None)
        agent = client.activation(boot=BOOT)
        agent.confirm()
        agent.ended()


if __name__ == "__main__":
    main(*sys.argv[1:])
