"""Draws docs/img/panel.svg from a real run on the pedestrian video: ``make screenshots``.

The agent runs at the video's pace without a broker, as ``make run`` does where there is none. The picture is taken once
two violations are open and some events were told.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from edge_agent import config_file
from edge_agent.app import Agent, RunOptions
from edge_agent.logs import setup_logging
from edge_agent.panel import LivePanel

ROOT = Path(__file__).parent.parent
SIZE = (100, 23)
NOT_BEFORE = 140
"""Frames: twenty seconds of the video."""


def main() -> int:
    """Run, draw, stop."""
    picture = Console(file=io.StringIO(), record=True, width=SIZE[0], height=SIZE[1], force_terminal=True)
    with tempfile.TemporaryDirectory() as state:
        config = config_file.load(ROOT / "config.yaml")
        config = config.model_copy(update={"state_dir": Path(state), "device": "demo-box"})
        setup_logging(config.logging)
        agent = Agent(config, RunOptions(realtime=True))
        terminal = Console(file=io.StringIO(), width=SIZE[0], height=SIZE[1], force_terminal=True)
        taken = False

        def tick() -> None:
            nonlocal taken
            stats = agent.cameras[0].chain
            if not taken and stats.stats.frames >= NOT_BEFORE and stats.open_episodes >= 2:
                picture.print(panel.picture(SIZE))
                taken = True
                agent.stop.set()

        with LivePanel(agent.status, terminal) as panel:
            agent.outbox.on_event(panel.on_event)
            code = agent.run(tick)
    if code or not taken:
        sys.stderr.write("no picture: the run failed, or never had two open violations\n")
        return code or 1
    svg = picture.export_svg(title="make run", unique_id="panel")
    # No font from a network: whoever looks at the page has a monospaced one.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    target = ROOT / "docs" / "img" / "panel.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text(svg, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
