"""The model the agent runs: the one that is named, or with ``model: auto`` the one that is right for the box.

What an operator named wins; what an update activates will come before both, and ends here as one more reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import DetectConfig
from edge_agent.detect.backends.choice import with_room
from edge_agent.detect.manifest import AUTO, Model, find_detector
from edge_agent.errors import ModelError

ACCURATE, FAST = "person-s", "person-n"
"""Of the models that come with the agent: finds more people; takes half the time."""


@dataclass(frozen=True, slots=True)
class TakenModel:
    """A model, and why it is this one: "" where it was named."""

    model: Model
    why: str = ""


def take_model(reference: str, models_dir: Path, config: DetectConfig) -> TakenModel:
    """The detector that ``reference`` names: NAME, NAME@VERSION or ``auto``. Raises ModelError that lists what there is.

    For ``auto`` the box is asked for accelerators with room, as ``choose`` would ask it; where it has none that is quick.
    """
    if reference != AUTO:
        return TakenModel(find_detector(reference, models_dir))
    accurate, fast = (_bundled(name, models_dir) for name in (ACCURATE, FAST))
    accelerator, reasons = with_room(accurate, config)
    if accelerator:
        return TakenModel(accurate, f"auto: {accelerator} has room for the more accurate one")
    # The heads of the reasons: status has the whole of them, as why each was not taken to run it.
    heads = "; ".join(f"{name}: {re.split('[:(;]', why)[0].strip()}" for name, why in reasons.items())
    return TakenModel(fast, f"auto: the faster one, for want of an accelerator with room{heads and f' ({heads})'}")


def _bundled(name: str, models_dir: Path) -> Model:
    try:
        return find_detector(name, models_dir)
    except ModelError as error:
        raise ModelError(
            f"{error}: `model: auto` chooses between {ACCURATE} and {FAST} and needs both there; "
            "name another model in `model`, or correct `models_dir`"
        ) from error
