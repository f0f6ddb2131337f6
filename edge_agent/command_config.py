"""``config.get`` and ``config.apply``: the configuration at work, and a change of it from afar."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from edge_agent.chains import check
from edge_agent.commands.catalogue import ConfigApplied, ConfigApplyArgs, ConfigShown
from edge_agent.commands.desk import LATER, Later
from edge_agent.commands.envelope import Request
from edge_agent.config import Config, redact
from edge_agent.config_file import ConfigFile
from edge_agent.config_layer import laid, on_trial
from edge_agent.config_overlay import one_patch
from edge_agent.config_trial import Overlay, Readiness, Trial, give_up
from edge_agent.config_words import is_secret
from edge_agent.errors import CommandError, ConfigError, ModelError
from edge_agent.health.status import AgentStatus

log = logging.getLogger(__name__)

LIVE = (("logging", "level"), ("mqtt", "heartbeat_s"), ("privacy", "pixelate"))
"""What the agent takes over as it runs; everything else is built once, at its start."""
MAX_OVERLAY = 500_000


class Configured(Protocol):
    """The agent, as far as its configuration goes. Called by the worker's and the main thread."""

    config: Config
    again: bool
    """It is about to start again."""

    def effective(self, config: Config) -> Config:
        """``config`` with what the command line says about this run."""

    def reconfigure(self, config: Config) -> None:
        """Take over a configuration that differs in ``LIVE`` only."""

    def status(self) -> AgentStatus:
        """The state of the moment."""

    def restart(self) -> None:
        """Stop in order, and start again as a new process."""


class ConfigCommands:
    """``file`` is the operator's, None where there is none to change. ``on_outcome`` is told what became of a change."""

    def __init__(self, agent: Configured, file: Path | None, on_outcome: Callable[[Overlay], None]) -> None:
        self._agent, self._file, self._on_outcome = agent, file, on_outcome
        self._trial = Trial(agent.config.state_dir, agent.config.commands.trial_s)
        self._trouble = ""

    def get(self, _: Request) -> ConfigShown:
        """What is at work."""
        config, overlay = self._agent.config, self._trial.overlay
        return ConfigShown(
            config=without_secrets(_by_camera(config.model_dump(mode="json"))),
            config_hash=config.digest(),
            overlay=without_secrets(overlay.patch),
            state=overlay.state,
            reason=overlay.reason,
        )

    def apply(self, request: Request) -> ConfigApplied | Later:
        """Check a change, write it down, and take it over: at once where that can be, else by a restart."""
        args, ident = request.args, request.id
        assert isinstance(args, ConfigApplyArgs) and ident is not None
        if self._file is None:
            raise CommandError("not_supported", "this agent runs without a configuration file")
        if self._trial.running or self._agent.again or on_trial(self._agent.config.state_dir):
            raise CommandError("busy", "an earlier change is on trial; its outcome is told as event _device/config")
        patch = dict(args.config) if args.replace else one_patch(self._trial.overlay.patch, args.config)
        config = self._agent.effective(self._checked(patch))
        try:
            return self._take(config, patch, ident)
        except OSError as error:
            raise CommandError("failed", f"the change cannot be written down: {error.strerror}") from error

    def _checked(self, patch: dict[str, Any]) -> Config:
        if len(json.dumps(patch)) > MAX_OVERLAY:
            raise CommandError("too_large", f"all changes together have more than {MAX_OVERLAY} bytes")
        assert self._file is not None
        try:
            config = laid(ConfigFile(self._file))[0].overlaid(patch)
            check(config)
        except (ConfigError, ModelError) as error:
            raise CommandError("invalid_config", str(error)) from error
        return config

    def _take(self, config: Config, patch: dict[str, Any], ident: str) -> ConfigApplied | Later:
        now = self._agent.config
        if patch == self._trial.overlay.patch:
            return ConfigApplied(state="unchanged", restarted=False, config_hash=now.digest())
        if _built_from(config) == _built_from(now):
            self._trial.adopt(patch, ident)
            self._agent.reconfigure(config)
            self._announce()
            return ConfigApplied(state="confirmed", restarted=False, config_hash=config.digest())
        self._trial.propose(patch, ident, Readiness.of(self._agent.status()))
        log.warning("a configuration from afar goes on trial: the agent starts again with it")
        self._agent.restart()
        return LATER

    # ---- what becomes of it; in the main thread

    def start(self) -> None:
        """Announce an outcome that an earlier run could not announce."""
        if not self._trial.running and not self._trial.overlay.told:
            self._announce()

    def look(self) -> str | None:
        """Judge what is on trial; the id of the command that asked for it where it is confirmed now."""
        if not self._trial.running:
            return None
        try:
            overlay = self._trial.look(Readiness.of(self._agent.status()))
        except OSError as error:
            if str(error) != self._trouble:
                log.error("what became of the configuration on trial cannot be written down: %s", error)
            self._trouble = str(error)
            return None
        if overlay.state == "trial":
            return None
        if overlay.state == "rolled_back":  # who comes back tells it
            self._agent.restart()
            return None
        self._announce()
        return overlay.command

    def died(self, reason: str) -> bool:
        """The agent must end; whether what is on trial was taken back for it."""
        return give_up(self._agent.config.state_dir, reason)

    def outcome(self, ident: str) -> ConfigApplied | CommandError | Later | None:
        """What became of the change that command asked for; None where it is not known."""
        overlay = self._trial.overlay
        if overlay.command != ident:
            return None
        if overlay.state == "trial":
            return LATER
        if overlay.state == "rolled_back":
            return CommandError("rolled_back", overlay.reason)
        return ConfigApplied(state="confirmed", restarted=True, config_hash=self._agent.config.digest())

    def _announce(self) -> None:
        overlay = self._trial.overlay
        if overlay.state == "rolled_back":
            log.error("the configuration from afar was taken back: %s", overlay.reason)
        else:
            log.info("the configuration from afar is confirmed")
        self._on_outcome(overlay)
        try:
            self._trial.announced()
        except OSError as error:  # then it is told again after the next start
            log.error("%s", error)


def without_secrets(data: Any, name: str = "") -> Any:
    """``data`` without the credentials of URLs, and without what a key calls a secret (but for the name of its file)."""
    if isinstance(data, dict):
        return {key: without_secrets(value, key) for key, value in data.items()}
    if isinstance(data, list):
        return [without_secrets(value, name) for value in data]
    if isinstance(data, str):
        return "***" if is_secret(name) and not name.endswith("_file") else redact(data)
    return data


def _by_camera(data: dict[str, Any]) -> dict[str, Any]:
    """In the form that ``config.apply`` takes."""
    return {**data, "cameras": {camera.pop("id"): camera for camera in data["cameras"]}}


def _built_from(config: Config) -> dict[str, Any]:
    """All of it that takes a restart."""
    data = config.model_dump(mode="json")
    for section, key in LIVE:
        del data[section][key]
    return data
