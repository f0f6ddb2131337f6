"""Alternates the whole pipeline with the bare model, on the same loaded network, in one process.

A machine's speed drifts by more than what is measured here, so the ratio is taken in each round, against the bare model
right before and right after it. While the model runs alone the pipeline stands still, cameras and all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.app import Agent
from edge_agent.bench.arrange import arranged
from edge_agent.bench.bare import BareModel
from edge_agent.bench.machine import peak_rss_mb
from edge_agent.bench.recorder import Recorder
from edge_agent.bench.result import BenchResult
from edge_agent.bench.summary import Totals, summarise
from edge_agent.capture.source import is_live
from edge_agent.config import Config
from edge_agent.detect.preprocess import Preprocessor
from edge_agent.errors import EdgeAgentError, HardwareError, InferenceError, SourceLost
from edge_agent.health.hardware import hottest
from edge_agent.health.host import HostProbe
from edge_agent.run_options import RunOptions

log = logging.getLogger(__name__)

ROUNDS = 5
"""At least. A longer measurement has more, not longer ones: drift is what they are for."""
_ROUND_S = 3.0
_ROUND_FRAMES = 100
PIPELINE_SHARE = 0.7
"""Of the time; the rest is the bare model's."""
_POLL_S = 0.02
_FIRST_FRAME_S = 30.0
_SILENT_S = 30.0

Progress = Callable[[float, str], None]
"""Told the share that is done, 0 to 1, and what is going on; from a thread of the measurement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long: ``seconds`` in all, or ``frames`` through the pipeline where they are given."""

    seconds: float = 15.0
    frames: int | None = None
    realtime: bool = False
    """Read a file at its own pace, as if it came from a camera."""

    @property
    def rounds(self) -> int:
        """How many times to alternate."""
        if self.frames is None:
            return max(ROUNDS, int(self.seconds / _ROUND_S))
        return max(min(ROUNDS, self.frames), self.frames // _ROUND_FRAMES)


class _Stopped(Exception):
    """The agent ends before the measurement."""


def measure(config: Config, plan: Plan, streams: int = 1, progress: Progress = lambda share, what: None) -> BenchResult:
    """Measure the first camera of ``config``, ``streams`` times over. Call from the main thread: signals end it in order.

    Raises what a start of the agent raises, SourceLost where no frame comes, KeyboardInterrupt after a signal.
    """
    with arranged(config, streams) as own:
        recorder = Recorder()
        options = RunOptions(realtime=plan.realtime, mqtt=False, loop=not is_live(config.cameras[0].source))
        agent = Agent(own, options, recorder)
        agent.outbox.on_event(recorder.stored)
        run = Measurement(agent, recorder, plan, progress)
        code = agent.run(run.begin, interval_s=0.1)
        if run.thread.ident is not None:
            run.thread.join(10.0)
        if run.error is not None:
            raise run.error
        if run.totals is None and agent.supervisor.signal is not None:
            raise KeyboardInterrupt
        if run.totals is None:
            raise agent.supervisor.failure or EdgeAgentError(f"the agent ended with {code} before the measurement did")
        paced = plan.realtime or is_live(config.cameras[0].source)
        return summarise(config, agent, recorder, run.totals, paced=paced)


class Measurement:
    """The measurement of one running agent, in a thread beside it; ends the agent when it is done."""

    def __init__(self, agent: Agent, recorder: Recorder, plan: Plan, progress: Progress) -> None:
        self._agent, self._recorder, self._plan, self._progress = agent, recorder, plan, progress
        self._rounds = plan.rounds
        self._detector = agent.detector.current
        self.thread = threading.Thread(target=self._enter, name="bench", daemon=True)
        self.totals: Totals | None = None
        self.error: EdgeAgentError | None = None

    def begin(self) -> None:
        """To be called once the agent runs; further calls do nothing."""
        if self.thread.ident is None:
            self.thread.start()

    def wait_for_engine(self) -> None:
        """What serves while an engine is built is not what was asked for. Raises HardwareError where a named backend fails."""
        self._progress(0.0, "starting")
        while (state := self._engine()) == "running":
            self._progress(0.0, self._agent.status().model.error)
            self._wait()
        if state == "failed" and self._agent.config.detect.backend != "auto":
            raise HardwareError(self._agent.status().model.error)

    def _enter(self) -> None:
        try:
            self.totals = self._alternate()
        except EdgeAgentError as error:
            self.error = error
        except _Stopped:
            pass
        except Exception as error:  # the entry point of a thread
            log.exception("unexpected fault")
            self.error = EdgeAgentError(f"{type(error).__name__}: {error}")
        finally:
            self._agent.stop.set()

    def _alternate(self) -> Totals:
        self.wait_for_engine()
        self._progress(0.0, "warming up")
        self._warm_up()
        self._detector = self._agent.detector.current
        host = HostProbe(self._agent.config.state_dir, min_interval_s=0.0)
        threads = max(1, min(self._agent.workers, self._detector.backend.concurrency))
        totals = Totals(self._detector, threads, hottest()[0])
        before = peak_rss_mb()
        bare = BareModel(self._detector.backend, self._tensor(), threads, self._agent.stop)
        totals.bare_rss_mb = peak_rss_mb() - before
        try:
            self._alone(bare, totals, 0)
            for number in range(1, self._rounds + 1):
                self._together(totals, number)
                self._alone(bare, totals, number)
        finally:
            bare.close()
        totals.temperature_after, totals.host = hottest()[0], host.sample()
        return totals

    def _engine(self) -> str:
        """How the worker that builds it is; "" where there is none."""
        return next((str(worker.state) for worker in self._agent.supervisor.states() if worker.name == "engine"), "")

    def _warm_up(self) -> None:
        """Until every camera delivers, all workers have their buffers, and the first frames' cost is over."""
        until = time.monotonic() + _FIRST_FRAME_S
        for unit in self._agent.cameras:
            while not unit.chain.stats.frames:
                self._wait()
                if time.monotonic() > until:
                    reason = unit.chain.stats.last_error or unit.capture.stats.last_error or unit.capture.stats.state
                    raise SourceLost(f"camera {unit.config.id}: no frame in {_FIRST_FRAME_S:.0f} s: {reason}")
        self._settle()

    def _settle(self) -> None:
        """Let what waited go through, in a camera's queue or its capture thread's hand, until all workers are busy with others."""
        self._frames(self._agent.workers + 3 * len(self._agent.cameras))

    def _frames(self, count: int, seconds: float = 0.0) -> None:
        """Wait for ``count`` more frames and until ``seconds`` are over."""
        done = self._recorder.done_at
        goal, until, last = len(done) + count, time.monotonic() + seconds, time.monotonic()
        seen = len(done)
        while seen < goal or time.monotonic() < until:
            self._wait()
            if len(done) > seen:
                seen, last = len(done), time.monotonic()
            elif time.monotonic() - last > _SILENT_S:
                raise InferenceError(f"no frame came through for {_SILENT_S:.0f} s")

    def _wait(self) -> None:
        if self._agent.stop.wait(_POLL_S):
            raise _Stopped

    def _tensor(self) -> NDArray[np.generic]:
        """A real picture: a network that suppresses boxes itself has more to do on it than on noise."""
        assert self._recorder.last is not None
        tensor, _ = Preprocessor(self._detector.network.input, self._detector.backend.input)(self._recorder.last.image)
        return tensor

    def _alone(self, bare: BareModel, totals: Totals, number: int) -> None:
        if self._agent.detector.current is not self._detector:
            raise EdgeAgentError("another device took over meanwhile; measure again")
        if self._plan.frames is None:
            seconds = self._plan.seconds * (1 - PIPELINE_SHARE) / (self._rounds + 1)
        else:
            seconds = max(0.1, 0.4 * totals.wall_s / number) if number else 0.3
        before = peak_rss_mb()
        with self._agent.pool.pause():
            totals.bare.append(bare.fps(seconds))
        totals.bare_rss_mb += peak_rss_mb() - before
        self._progress(number / self._rounds, f"{totals.bare[-1]:.1f} fps alone")
        if self._agent.stop.is_set():
            raise _Stopped

    def _together(self, totals: Totals, number: int) -> None:
        agent, recorder = self._agent, self._recorder
        recorder.forget()
        self._settle()
        first = len(recorder.done_at) - 1
        dropped = sum(unit.capture.dropped for unit in agent.cameras)
        cpu, wall = time.process_time(), time.monotonic()
        recorder.listening = True
        if self._plan.frames is None:
            least = max(4, 2 * agent.workers)
            self._frames(least, self._plan.seconds * PIPELINE_SHARE / self._rounds)
        else:
            self._frames(-(-self._plan.frames // self._rounds))
        recorder.listening = False
        last = len(recorder.done_at) - 1
        totals.cpu_s += time.process_time() - cpu
        totals.wall_s += time.monotonic() - wall
        totals.frames += last - first
        totals.dropped += sum(unit.capture.dropped for unit in agent.cameras) - dropped
        totals.pipeline.append((last - first) / (recorder.done_at[last] - recorder.done_at[first]))
        totals.peak_rss_mb = peak_rss_mb() - totals.bare_rss_mb
        self._progress((number - 0.3) / self._rounds, f"{totals.pipeline[-1]:.1f} fps together")
