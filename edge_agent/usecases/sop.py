"""Standard operating procedures: each is followed for each person or station, and what becomes of its steps is told.

Events: ``run`` started when the first step (or the start trigger) is sure, and ended with what it came to; between
them one event for each outcome of a step (``sop_run.What``), whose subject is the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edge_agent.config import CameraConfig
from edge_agent.config_sop import Condition, Procedure, SopConfig
from edge_agent.types import Event, NewId, Observation, Output
from edge_agent.usecases.conditions import Answer, Test
from edge_agent.usecases.evidence import GRACE_S, TRUE, UNKNOWN, Truth
from edge_agent.usecases.scene import Place, Places, Scene
from edge_agent.usecases.sop_events import Teller
from edge_agent.usecases.sop_follow import Follow, Reason
from edge_agent.usecases.sop_plan import make_plan

_STATION = 0
"""Stands where a thing's id stands, in a procedure of the station."""


class Sop:
    """The use case for one camera (see ``pipeline.UseCase``). ``new_id`` makes ids of events and runs;
    ``places`` are shared with other use cases of the camera.

    A camera that is silent for a while ends no run: what happened meanwhile is unknown, and the run goes on.
    """

    name = "sop"

    def __init__(self, config: SopConfig, camera: CameraConfig, new_id: NewId, places: Places | None = None) -> None:
        self._places: dict[str, Place] = {}
        places = places or Places(camera)
        self._stations: list[_Station] = []
        for procedure in config.procedures:
            if procedure.cameras is not None and camera.id not in procedure.cameras:
                continue
            place = self._places.setdefault(procedure.label, places.of(procedure.label))
            for name, names in (procedure.stations or {procedure.name: {}}).items():
                teller = Teller(camera.id, self.name, procedure, name, new_id)
                self._stations.append(_Station(procedure, names, place, teller))
        self._last: Observation | None = None

    @property
    def open_episodes(self) -> int:
        """Runs whose start was told and whose end was not."""
        return sum(station.open for station in self._stations)

    def update(self, seen: Observation) -> list[Output]:
        """See ``pipeline.UseCase``."""
        self._last = seen
        scenes = {label: place.look(seen) for label, place in self._places.items()}
        return [event for station in self._stations for event in station.update(scenes[station.label])]

    def close(self, reason: str) -> list[Output]:
        """See ``pipeline.UseCase``."""
        last = self._last
        if last is None or reason not in ("end_of_file", "shutdown"):
            return []
        why: Reason = "shutdown" if reason == "shutdown" else "end_of_file"
        return [event for station in self._stations for event in station.close(why, last.t, last.utc - last.t)]


class _Station:
    """One procedure at one place: asks its conditions, follows whom it concerns, and makes the events."""

    def __init__(self, procedure: Procedure, names: Mapping[str, str], place: Place, teller: Teller) -> None:
        self.label = procedure.label
        self._is, self._plan, self._teller = procedure, make_plan(procedure), teller
        self._somebody = procedure.scope == "station"

        def test(condition: Condition) -> Test:
            return Test(condition, place, names, somebody=self._somebody)

        self._steps = [test(step.when) for step in procedure.steps]
        self._start = test(procedure.start) if procedure.start is not None else None
        self._end = test(procedure.end) if procedure.end is not None else None
        self._follows: dict[int, Follow] = {}
        self._left: dict[int, bool] = {}
        """Of everybody in the last frame: walked out of the picture."""

    @property
    def open(self) -> int:
        """Runs that were told and are not over."""
        return sum(follow.told for follow in self._follows.values())

    def update(self, scene: Scene) -> Iterator[Event]:
        """The events of one frame."""
        steps = [test.ask(scene, held=False) for test in self._steps]
        start = self._start.ask(scene, held=False) if self._start is not None else None
        end = self._end.ask(scene, held=False) if self._end is not None else None
        self._rename(scene)
        if concerned := self._concerned(scene, steps if start is None else [start]):
            yield from self._follow(concerned, scene, steps, start, end)
        if not self._somebody and self._follows:
            yield from self._say_goodbye(scene, scene.utc - scene.t)

    def _follow(
        self,
        concerned: list[tuple[int, int]],
        scene: Scene,
        steps: list[Answer],
        start: Answer | None,
        end: Answer | None,
    ) -> Iterator[Event]:
        """What this frame brings for each key and row of ``concerned``."""
        rows = 1 if self._somebody else len(scene.things.ids)
        of_steps = list(zip(*(_listed(step, rows) for step in steps), strict=True))
        starts, ends = (None if answer is None else _listed(answer, rows) for answer in (start, end))
        hidden = [False] * rows if self._somebody else (scene.things.unseen_s > GRACE_S).tolist()
        for key, row in concerned:
            follow = self._follows.get(key)
            if follow is None:
                follow = self._follows[key] = Follow(self._is, self._plan)
            facts = follow.update(
                of_steps[row],
                None if starts is None else starts[row],
                None if ends is None else ends[row],
                scene.t,
                hidden=hidden[row],
            )
            if facts:
                track = None if self._somebody else int(scene.things.tracks[row])
                yield from self._teller.tell(facts, key, track, scene.utc - scene.t)
            if follow.idle:
                del self._follows[key]

    def close(self, reason: Reason, t: float, offset: float) -> Iterator[Event]:
        """End every run."""
        for key, follow in self._follows.items():
            yield from self._teller.tell(follow.stop(reason, t), key, None, offset)
        self._follows.clear()

    def _rename(self, scene: Scene) -> None:
        """Newcomers who are somebody known bring what they did meanwhile."""
        for newcomer, known in scene.things.renamed:
            follow = self._follows.get(newcomer)
            if follow is None:
                continue
            if known not in self._follows:
                self._follows[known] = self._follows.pop(newcomer)
                self._teller.rename(newcomer, known)
            elif not follow.told:
                self._follows[known].join(self._follows.pop(newcomer))

    def _concerned(self, scene: Scene, triggers: list[Answer]) -> list[tuple[int, int]]:
        """Whom to look at: key and row of everybody who is followed or does something now."""
        if self._somebody:
            return [(_STATION, 0)]
        stirring = np.zeros(len(scene.persons), bool)
        dark = scene.things.unseen_s > GRACE_S
        for answer in triggers:
            stirring |= np.where(dark, answer == UNKNOWN, answer == TRUE)
        ids = scene.things.ids.tolist()
        rows = np.flatnonzero(stirring & scene.persons).tolist()
        concerned = {ids[row]: row for row in rows}
        if self._follows:
            concerned |= {ident: row for row, ident in enumerate(ids) if ident in self._follows}
        return list(concerned.items())

    def _say_goodbye(self, scene: Scene, offset: float) -> Iterator[Event]:
        there = dict(zip(scene.things.ids.tolist(), scene.things.left.tolist(), strict=True))
        for key in [key for key in self._follows if key not in there]:
            facts = self._follows.pop(key).gone(self._left.get(key, False), scene.t)
            yield from self._teller.tell(facts, key, None, offset)
        self._left = there


def _listed(answer: Answer, rows: int) -> list[Truth]:
    """What it says of each thing; one answer for all is said of each."""
    return answer.tolist() if isinstance(answer, np.ndarray) else [int(answer)] * rows
