"""What the CPU does well, as the kernel tells it: nothing is run or imported to find out."""

from __future__ import annotations

import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})
"""Instructions that add up four products of bytes in 32 bits: x86's VNNI, Arm's SDOT and UDOT (FEAT_DotProd)."""
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""x86's VDPBF16PS and TDPBF16PS, Arm's BFDOT (FEAT_BF16)."""
_FLAGS = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)


def multiplies_bytes(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this CPU has an instruction for dot products of bytes; False where that cannot be read."""
    return not _DOT_PRODUCTS.isdisjoint(_flags(cpuinfo))


def multiplies_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether this CPU has an instruction for dot products of bfloat16; False where that cannot be read."""
    return not _BFLOAT16.isdisjoint(_flags(cpuinfo))


def _flags(cpuinfo: Path) -> list[str]:
    """The kernel lists what all cores have, so the first one speaks for the others."""
    try:
        found = _FLAGS.search(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []
    return found[1].split() if found is not None else []
