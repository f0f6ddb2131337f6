"""Draws docs/img/*.svg from real runs on the pedestrian video: ``make screenshots``.

- panel: the agent runs at the video's pace without a broker, as ``make run`` does where there is none. The picture is taken
  once two violations are open and some events were told.
- bench, doctor: what the two verbs print on this machine.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console, RenderableType

from edge_agent import config_file
from edge_agent.app import Agent
from edge_agent.bench.report import report
from edge_agent.bench.result import BenchResult, read_result
from edge_agent.config import Config
from edge_agent.config_file import device_id
from edge_agent.doctor.display import table
from edge_agent.doctor.examine import Report, examine
from edge_agent.logs import setup_logging
from edge_agent.panel import LivePanel
from edge_agent.run_options import RunOptions

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "img"
SIZE = (100, 23)
NOT_BEFORE = 140
"""Frames: twenty seconds of the video."""


def main() -> int:
    """Draw all of them."""
    IMAGES.mkdir(exist_ok=True)
    config = config_file.load(ROOT / "config.yaml")
    setup_logging(config.logging)
    with tempfile.TemporaryDirectory() as state:
        config = config.model_copy(update={"state_dir": Path(state), "device": "demo-box"})
        _draw("doctor", "edge-agent doctor", table(_elsewhere(examine(ROOT / "config.yaml"))))
        _draw("bench", "edge-agent bench", report(_bench(Path(state))))
        return _panel(config)


def _elsewhere(found: Report) -> Report:
    """Without the names of whose machine this is."""
    names = {str(ROOT): "/opt/edge-agent", device_id(ROOT / ".state"): "demo-box"}
    findings = found.findings
    for name, shown in names.items():
        findings = tuple(replace(finding, found=finding.found.replace(name, shown)) for finding in findings)
    return replace(found, findings=findings)


def _bench(folder: Path) -> BenchResult:
    """In a process of its own: from its start counts the time to the first detection."""
    kept = folder / "bench.json"
    command = [sys.executable, "-m", "edge_agent.cli", "bench", "-c", "config.yaml", "--json"]
    with kept.open("wb") as file:
        subprocess.run(command, check=True, cwd=ROOT, stdout=file)  # noqa: S603
    return read_result(kept)


def _draw(name: str, title: str, content: RenderableType, height: int | None = None) -> None:
    picture = Console(file=io.StringIO(), record=True, width=SIZE[0], height=height, force_terminal=True)
    picture.print(content)
    svg = picture.export_svg(title=title, unique_id=name)
    # No font from a network: whoever looks at the page has a monospaced one.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (IMAGES / f"{name}.svg").write_text(svg, encoding="utf-8")


def _panel(config: Config) -> int:
    agent = Agent(config, RunOptions(realtime=True))
    terminal = Console(file=io.StringIO(), width=SIZE[0], height=SIZE[1], force_terminal=True)
    taken = False

    def tick() -> None:
        nonlocal taken
        stats = agent.cameras[0].chain
        if not taken and stats.stats.frames >= NOT_BEFORE and stats.open_episodes >= 2:
            _draw("panel", "make run", panel.picture(SIZE), SIZE[1])
            taken = True
            agent.stop.set()

    with LivePanel(agent.status, terminal) as panel:
        agent.outbox.on_event(panel.on_event)
        code = agent.run(tick)
    if code or not taken:
        sys.stderr.write("no picture: the run failed, or never had two open violations\n")
        return code or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
