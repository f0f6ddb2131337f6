"""What the CPU does well, as the kernel tells it: nothing is run or imported to find out."""

from __future__ import annotations

import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
"""Instructions that add up four products of bytes in 32 bits: x86's VNNI, Arm's SDOT and UDOT (FEAT_DotProd)."""
_FLAGS = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)


def multiplies_bytes(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this CPU has an instruction for dot products of bytes; False where that cannot be read.

    The kernel lists what all cores have, so the first one speaks for the others.
    """
    try:
        found = _FLAGS.search(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return False
    return found is not None and not _DOT_PRODUCTS.isdisjoint(found[1].split())
