"""From bytes to a command and from its outcome to bytes; both bounded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel, TypeAdapter, ValidationError

from edge_agent.commands.catalogue import COMMANDS, Command, CommandAnswer, CommandFault, Ident, ask_model
from edge_agent.config_base import Strict
from edge_agent.errors import CommandError

MAX_REQUEST = 65_536
MAX_DEPTH = 16
MAX_ANSWER = 120_000
"""Bytes; AWS IoT Core takes 128 KiB, others more."""
_MAX_FAULTS = 5
_IDENT: TypeAdapter[str] = TypeAdapter(Ident)


@dataclass(frozen=True, slots=True)
class Request:
    """A command that can be understood. ``expires`` is POSIX seconds; ``digest`` tells two with one id apart."""

    command: Command
    args: Strict
    id: str | None
    expires: float | None
    digest: str


def load(payload: bytes) -> dict[str, Any]:
    """The JSON object in ``payload``; nothing at all is an empty one. Raises CommandError: malformed, too_large."""
    if len(payload) > MAX_REQUEST:
        raise CommandError("too_large", f"{len(payload)} bytes; at most {MAX_REQUEST} are read")
    try:
        text = payload.decode("utf-8")
        data = json.loads(text, object_pairs_hook=_members, parse_constant=_no_number) if text.strip() else {}
    except RecursionError:
        raise _malformed(_DEEP) from None
    except UnicodeDecodeError:
        raise _malformed("not UTF-8") from None
    except ValueError as error:
        raise _malformed(f"not JSON: {error}"[:200]) from None
    if not isinstance(data, dict):
        raise _malformed('not a JSON object such as {"id": "a1"}')
    if _depth(data) > MAX_DEPTH:
        raise _malformed(_DEEP)
    return data


_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def _malformed(text: str) -> CommandError:
    return CommandError("malformed", text)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("a key is given twice; which of both is meant?")
    return members


def _no_number(text: str) -> NoReturn:
    raise _malformed(f"{text} is no number in JSON")


def _depth(data: Any) -> int:
    """Of lists and objects; level by level, without recursion."""
    depth, level = 0, [data]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def ident_of(data: dict[str, Any]) -> str | None:
    """The id, where it is one: an answer names it also where the rest is wrong."""
    try:
        return _IDENT.validate_python(data.get("id"))
    except ValidationError:
        return None


def understand(name: str, data: dict[str, Any]) -> Request:
    """Raises CommandError: unknown_command, malformed, invalid_args."""
    command = COMMANDS.get(name)
    if command is None:
        raise CommandError("unknown_command", f"there are: {', '.join(COMMANDS)}")
    try:
        # Through JSON, as strictness differs: a time is text there.
        asked = ask_model(command).model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise _faults(error) from None
    expires = None if asked.expires is None else asked.expires.timestamp()
    digest = hashlib.sha256(f"{name} {json.dumps(data.get('args'), sort_keys=True)}".encode()).hexdigest()
    return Request(command, asked.args, asked.id, expires, digest)


def _faults(error: ValidationError) -> CommandError:
    """Without what was given: it may be a secret, or long."""
    faults = error.errors(include_url=False, include_input=False)
    texts = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"[:200] for fault in faults[:_MAX_FAULTS]]
    about_args = all(fault["loc"][:1] == ("args",) for fault in faults)
    return CommandError("invalid_args" if about_args else "malformed", "; ".join(texts))


def succeeded(name: str, ident: str | None, result: BaseModel | dict[str, Any]) -> bytes:
    """The answer with a result, or with the error that it cannot be sent."""
    plain = result.model_dump(mode="json") if isinstance(result, BaseModel) else result
    try:
        answer = _encode(_about({"command": name, "ok": True, "result": plain}, ident))
    except (ValueError, TypeError, RecursionError) as error:
        return failed(name, ident, CommandError("failed", f"a fault of the agent: the answer is no JSON: {error}"))
    if len(answer) > MAX_ANSWER:
        text = f"the answer has {len(answer)} bytes; at most {MAX_ANSWER} are sent"
        return failed(name, ident, CommandError("too_large", text))
    return answer


def failed(name: str, ident: str | None, error: CommandError) -> bytes:
    """The answer where there is no result."""
    fault: CommandFault = {"code": error.code, "message": str(error)[:4000]}
    return _encode(_about({"command": name, "ok": False, "error": fault}, ident))


def noted(answer: bytes, note: str) -> bytes:
    """``answer`` with a note, where there is one."""
    if not note:
        return answer
    told: CommandAnswer = json.loads(answer)
    told["note"] = note
    return _encode(told)


def _about(answer: CommandAnswer, ident: str | None) -> CommandAnswer:
    return answer if ident is None else {"id": ident, **answer}


def _encode(answer: CommandAnswer) -> bytes:
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()
