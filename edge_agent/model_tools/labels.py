"""Label sets that are built in, and label files."""

from __future__ import annotations

import re
from pathlib import Path

from edge_agent.errors import ModelError, UsageError

MAX_LABEL_BYTES = 256 * 1024
MAX_LABELS = 10_000

# 80 object categories of COCO 2017 (Lin et al., "Microsoft COCO", 2014), in the order of their category ids.
COCO = tuple(
    """person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|parking meter|bench|bird
|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie|suitcase|frisbee|skis|snowboard|sports ball
|kite|baseball bat|baseball glove|skateboard|surfboard|tennis racket|bottle|wine glass|cup|fork|knife|spoon|bowl|banana|apple
|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed|dining table|toilet|tv|laptop|mouse
|remote|keyboard|cell phone|microwave|oven|toaster|sink|refrigerator|book|clock|vase|scissors|teddy bear|hair drier
|toothbrush""".replace("\n", "").split("|")
)
_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Category ids below 91 that COCO gave to nothing."""


def _coco91() -> tuple[str, ...]:
    names = iter(COCO)
    return tuple(f"unused {ident}" if ident in _UNUSED_IDS else next(names) for ident in range(1, 91))


# Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", 2010.
VOC = tuple(
    """aeroplane|bicycle|bird|boat|bottle|bus|car|cat|chair|cow|diningtable|dog|horse|motorbike|person|pottedplant|sheep|sofa
|train|tvmonitor""".replace("\n", "").split("|")
)

SETS = {"coco": COCO, "coco91": _coco91(), "voc": VOC}
"""``coco91``: by category id, 1 to 90 in order, as SSD and torchvision networks number them."""

_NUMBERED = re.compile(r"\s*(\d{1,5})\s*[:\s]\s*(.+)")


def read_labels(text: str) -> tuple[str, ...]:
    """Labels of an ``--labels`` argument: a set's name, a file, or names with commas. Raises UsageError, ModelError."""
    if text in SETS:
        return SETS[text]
    path = Path(text)
    if path.is_file():
        with path.open("rb") as file:
            content = file.read(MAX_LABEL_BYTES + 1)
        if len(content) > MAX_LABEL_BYTES:
            raise ModelError(f"{path}: larger than {MAX_LABEL_BYTES // 1024} KiB, these are no labels")
        return parse_labels(content.decode("utf-8", "replace"), str(path))
    if "," in text or (re.fullmatch(r"[\w -]{1,64}", text) and not path.suffix):
        return _checked([part.strip() for part in text.split(",")], "--labels")
    raise UsageError(
        f"--labels {text}: give {', '.join(SETS)}, a file with one name in each line, or names with commas"
    )


def parse_labels(text: str, where: str) -> tuple[str, ...]:
    """One name in each line, or ``number name`` (numbers that are left out become ``unused N``). Raises ModelError."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if lines and all(numbered):
        names = {int(found[1]): found[2].strip() for found in numbered if found}
        if max(names) < MAX_LABELS:
            lines = [names.get(i, f"unused {i}") for i in range(max(names) + 1)]
    return _checked(lines, where)


def _checked(names: list[str], where: str) -> tuple[str, ...]:
    if not names or len(names) > MAX_LABELS:
        raise ModelError(f"{where}: {len(names)} labels; 1 to {MAX_LABELS} are taken")
    for name in names:
        if not 1 <= len(name) <= 64 or not name.isprintable():
            raise ModelError(f"{where}: {name[:80]!r} is no label (1 to 64 printable characters)")
    return tuple(names)
