"""Runs checks side by side, each with a deadline of its own, all within one. A check that hangs is left behind."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from edge_agent.config import redact
from edge_agent.doctor.box import Box
from edge_agent.doctor.finding import Check, Finding, Outcome, fail, warn
from edge_agent.sentences import printable

TOTAL_S = 16.0
"""Seconds that all checks have together."""
_WIDTH = 12
_MAX_TEXT = 600
_log = logging.getLogger(__name__)


def run_checks(
    checks: Sequence[Check], box: Box, *, total_s: float = TOTAL_S, on_done: Callable[[Finding], None] = lambda _: None
) -> list[Finding]:
    """One finding for each check, in their order. ``on_done`` is called in this thread as they come."""
    end = time.monotonic() + total_s
    waiting = deque(_order(checks))
    running: dict[int, float] = {}  # number of the check: its deadline
    found: dict[int, Finding] = {}
    answers: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()

    def settle(number: int, outcome: Outcome) -> None:
        running.pop(number, None)
        if number not in found:  # else it was given up, and woke again
            found[number] = _finding(checks[number], outcome)
            on_done(found[number])

    while len(found) < len(checks):
        now = time.monotonic()
        if now >= end:
            break
        while waiting and len(running) < _WIDTH:
            number = waiting.popleft()
            running[number] = now + checks[number].timeout_s
            threading.Thread(
                target=_answer, args=(number, checks[number], box, answers), name=f"check-{number}", daemon=True
            ).start()
        try:
            settle(*answers.get(timeout=max(0.0, min(end, *running.values()) - now)))
        except queue.Empty:
            for number in [n for n, deadline in running.items() if deadline <= time.monotonic()]:
                settle(number, _no_answer(checks[number].timeout_s))
    for number in [*running, *waiting]:
        what = "not finished" if number in running else "not looked at"
        settle(number, warn(f"{what}: the {total_s:g} s were up", f"look again with --only {checks[number].area}"))
    return [found[number] for number in range(len(checks))]


def _order(checks: Sequence[Check]) -> list[int]:
    """The areas take turns, so that many cameras hold up nothing else; in each, what may take longest begins."""
    longest = sorted(range(len(checks)), key=lambda number: -checks[number].timeout_s)
    turns: dict[str, itertools.count[int]] = defaultdict(itertools.count)
    turn = {number: next(turns[checks[number].area]) for number in longest}
    return sorted(longest, key=turn.__getitem__)


def _answer(number: int, check: Check, box: Box, answers: queue.SimpleQueue[tuple[int, Outcome]]) -> None:
    try:
        outcome = check.run(box)
    except Exception as error:  # noqa: BLE001 - a check must never take the others with it
        _log.debug("check %s", check.name, exc_info=True)
        outcome = fail(f"the check itself failed: {type(error).__name__}: {error}", "please report this")
    answers.put((number, outcome))


def _no_answer(seconds: float) -> Outcome:
    return fail(f"no answer within {seconds:g} s", "something below it hangs: a driver, a device or the network")


def _finding(check: Check, outcome: Outcome) -> Finding:
    found, fix = (printable(redact(text), _MAX_TEXT) for text in (outcome.found, outcome.fix))
    return Finding(check.area, check.name, outcome.state, found, fix)
