"""How a model in shadow does: it looks at a share of the frames beside the model at work, and nothing else comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

ShadowState: TypeAlias = Literal["preparing", "running", "completed", "ended"]
AT_WORK: tuple[ShadowState, ...] = ("preparing", "running")


@dataclass(frozen=True, slots=True)
class ShadowLabel:
    """Boxes of one label of which each model is sure; ``agreement`` as of the whole, None where only one model knows the label."""

    active: int
    shadow: int
    agreement: float | None


@dataclass(frozen=True, slots=True)
class ShadowStatus:
    """The last model in shadow. ``completed``: for the whole of its time; ``ended``: before that, ``reason`` says why.

    ``beside`` is the model it was compared with; ``began`` and ``ended`` POSIX seconds; ``progress`` the fraction of ``minutes``.
    Of ``frames`` both have seen, ``failed`` it could not work on, ``missed`` it had no time for. ``agreement`` (0 to 1) is the F1 of
    the boxes of both; ``score_difference`` the mean of its score less the other's, over boxes that agree; latencies are means,
    its own at low priority.
    """

    model: str
    state: ShadowState
    fraction: float
    minutes: float
    began: float
    bundle: str = ""
    beside: str = ""
    ended: float | None = None
    progress: float | None = None
    reason: str = ""
    detail: str = ""
    frames: int = 0
    failed: int = 0
    missed: int = 0
    agreement: float | None = None
    score_difference: float | None = None
    latency_ms: float | None = None
    active_latency_ms: float | None = None
    labels: Mapping[str, ShadowLabel] = field(default_factory=dict)
