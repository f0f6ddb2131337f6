"""The whole story of updates once, with every message about the model that a subscriber saw.

    python -m benchmarks.update_story

A repository with real keys on a real web server, a real broker, the agent as a process on the pedestrian video: version 1 is
published, installed by command and kept; a version 2 that finds nothing does not come through; version 3 does; an operator
goes back. Exit code 1 where one of them ended otherwise.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.ota_models import BAD
from tests.update_fixtures import Box, updating_box

ROOT = Path(__file__).parent.parent
TOPICS = ("/commands/model", "/lab/box1/model", "/events/_device/model")


class Teller:
    """Prints what came since the last time."""

    def __init__(self, box: Box) -> None:
        self._box, self._told, self._began = box, 0, time.monotonic()

    def say(self, text: str) -> None:
        """What the operator does."""
        self.messages()
        sys.stdout.write(f"\n--- {text}\n")

    def messages(self) -> None:
        """What the subscriber saw."""
        came = list(self._box.asker.sub.messages)
        for message in came[self._told :]:
            if any(topic in message.topic for topic in TOPICS):
                payload = json.loads(message.payload)
                shown = payload.get("data", payload)
                sys.stdout.write(f"{message.topic}\n  {json.dumps(shown)}\n")
        self._told = len(came)

    def wait(self, state: str, label: str) -> None:
        """Until the update has come so far; the time it took."""
        began = time.monotonic()
        self._box.wait_until(state, label)
        self._box.wait_for(lambda: self._box.facts(state), what="the event")
        self.messages()
        sys.stdout.write(f"    ({time.monotonic() - began:.1f} s)\n")


def tell(box: Box) -> None:
    """From the first version to the rollback."""
    teller = Teller(box)
    with box.agent() as agent:
        agent.wait_for_log("delivering")
        for version, content, end in (
            ("1.0", None, "confirmed"),
            ("2.0", BAD["it detects nothing"](), "rolled_back"),
            ("3.0", None, "confirmed"),
        ):
            kind = "which finds nothing" if content is not None else "which is good"
            teller.say(f"publish version {version}, {kind}, and let the box update")
            box.publish(version, content)
            box.update(f"story-{version}")
            teller.wait(end, f"eyes@{version}")
        teller.say("roll back")
        box.asker.ask("model.rollback", {"id": "story-back"})
        teller.wait("rolled_back", "eyes@3.0")
        teller.say(f"the agent ends: exit code {agent.end()}")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="story-") as folder, updating_box(ROOT, Path(folder)) as box:
        try:
            tell(box)
        except AssertionError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
