"""What ``backend: auto`` takes on a box without accelerators: read from the product's own order, which is measured anew at times."""

from __future__ import annotations

from edge_agent.detect.backends.choice import CANDIDATES

CPU_NAMES = tuple(c.name for c in CANDIDATES if c.name == "onnxruntime" or c.name.endswith("on the CPU"))
FIRST_CPU = next(c for c in CANDIDATES if c.name in CPU_NAMES)
