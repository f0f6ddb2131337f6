"""Draws how the judgement of procedures goes down with missed boxes, as SVG.

    python -m benchmarks.sop_score --curve --runs 120 --json >curve.json
    python -m benchmarks.sop_curve curve.json docs/img/sop-curve.svg

Hand-made, as the plots of training are drawn by a library that only training installs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.sop_score import GOALS

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 60, 500, 30, 270
MOST, LEAST = 1.0, 0.8
LINES = {"pos": ("POS", "#0b6e99"), "f1": ("F1 of outcomes", "#b3541e")}


def x_of(dropout: float) -> float:
    """Pixels of a share of missed boxes."""
    return LEFT + (RIGHT - LEFT) * dropout / 0.3


def y_of(value: float) -> float:
    """Pixels of a figure."""
    return BOTTOM - (BOTTOM - TOP) * (max(value, LEAST) - LEAST) / (MOST - LEAST)


def text(x: float, y: float, said: str, anchor: str = "middle", colour: str = "#333") -> str:
    """One label."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{said}</text>'


def line(points: Sequence[tuple[float, float]], colour: str, more: str = "") -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" {more}/>'


def draw(curve: Mapping[str, Mapping[str, float]]) -> str:
    """The picture; ``curve`` is what ``sop_score --curve --json`` prints."""
    at = {float(dropout): figures for dropout, figures in curve.items()}
    goal, runs = GOALS["f1"], min(int(figures["runs"]) for figures in at.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text((LEFT + RIGHT) / 2, 18, f"scripted scenes, {runs} runs at each point"),
        text((LEFT + RIGHT) / 2, HEIGHT - 10, "share of boxes that the detector misses"),
    ]
    for value in (0.8, 0.85, 0.9, 0.95, 1.0):
        parts.append(line([(LEFT, y_of(value)), (RIGHT, y_of(value))], "#ddd"))
        parts.append(text(LEFT - 8, y_of(value) + 4, f"{value:.2f}", "end"))
    parts += [text(x_of(dropout), BOTTOM + 18, f"{dropout:.0%}") for dropout in sorted(at)]
    parts.append(line([(LEFT, y_of(goal)), (RIGHT, y_of(goal))], "#777", 'stroke-dasharray="5 4"'))
    parts.append(text(RIGHT + 8, y_of(goal) + 4, "goal", "start", "#777"))
    for k, (name, (title, colour)) in enumerate(LINES.items()):
        points = [(x_of(dropout), y_of(figures[name])) for dropout, figures in sorted(at.items())]
        parts.append(line(points, colour))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
        parts.append(text(LEFT + 14, BOTTOM - 14 - 20 * k, title, "start", colour))
    return "\n".join([*parts, "</svg>", ""])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    given, picture = map(Path, sys.argv[1:] if argv is None else argv)
    picture.write_text(draw(json.loads(given.read_text(encoding="utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
