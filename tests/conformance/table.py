"""Prints what ``test_backends.py`` finds as a table of checks and backends: ``python -m tests.conformance.table``."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conformance.backend_rows import ROWS

FILE = Path(__file__).parent / "test_backends.py"


class Table:
    """A pytest plugin that counts outcomes by check and row."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for each phase of each test."""
        if report.when != "call" and report.passed:
            return
        check, _, parameters = report.nodeid.rpartition("::")[2].partition("[")
        rows = [row.name for row in ROWS if row.name in parameters.rstrip("]").split("-")]
        self.counts[check.removeprefix("test_").replace("_", " ")][rows[0]][report.outcome] += 1

    def text(self) -> str:
        """Markdown."""
        names = [row.name for row in ROWS]
        lines = [f"| check | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for check, rows in self.counts.items():
            lines.append(f"| {check} | {' | '.join(_cell(rows[name]) for name in names)} |")
        return "\n".join(lines)


def _cell(outcomes: dict[str, int]) -> str:
    if outcomes.get("failed"):
        return f"**{outcomes['failed']} failed**"
    passed, skipped = outcomes.get("passed", 0), outcomes.get("skipped", 0)
    return f"ok ({passed})" if passed > 1 else "ok" if passed else "no hardware" if skipped else ""


def main() -> int:
    """Run the suite and print."""
    table = Table()
    code = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", str(FILE)], plugins=[table])
    sys.stdout.write(f"\n{table.text()}\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
