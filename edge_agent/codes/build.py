"""Builds what reads codes on this box from the configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent.codes.naming import Naming, naming_key, token_keys
from edge_agent.codes.spent import SpentTokens
from edge_agent.codes.stage import CodeStage
from edge_agent.config import CameraConfig, Config
from edge_agent.config_codes import CodesConfig
from edge_agent.errors import TokenRefused
from edge_agent.types import Code, Frame, Token


class Codes:
    """The codes of all cameras. Raises ConfigError (a key that cannot be read) and HardwareError (an OpenCV that cannot do it)."""

    def __init__(self, config: CodesConfig, state_dir: Path, synchronised: Callable[[], bool]) -> None:
        self.spent = SpentTokens(state_dir / "tokens.db", lambda: config.clock == "battery" or synchronised())
        keys = token_keys(config)
        naming = Naming(naming_key(config, state_dir), keys, self.spent.clock_ok, self.spent.is_spent, config.names)
        self.stage = CodeStage(config, naming)
        self._config = config

    def spend(self, token: Token) -> None:
        """Use a token up, now. Raises TokenRefused."""
        self.spent.spend(token, time.time())

    def of(self, camera: CameraConfig, *, inline: bool) -> Callable[[Frame], Sequence[Code]] | None:
        """What looks for codes in the frames of a camera; None where it is not one of those. ``inline``: at once."""
        if self._config.cameras is not None and camera.id not in self._config.cameras:
            return None
        return self.stage.camera(camera, inline=inline).look


def no_tokens(_: Token) -> None:
    """Of a box that reads no codes."""
    raise TokenRefused("bad")


def build_codes(config: Config, synchronised: Callable[[], bool]) -> Codes | None:
    """None where no codes are read."""
    if config.codes is None or not config.codes.enabled:
        return None
    return Codes(config.codes, config.state_dir, synchronised)
