"""Updates of models where an agent is running: it is asked to do them, and watched as it does."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from edge_agent.cli.command import ask_agent
from edge_agent.errors import (
    ActivationFailed,
    Busy,
    CommandError,
    DownloadError,
    EdgeAgentError,
    UpdateError,
    UpdateRefused,
)

if TYPE_CHECKING:
    from edge_agent.config import Config
    from edge_agent.ota.activation import Progress
    from edge_agent.ota.store import ModelStore

_POLL_S = 0.5
_ASK_S = 60.0
_BACK_S = 60.0
_ENDS = {
    "warming": "it passed: `edge-agent model activate` lets it take over",
    "probation": "it has taken over, and is on probation",
    "confirmed": "it is at work",
}


def is_running(config: Config, store: ModelStore) -> bool:
    """Whether an agent does the updates of this box. Raises Busy where another process is updating them."""
    try:
        with store.lock():
            return False
    except Busy:
        try:
            RunningAgent(config).ask("ping")
        except CommandError as error:
            if error.code == "not_available":
                raise Busy("another process is updating the models of this box") from error
            raise
    return True


class RunningAgent:
    """The agent of ``config``'s state folder, at its control socket."""

    def __init__(self, config: Config) -> None:
        self._folder = config.state_dir

    def ask(self, command: str, **args: Any) -> dict[str, Any]:
        """What the command gives. Raises CommandError."""
        request = {"command": command, "id": f"cli-{secrets.token_hex(8)}", "args": args}
        answer = ask_agent(self._folder, request, _ASK_S)
        if not answer["ok"]:
            raise CommandError(answer["error"]["code"], answer["error"]["message"])
        result: dict[str, Any] = answer["result"]
        return result

    def install(self, model: str | None, *, activate: bool, again: bool, progress: Progress) -> str:
        """Let it fetch, test and perhaps activate a model; what came of it, in words. Raises as the agent itself would.

        Whoever stops waiting does not stop the agent.
        """
        self.ask("model.update", model=model, activate=activate, again=again)
        ends = {"probation", "confirmed"} if activate else {"warming", "probation", "confirmed"}
        while (update := self._update())["state"] not in ends | {"refused", "rolled_back"}:
            why = f" ({update['reason']})" if update["reason"] else ""
            progress(f"{update['model']}: {update['state'].replace('_', ' ')}{why}", update["progress"])
            time.sleep(_POLL_S)
        if update["state"] == "refused":
            raise _error(update["reason"])(update["detail"])
        if update["state"] == "rolled_back":
            raise ActivationFailed(f"{update['model']} was not installed ({update['reason']}): {update['detail']}")
        return f"{update['model']}: {update['detail'] or _ENDS[update['state']]}"

    def rollback(self) -> str:
        """Let it go back; what came of it, in words. Raises CommandError."""
        self.ask("model.rollback")
        until = time.monotonic() + _BACK_S
        while (update := self._update())["state"] != "rolled_back" or update["reason"] != "operator":
            if time.monotonic() > until:
                raise CommandError(
                    "timeout", f"not done after {_BACK_S:g} s; edge-agent model status tells how it goes"
                )
            time.sleep(_POLL_S)
        return "rolled back"

    def _update(self) -> dict[str, Any]:
        update = self.ask("status")["model"]["update"]
        return update or {"model": "", "state": "asking", "progress": None, "reason": "", "detail": ""}


def _error(code: str) -> type[EdgeAgentError]:
    """The error that has this word."""
    kinds: list[type[EdgeAgentError]] = [DownloadError, UpdateError, UpdateRefused]
    found = {kind.code: kind for base in kinds for kind in (base, *base.__subclasses__())}  # type: ignore[attr-defined]
    return found.get(code, UpdateError)
