"""Writes docs/sop-drawn.md: the example procedures as ``sop check`` draws and explains them, and what it says of broken ones.

python -m scripts.draw_procedures
"""

from __future__ import annotations

from pathlib import Path

from edge_agent.config_file import load
from edge_agent.usecases.sop_explain import mermaid, sentences
from tests.test_sop_check import BROKEN, GOOD

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "sop-drawn.md"
HEAD = """# The example procedures, drawn; and what is said of broken ones

`edge-agent sop check FILE` draws a [procedure](sop.md) as [Mermaid](https://mermaid.js.org) text and explains it in sentences. This page is
made from what it says: `python -m scripts.draw_procedures`.
"""
BASE = """
## Broken procedures

A procedure that cannot be is refused before anything starts, by `check`, `run` and `sop check` alike, with exit code 2, line and
column. These are changes of

```yaml
{good}```

on a camera with the zones `sink` and `counter` and the line `door`; `requires_labels: [person, soap]`. Each message begins with
file, line, column and `use_cases.sop.procedures[0].`

| what is wrong | what is said |
|---|---|
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for file in sorted((DOCS / "examples").glob("sop-*.yaml")):
        section = load(file).use_cases.sop
        assert section is not None
        for procedure in section.procedures:
            told = [line if line[0].isdigit() else f"{line}\n" for line in sentences(procedure)]
            parts.append(
                f"\n## [{procedure.name}](examples/{file.name})\n\n"
                + "\n".join(told).rstrip()
                + f"\n\n```mermaid\n{mermaid(procedure)}\n```\n"
            )
    parts.append(BASE.format(good=GOOD))
    for name, (_, said) in BROKEN.items():
        parts.append(f"| {name} | {'<br>'.join(map(_short, said))} |\n")
    return "".join(parts)


def _short(said: str) -> str:
    """Without line and column, which depend on what is around."""
    text = said.split(": ", 1)[1].replace("`", "")
    return f"`{text}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
