"""Many seeded runs on all cores: each is a process's own work, results come in the order of the runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
JOBS = os.cpu_count() or 1


def each(work: Callable[[int], T], count: int, jobs: int) -> Iterator[T]:
    """``work(0)`` to ``work(count - 1)``. With more than one job it must be picklable: a ``functools.partial`` of a function."""
    if jobs <= 1:
        yield from map(work, range(count))
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, range(count), chunksize=4)
