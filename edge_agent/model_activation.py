"""What the activation of a model needs of this box: the detector that serves, the repository, the kernel's boot id."""

from __future__ import annotations

import platform
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent import crash_count
from edge_agent.config import Config
from edge_agent.errors import NotOffered
from edge_agent.health.host import clock_synchronised
from edge_agent.model_tools.workshop import this_box
from edge_agent.ota.client import Offer, RepositoryClient
from edge_agent.ota.offer import CONFIG, Box, Bundle
from edge_agent.ota.probation import Measures
from edge_agent.ota.trusted_time import TrustedTime
from edge_agent.serving_model import Candidate, ServingModel


def open_repository(config: Config) -> RepositoryClient:
    """The repository that the configuration names. Raises UsageError, ConfigError; asks this box for its backends."""
    return RepositoryClient(config.ota, config.state_dir / "ota", this_box(config), _time(config))


def open_configurations(config: Config) -> RepositoryClient:
    """The same repository, for signed parts of the configuration. Raises UsageError, ConfigError."""
    box = Box(frozenset(), frozenset({platform.machine(), *config.ota.hardware}))
    ota = config.ota.model_copy(update={"team": config.ota.config_team})
    # A folder of its own: each fetches in its own thread.
    return RepositoryClient(ota, config.state_dir / "ota" / CONFIG, box, _time(config), CONFIG)


def _time(config: Config) -> TrustedTime:
    battery = config.ota.clock == "battery"
    return TrustedTime(config.state_dir / "ota" / "time", lambda: battery or clock_synchronised() is not False)


@dataclass(frozen=True, slots=True)
class Swap:
    """Fulfils ``activation.Serving``. ``usual``: what the model at work does, as it was measured before any of this."""

    serving: ServingModel
    candidate: Candidate
    usual: Measures | None
    memory_mb: Callable[[], float | None]
    compare: float

    def warm(self, folder: Path) -> Measures | None:
        """See ``Serving``."""
        del folder
        self.serving.warm(self.candidate)
        return None if self.usual is None else self.usual.model_copy(update={"memory_mb": self.memory_mb()})

    def swap(self) -> None:
        """See ``Serving``."""
        self.serving.swap(self.compare)


@dataclass(frozen=True, slots=True)
class Again:
    """Fulfils ``activation.Repository`` for a job that is taken up again: the repository is asked anew, if at all."""

    client: Callable[[], RepositoryClient]
    bundle: Bundle

    def look(self, name: str, version: str | None = None) -> Offer:
        """See ``Repository``."""
        return self.client().look(name, version)

    def fetch(self, offer: Offer, progress: Callable[[float], None], cancel: threading.Event) -> Path:
        """See ``Repository``."""
        client = self.client()
        offer = client.look(self.bundle.name, self.bundle.version)
        if offer.bundle != self.bundle:
            raise NotOffered(f"{self.bundle.label} has another content in the repository now")
        return client.fetch(offer, progress, cancel)


def kernel_boot() -> str:
    """Changes when the box starts, not when the agent does. Where it cannot be read each start counts as one of the box."""
    return crash_count.kernel_boot() or uuid.uuid4().hex
