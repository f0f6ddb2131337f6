"""Sets of whole numbers as joined, ascending ranges (first, last): how sequence numbers are remembered in little room."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


def joined(ranges: Iterable[Range]) -> list[Range]:
    """In order, and those that touch or overlap made one."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return result


def cover(ranges: list[Range], more: Iterable[Range]) -> None:
    """Add to a joined list, in place."""
    for first, last in more:
        if ranges and ranges[-1][0] <= first <= ranges[-1][1] + 1:  # the usual case: in order
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], last))
        elif not ranges or first > ranges[-1][1]:
            ranges.append((first, last))
        else:
            ranges[:] = joined([*ranges, (first, last)])


def missing(first: int, last: int, ranges: Iterable[Range]) -> list[Range]:
    """The parts of ``first`` to ``last`` that are in none of the (joined) ranges."""
    result: list[Range] = []
    for low, high in ranges:
        if low > last:
            break
        if low > first:
            result.append((first, low - 1))
        first = max(first, high + 1)
    if first <= last:
        result.append((first, last))
    return result
