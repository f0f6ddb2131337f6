"""The examination in a process of its own, for an agent at work that is asked for it: what a check breaks is not the agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_agent.detect.child import Say, serve
from edge_agent.doctor.examine import examine


def _examine(request: dict[str, Any], say: Say) -> dict[str, Any]:
    say("looking the box over")
    file = request["config"]
    report: dict[str, Any] = json.loads(examine(None if file is None else Path(file)).to_json())
    return report


if __name__ == "__main__":
    serve(_examine)
