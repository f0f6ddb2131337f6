"""The agent that is measured: the configured one, in nobody's way."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_agent.capture.source import is_live
from edge_agent.config import Config
from edge_agent.config_sinks import InfluxDbConfig, WebhookConfig
from edge_agent.errors import UsageError


@contextlib.contextmanager
def arranged(config: Config, streams: int) -> Iterator[Config]:
    """The first camera of ``config`` ``streams`` times, with a state folder of its own and any free port on loopback; sends nothing.

    What backends have built is used and added to. Raises UsageError where the source cannot be opened so often.
    """
    first = config.cameras[0]
    if streams > 1 and is_live(first.source) and "://" not in first.source:
        raise UsageError(f"{first.source} is one device: it cannot be opened {streams} times")
    http = config.http.model_copy(update={"host": "127.0.0.1", "port": 0})
    cameras = [first.model_copy(update={"id": f"{first.id[:59]}-{n + 1}"}) for n in range(streams)]
    sinks = {"influxdb": InfluxDbConfig(), "webhook": WebhookConfig()}
    own = config.model_copy(update={"cameras": cameras if streams > 1 else [first], "http": http, **sinks})
    # On the same disk: on a memory file system a commit would cost nothing.
    usable = config.state_dir.is_dir() and os.access(config.state_dir, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=config.state_dir if usable else None) as folder:
        cache = config.state_dir / "cache"
        if usable:
            cache.mkdir(exist_ok=True)
        if cache.is_dir():
            (Path(folder) / "cache").symlink_to(cache)
        yield _use_cases_for(own, first.id).model_copy(update={"state_dir": Path(folder)})


def _use_cases_for(config: Config, was: str) -> Config:
    """A use case that runs on the camera ``was`` runs on those that stand for it."""
    distancing = config.use_cases.social_distancing
    if distancing is None or distancing.cameras is None or was not in distancing.cameras:
        return config
    own = distancing.model_copy(update={"cameras": [camera.id for camera in config.cameras]})
    return config.model_copy(update={"use_cases": config.use_cases.model_copy(update={"social_distancing": own})})
