"""Where commands arrive, whichever way they came: taken or refused at once, done one after the other by one worker."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from pydantic import BaseModel

from edge_agent.commands import envelope
from edge_agent.commands.catalogue import COMMANDS
from edge_agent.commands.envelope import Request
from edge_agent.commands.ledger import Address, Entry, Ledger
from edge_agent.errors import CommandCode, CommandError, EdgeAgentError
from edge_agent.types import Beat

log = logging.getLogger(__name__)

MAX_WAITING = 16
WORKER_DEADLINE_S = 2 * max(command.deadline_s for command in COMMANDS.values())
"""Seconds after which the worker counts as stuck."""


class Later:
    """What a handler returns where the outcome comes later: by ``Desk.settle``, perhaps in another run of the agent."""


LATER: Final = Later()
Outcome: TypeAlias = BaseModel | dict[str, Any]
Handler: TypeAlias = Callable[[Request], Outcome | Later]
"""Does one command, in the worker's thread. May raise CommandError, or any error of ours (then: failed)."""
Reply: TypeAlias = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Asked:
    """A command as it came. ``to``: where the answer goes. ``name`` None: it is in the payload, as ``command``.

    ``expiry_s`` is what the broker said is left of its life, ``allowed`` the names of what may be asked this way.
    """

    name: str | None
    payload: bytes
    way: Literal["mqtt", "local"]
    to: Address | Reply
    allowed: Collection[str] = tuple(COMMANDS)
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """That a command with an effect came to its end, for whoever keeps account of it. ``code`` is None where it succeeded."""

    command: str
    id: str
    code: CommandCode | None = None
    message: str = ""


@dataclass(slots=True)
class _Job:
    request: Request
    asked: Asked
    until: float
    """Monotonic: when the asker does not wait any more."""
    began: float = field(default_factory=time.monotonic)
    hangs: bool = False
    """It took too long, and the asker was told so."""


class Desk:
    """``ask`` may be called from any thread and never raises; ``work`` is the worker.

    ``resume(name, id)`` says what became of a command that an earlier run left under way. ``post`` sends an answer over
    MQTT and says whether there was a connection. ``on_record`` is called once for each command with an effect.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        ledger: Ledger,
        *,
        post: Callable[[Address, bytes], bool],
        resume: Callable[[str, str], Outcome | CommandError | Later],
        on_record: Callable[[Record], None],
        clock_ok: Callable[[], bool],
    ) -> None:
        self._handlers, self._ledger, self._post = handlers, ledger, post
        self._resume, self._on_record, self._clock_ok = resume, on_record, clock_ok
        self._jobs: queue.Queue[_Job] = queue.Queue(MAX_WAITING)
        # Three, as the first is held while the disk is written to, and the main thread must not wait for that.
        self._door, self._lock, self._telling = threading.Lock(), threading.Lock(), threading.Lock()
        self._current: _Job | None = None
        self._waiting: dict[str, list[Reply]] = defaultdict(list)
        """Who waits for the outcome of an id, at the control socket."""

    # Any thread

    def ask(self, asked: Asked) -> None:
        """Take the command, or refuse it; the answer comes either way, perhaps before this returns."""
        name, ident = asked.name or "", None
        try:
            data = envelope.load(asked.payload)
            if asked.name is None:
                name = str(data.pop("command", ""))[:64]
            ident = envelope.ident_of(data)
            self._take(envelope.understand(name, data), asked)
        except CommandError as error:
            log.info("command %s refused: %s: %s", _label(name, ident, asked.way), error.code, error)
            self._send(asked.to, envelope.failed(name, ident, error))

    def _take(self, request: Request, asked: Asked) -> None:
        name = request.command.name
        if name not in asked.allowed:
            raise CommandError("not_allowed", f"the configuration of this box does not list {name} in commands.allow")
        job = _Job(request, asked, time.monotonic() + self._left_s(request, asked))
        with self._door:
            if not request.command.effect:
                self._queue(job)
                return
            address = asked.to if isinstance(asked.to, Address) else None
            known = self._ledger.again(request, address)
            if known is not None and known.answer is not None:
                log.info("command %s came again: answered as before", _label(name, request.id, asked.way))
                self._send(asked.to, known.answer)
                return
            if known is None:
                self._queue(job, lambda: self._ledger.begin(request, address))
            if not isinstance(asked.to, Address):
                assert request.id is not None
                self._waiting[request.id].append(asked.to)

    def _queue(self, job: _Job, first: Callable[[], None] = lambda: None) -> None:
        """Where there is room, and after ``first``."""
        if self._jobs.full() or (self._current is not None and self._current.hangs):
            raise CommandError("busy", "earlier commands are still being done; ask again")
        first()
        self._jobs.put_nowait(job)

    def _left_s(self, request: Request, asked: Asked) -> float:
        """For how long the asker will wait; refuses where that is over."""
        left = min(request.command.deadline_s, math.inf if asked.expiry_s is None else asked.expiry_s)
        if request.expires is None:
            return left
        if request.command.effect and not self._clock_ok():
            text = "the clock of this box is not synchronised, so `expires` cannot be judged; use MQTT 5 message expiry"
            raise CommandError("clock_unsure", text)
        if (remaining := request.expires - time.time()) <= 0:
            raise CommandError("expired", "it came after the time it names in `expires`")
        return min(left, remaining)

    def settle(self, name: str, ident: str, outcome: Outcome | CommandError, to: Address | Reply | None = None) -> None:
        """The outcome of a command with an effect is known: write it down, tell who waits, and keep account of it.

        ``to`` is who asked first, for where it cannot be written down.
        """
        if isinstance(outcome, CommandError):
            answer = envelope.failed(name, ident, outcome)
            log.warning("command %s %s failed: %s: %s", name, ident, outcome.code, outcome)
        else:
            answer = envelope.succeeded(name, ident, outcome)
            log.info("command %s %s is done", name, ident)
        try:
            self._ledger.finish(ident, answer)
        except CommandError as error:  # it stays under way there, and the next start settles it
            log.error("%s", error)
            if isinstance(to, Address):
                self._send(to, answer)
        with self._door:
            waiting = self._waiting.pop(ident, [])
        for reply in waiting:
            reply(answer)
        self.tell()
        if isinstance(outcome, CommandError):
            self._on_record(Record(name, ident, outcome.code, str(outcome)))
        else:
            self._on_record(Record(name, ident))

    def tell(self) -> None:
        """Send the answers over MQTT that could not be sent until now."""
        try:
            with self._telling:  # or two threads would send one twice
                for entry in self._ledger.untold():
                    if entry.address is None or entry.answer is None or not self._send(entry.address, entry.answer):
                        return
                    self._ledger.told(entry.id)
        except CommandError as error:
            log.error("%s", error)

    def recover(self) -> None:
        """Settle what an earlier run left under way. Once, before anything is asked."""
        try:
            left: list[Entry] = self._ledger.interrupted()
        except CommandError as error:
            log.error("%s", error)
            return
        for entry in left:
            outcome = self._resume(entry.name, entry.id)
            if not isinstance(outcome, Later):
                self.settle(entry.name, entry.id, outcome)

    def look(self) -> None:
        """Now and then: whoever waits for a command that hangs is told."""
        with self._lock:
            job = self._current
            if job is None or job.hangs or time.monotonic() <= job.began + job.request.command.deadline_s:
                return
            job.hangs = True
        name, allowed_s = job.request.command.name, job.request.command.deadline_s
        self._finish(job, CommandError("timeout", f"{name} is not done after {allowed_s:g} s; it may still be"))

    def _send(self, to: Address | Reply, answer: bytes) -> bool:
        if isinstance(to, Address):
            return self._post(to, envelope.noted(answer, to.note))
        to(answer)
        return True

    # The worker

    def work(self, beat: Beat) -> None:
        """Do one after the other; does not return."""
        while True:
            job = self._jobs.get()
            beat.begin()
            self._do(job)
            beat.end()

    def _do(self, job: _Job) -> None:
        job.began = time.monotonic()
        with self._lock:
            self._current = job
        outcome = self._outcome(job)
        with self._lock:
            self._current = None
        if not job.hangs and not isinstance(outcome, Later):
            self._finish(job, outcome)

    def _outcome(self, job: _Job) -> Outcome | CommandError | Later:
        name = job.request.command.name
        if time.monotonic() > job.until:
            return CommandError("expired", "others were before it, and its time was up")
        try:
            return self._handlers[name](job.request)
        except CommandError as error:
            return error
        except EdgeAgentError as error:
            return CommandError("failed", str(error))
        except Exception as error:  # whatever it is, the asker hears of it, and the next one is served
            log.exception("command %s failed", name)
            return CommandError("failed", f"a fault of the agent: {type(error).__name__}")

    def _finish(self, job: _Job, outcome: Outcome | CommandError) -> None:
        name, ident = job.request.command.name, job.request.id
        if job.request.command.effect:
            assert ident is not None
            self.settle(name, ident, outcome, job.asked.to)
            return
        label = _label(name, ident, job.asked.way)
        if isinstance(outcome, CommandError):
            log.info("command %s failed: %s: %s", label, outcome.code, outcome)
            answer = envelope.failed(name, ident, outcome)
        else:
            log.debug("command %s is done", label)
            answer = envelope.succeeded(name, ident, outcome)
        self._send(job.asked.to, answer)


def _label(name: str, ident: str | None, way: str) -> str:
    """For the log, whose reader must not be fooled by what a stranger sent."""
    return f"{name!a:.70} {ident or '(no id)'} ({way})"
