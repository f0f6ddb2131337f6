"""One model's way to being active, as a state machine without side effects: what is stored, and what each event makes of it.

::

    downloading -> verified -> compiling -> self_testing -> warming -> probation -> confirmed
         |            |            |             |             |           |
         +------------+------------+-------------+-------------+-----------+--> rolled_back(reason)

Slots and job are one value and one file, so that they cannot contradict each other. Until ``probation`` the slots do not change.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from edge_agent.errors import Busy, NoRoom, Rejected, UsageError
from edge_agent.ota.offer import Bundle
from edge_agent.ota.probation import Measures, Probation

State: TypeAlias = Literal[
    "downloading", "verified", "compiling", "self_testing", "warming", "probation", "confirmed", "rolled_back"
]
BEFORE: tuple[State, ...] = ("downloading", "verified", "compiling", "self_testing", "warming")
"""The states in which the old model serves, in order."""
Slot: TypeAlias = Literal["candidate", "previous", "active"]
SLOTS: tuple[Slot, ...] = ("candidate", "previous", "active")
"""In this order to be looked at: what is not whole must not take another's place."""
TERMINAL: tuple[State, ...] = ("confirmed", "rolled_back")
ATTEMPTS = 3
"""Times that a step may be begun: one that takes the process or the box down each time must end too."""
CRASHES = 3
"""Crashes of the agent in probation, after which the model is held to be their reason."""
DEADLINE_S = 6 * 3600.0
"""From the first step to probation; time without power does not count."""
REJECTED = 16
DAMAGED = "damaged"
BLAMELESS = frozenset({DAMAGED, NoRoom.code})
"""Reasons for which the disk is at fault and not the bundle: it may be tried again."""
Text = Annotated[str, StringConstraints(max_length=500)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Job(_Strict):
    """The last activation. ``boot`` is the kernel's boot id while the agent runs in probation, "" when it ended in order."""

    bundle: Bundle
    state: State = "downloading"
    attempts: int = 0
    """Times that the present state was begun."""
    elapsed_s: float = 0.0
    reason: Annotated[str, StringConstraints(max_length=40)] = ""
    """One word, where it was rolled back, and where it was confirmed without having been observed."""
    detail: Text = ""
    displaced: Bundle | None = None
    """What was ``previous`` before the switch, and is again where this one is rolled back."""
    crashes: int = 0
    boot: Annotated[str, StringConstraints(max_length=64)] = ""
    activate: bool = False
    """It is to take over by itself once it is ready."""
    in_window: bool = False
    """… and once the box's maintenance window is open: it was not told to, it looked for it by itself."""
    probation: Probation | None = None
    told: State | Literal[""] = ""
    """The state that was announced last: who announces is not cut off by a crash in between."""


class Rejection(_Strict):
    """A bundle that was rolled back here, and why."""

    sha256: str
    reason: str


class Stored(_Strict):
    """Everything that is remembered. ``active`` None: the model that the configuration names; so is ``previous``."""

    format: Literal[1] = 1
    active: Bundle | None = None
    previous: Bundle | None = None
    candidate: Bundle | None = None
    job: Job | None = None
    rejected: Annotated[tuple[Rejection, ...], Field(max_length=REJECTED)] = ()

    @property
    def working(self) -> Job | None:
        """The job that has not come to an end."""
        return self.job if self.job is not None and self.job.state not in TERMINAL else None

    @property
    def kept(self) -> frozenset[str]:
        """Digests of what must stay on the disk."""
        return frozenset(bundle.sha256 for bundle in self.needed)

    @property
    def needed(self) -> tuple[Bundle, ...]:
        """What must stay on the disk."""
        displaced = self.working.displaced if self.working is not None else None
        slots = (self.active, self.previous, self.candidate, displaced)
        return tuple(bundle for bundle in slots if bundle is not None)


def begin(
    stored: Stored, bundle: Bundle, *, again: bool = False, activate: bool = False, in_window: bool = False
) -> Stored:
    """Start, in place of one that is still being fetched. Raises Busy; Rejected where this bundle was rolled back before
    and is not wanted ``again``. With ``activate`` it is to take over by itself, with ``in_window`` in the maintenance window only.
    """
    if (job := stored.working) is not None and job.bundle == bundle:
        return _with(stored, activate=job.activate or activate, in_window=job.in_window and in_window)
    if job is not None and job.state != "downloading":
        raise Busy(f"{job.bundle.label} is under way ({job.state}); wait for its end, or roll it back")
    if bundle == stored.active:
        raise UsageError(f"{bundle.label} is active already")
    for rejection in stored.rejected if not again else ():
        if rejection.sha256 == bundle.sha256:
            raise Rejected(f"{bundle.label} was rolled back here before: {rejection.reason}; a new version is needed")
    rejected = tuple(r for r in stored.rejected if r.sha256 != bundle.sha256)
    fresh = Job(bundle=bundle, activate=activate, in_window=in_window)
    return stored.model_copy(update={"candidate": None, "job": fresh, "rejected": rejected})


def attempt(stored: Stored) -> Stored:
    """The present step is being begun, once more after a crash. Too often: rolled back. Fetching does no harm, and may."""
    job = _working(stored)
    if job.attempts >= ATTEMPTS and job.state != "downloading":
        return roll_back(stored, "interrupted", f"{job.state} was begun {job.attempts} times and never came to an end")
    return _with(stored, attempts=job.attempts + 1)


def unattempt(stored: Stored) -> Stored:
    """It was stopped by us, which is no failure of its."""
    return _with(stored, attempts=max(0, _working(stored).attempts - 1))


def spend(stored: Stored, seconds: float) -> Stored:
    """Time went by. Past the deadline: rolled back."""
    job = _working(stored)
    stored = _with(stored, elapsed_s=job.elapsed_s + seconds)
    if job.state in BEFORE and job.elapsed_s + seconds > DEADLINE_S:
        return roll_back(stored, "deadline", f"still {job.state} after {DEADLINE_S / 3600:g} hours")
    return stored


def advance(stored: Stored) -> Stored:
    """The present step is done. From ``downloading`` on the bundle is the candidate. Not out of ``warming``: see ``switch``."""
    job = _working(stored)
    following = BEFORE[BEFORE.index(job.state) + 1]
    return _with(stored.model_copy(update={"candidate": job.bundle}), state=following, attempts=0)


def switch(stored: Stored, boot: str, before: Measures | None = None) -> Stored:
    """The candidate takes over; ``boot`` is this boot's id, "" where no agent runs it now. ``before``: the model it replaces."""
    job = _working(stored)
    if job.state != "warming":
        raise UsageError(f"{job.bundle.label} is not ready: {job.state}")
    slots = {"previous": stored.active, "active": stored.candidate, "candidate": None}
    switched = stored.model_copy(update=slots)
    probation = Probation(before=before)
    return _with(switched, state="probation", attempts=0, boot=boot, probation=probation, displaced=stored.previous)


def watched(stored: Stored, probation: Probation) -> Stored:
    """So much was seen of it."""
    return stored if stored.working is None else _with(stored, probation=probation)


def told(stored: Stored) -> Stored:
    """The state of the job was announced."""
    return stored if stored.job is None else _with(stored, told=stored.job.state)


def starting(stored: Stored, boot: str) -> Stored:
    """The agent starts, on the kernel's boot ``boot``, and loads no model before this: did it crash in probation, and too often?

    It crashed where it did not end in order and the kernel is still the same; another one means that the power was cut.
    """
    job = stored.working
    if job is None or job.state != "probation":
        return stored
    crashes = job.crashes + (job.boot == boot)
    if crashes >= CRASHES:
        return roll_back(_with(stored, crashes=crashes), "crash_loop", f"the agent crashed {crashes} times with it")
    return _with(stored, crashes=crashes, boot=boot)


def ended(stored: Stored) -> Stored:
    """The agent ends in order."""
    job = stored.working
    return stored if job is None or job.state != "probation" else _with(stored, boot="")


def confirm(stored: Stored, reason: str = "", detail: str = "") -> Stored:
    """It has proved itself, or its time was over and nothing spoke against it (``unobserved``)."""
    job = _working(stored)
    if job.state != "probation":
        raise UsageError(f"{job.bundle.label} is not in probation: {job.state}")
    return _with(stored, state="confirmed", reason=reason, detail=detail[:500])


def roll_back(stored: Stored, reason: str, detail: str) -> Stored:
    """The old model serves, or goes on serving; this bundle is not tried again by itself, unless it is not at fault."""
    job = _working(stored)
    if job.state == "probation":
        stored = stored.model_copy(update={"active": stored.previous, "previous": job.displaced})
    if job.state != "downloading" and reason not in BLAMELESS:
        stored = _reject(stored, job.bundle, f"{reason}: {detail}")
    stored = stored.model_copy(update={"candidate": None})
    return _with(stored, state="rolled_back", reason=reason, detail=detail[:500])


def go_back(stored: Stored) -> Stored:
    """An operator wants the model before the active one back, or the one that is under way away. Raises UsageError."""
    if stored.working is not None:
        return roll_back(stored, "operator", "rolled back by command")
    if (active := stored.active) is None:
        raise UsageError("the model that the configuration names is active: there is none before it")
    job = Job(bundle=active, state="rolled_back", reason="operator", detail="rolled back by command")
    stored = stored.model_copy(update={"active": stored.previous, "previous": None, "job": job})
    return _reject(stored, active, "operator: rolled back by command")


def lost(stored: Stored, slot: Slot) -> Stored:
    """The bundle in ``slot`` is not on the disk any more, or is damaged: what is next to it takes its place."""
    job, damaged = stored.working, (DAMAGED, f"the bundle in slot {slot} is gone or damaged")
    if slot == "candidate" and job is not None:
        return _with(stored.model_copy(update={"candidate": None}), state="downloading", attempts=0)
    if slot != "active":
        return stored.model_copy(update={slot: None})
    if job is not None and job.state == "probation":
        return roll_back(stored, *damaged)
    assert stored.active is not None
    ended = job or Job(bundle=stored.active, state="rolled_back", reason=damaged[0], detail=damaged[1])
    return stored.model_copy(update={"active": stored.previous, "previous": None, "job": ended})


def _reject(stored: Stored, bundle: Bundle, reason: str) -> Stored:
    others = tuple(r for r in stored.rejected if r.sha256 != bundle.sha256)
    return stored.model_copy(
        update={"rejected": (*others, Rejection(sha256=bundle.sha256, reason=reason[:500]))[-REJECTED:]}
    )


def _working(stored: Stored) -> Job:
    if (job := stored.working) is None:
        raise UsageError("no model is under way")
    return job


def _with(stored: Stored, **changes: object) -> Stored:
    assert stored.job is not None
    return stored.model_copy(update={"job": stored.job.model_copy(update=changes)})
