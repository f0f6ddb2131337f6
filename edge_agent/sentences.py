"""Events as sentences for people: ``2 people 1.4 m apart for 10 s``. Input is a CloudEvent as the outbox commits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_MAX = 200
_LOGGED = {
    f"edge_agent.device.{what}" for what in ("camera_state", "camera_view", "sensor_state", "safe_mode", "certificate")
}


def printable(text: str, limit: int = _MAX) -> str:
    """One line without control characters (a name or an error must not steer somebody's terminal), at most ``limit`` long."""
    text = "".join(char if char.isprintable() else " " for char in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def sentence(event: Mapping[str, Any]) -> str:
    """What happened, without time and camera. Never fails: an event it does not know is shown by type and facts."""
    parts = str(event.get("type", "")).split(".")[1:]
    given = event.get("data")
    data: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    phase = parts[-1] if parts and parts[-1] in {"started", "updated", "ended"} else ""
    if parts[:1] == ["social_distancing"] and phase:
        return printable(_distancing(data, phase))
    if parts[:1] == ["sop"]:
        return printable(_procedure(data, parts[1] if len(parts) > 1 else "", phase))
    if (words := _RULES.get(".".join(parts[:2]))) is not None:
        return printable(f"{data.get('rule')}: {words(data, phase)}")
    if parts[-1:] in (["camera_state"], ["camera_view"]):
        return printable(_camera(data, "view " if parts[-1] == "camera_view" else ""))
    if parts[-1:] == ["sensor_state"]:
        return printable(_camera(data, f"sensor {data.get('sensor')} "))
    return printable(_anything(parts, data))


def camera_of(event: Mapping[str, Any]) -> str:
    """The camera an event is about; "" for one about the box itself."""
    data = event.get("data")
    name = str(event.get("source", "")).rpartition("/")[2]
    if name == "_device":
        name = str(data.get("camera", "")) if isinstance(data, Mapping) else ""
    return printable(name, 63)


def is_logged(event: Mapping[str, Any]) -> bool:
    """Whether the stage that noticed it wrote a log line of its own, so that showing it as well would say it twice."""
    return str(event.get("type", "")) in _LOGGED


def seconds(value: float) -> str:
    """A duration: ``9.5 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _distancing(data: Mapping[str, Any], phase: str) -> str:
    estimate = " (estimate)" if data.get("calibrated") is False else ""
    place = f" in {data['zone']}" if isinstance(data.get("zone"), str) else ""
    duration, reason = _number(data, "duration_s"), data.get("reason")
    if phase == "ended":
        after = "" if duration is None else f" after {seconds(duration)}"
        closest, sigma = _number(data, "min_distance_m"), _number(data, "min_distance_sigma_m") or 0.0
        doubt = f" ± {sigma:.1f}" if sigma >= 0.05 else ""
        apart = "" if closest is None else f", closest {closest:.1f}{doubt} m{estimate}"
        why = f" ({reason.replace('_', ' ')})" if isinstance(reason, str) and reason not in {"", "left"} else ""
        return f"over{after}{place}: {_people(data, 'people_max', 'people')}{apart}{why}"
    still = "" if phase == "started" else "now " if reason == "growth" else "still "
    nearest = _nearest(data)
    apart = "too close" if nearest is None else f"{nearest:.1f} m apart{estimate}"
    lasting = "" if duration is None else f" for {seconds(duration)}"
    return f"{still}{_people(data, 'people')} {apart}{lasting}{place}"


def _procedure(data: Mapping[str, Any], what: str, phase: str) -> str:
    name, station = data.get("procedure"), data.get("station")
    about = f"{name}" if station == name else f"{name} at {station}"
    if what == "run":
        reason = data.get("reason")
        return f"{about} begun" if phase == "started" else f"{about} {data.get('result', 'ended')} ({reason})"
    missing = data.get("missing")
    without = f", without {', '.join(map(str, missing))}" if isinstance(missing, list) and missing else ""
    return f"{about}: {data.get('step')} {what.replace('_', ' ')}, {data.get('observed')}{without}"


def _too_many(data: Mapping[str, Any], phase: str) -> str:
    if phase == "ended":
        return f"no longer too many{_lasted(data, 'after')}, at most {data.get('people_max')}{_why(data)}"
    still = "still " if phase == "updated" else ""
    return f"{still}{_people(data, 'people')}, {data.get('capacity')} may be there"


def _crossed(data: Mapping[str, Any], _: str) -> str:
    counts = data.get("counts")
    sums = ", ".join(f"{name} {count}" for name, count in counts.items()) if isinstance(counts, Mapping) else ""
    return f"{data.get('direction')} ({sums})"


def _presence(data: Mapping[str, Any], phase: str) -> str:
    if phase == "ended":
        return f"over{_lasted(data, 'after')}{_why(data)}"
    return f"{'still ' if phase == 'updated' else ''}{_people(data, 'people')}{_lasted(data, 'for')}"


def _stay(data: Mapping[str, Any], phase: str) -> str:
    if phase == "ended":
        return f"person {data.get('track_id')} left{_lasted(data, 'after')}{_why(data)}"
    return f"{'still ' if phase == 'updated' else ''}person {data.get('track_id')}{_lasted(data, 'for')}"


def _unprotected(data: Mapping[str, Any], phase: str) -> str:
    who = f"person {data.get('track_id')}"
    if phase == "ended":
        return f"{who} no longer seen without {data.get('missing')}{_lasted(data, 'after')}{_why(data)}"
    return f"{who} {'still ' if phase == 'updated' else ''}without {data.get('missing')}{_lasted(data, 'for')}"


def _lasted(data: Mapping[str, Any], word: str) -> str:
    duration = _number(data, "duration_s")
    return "" if duration is None else f" {word} {seconds(duration)}"


def _why(data: Mapping[str, Any]) -> str:
    reason = data.get("reason")
    return f" ({reason.replace('_', ' ')})" if isinstance(reason, str) and reason not in {"", "over"} else ""


def _acted(data: Mapping[str, Any], phase: str) -> str:
    asked = f"{data.get('actuator')} to {data.get('action')}"
    return f"{asked}: {data.get('result', 'over')}, {data.get('reason')}" if phase == "ended" else f"{asked} asked for"


def _guest(data: Mapping[str, Any], _: str) -> str:
    return f"guest {data.get('holder') or data.get('token')}"


def _counts(data: Mapping[str, Any], _: str) -> str:
    held = data.get("attributes")
    said = [
        f"{name} {'not told' if one.get('yes') is None else one['yes']}"
        for name, one in (held.items() if isinstance(held, Mapping) else ())
        if isinstance(one, Mapping)
    ]
    return f"{_people(data, 'people')}: {', '.join(said)}"


def _share(data: Mapping[str, Any], _: str) -> str:
    share, counted = _number(data, "share"), _number(data, "counted_s")
    often = "a share" if share is None else f"about {share:.0%}"
    lasting = "" if counted is None else f" over {seconds(counted)}"
    return f"{often} of about {_people(data, 'people')} faced it{lasting}"


_RULES: Mapping[str, Callable[[Mapping[str, Any], str], str]] = {
    "occupancy.over_capacity": _too_many,
    "line_count.crossing": _crossed,
    "intrusion.presence": _presence,
    "loitering.stay": _stay,
    "ppe.missing": _unprotected,
    "touchless.action": _acted,
    "dispenser.dispense": _acted,
    "guest.recognised": _guest,
    "attributes.counts": _counts,
    "attention.share": _share,
}
"""What is said of a rule's event, after its name."""


def _nearest(data: Mapping[str, Any]) -> float | None:
    """The smallest distance now; the pairs are listed nearest first."""
    pairs = data.get("pairs")
    first = pairs[0] if isinstance(pairs, list) and pairs else None
    now = _number(first, "distance_m") if isinstance(first, Mapping) else None
    return now if now is not None else _number(data, "min_distance_m")


def _people(data: Mapping[str, Any], *keys: str) -> str:
    count = _number(data, *keys)
    return "people" if count is None else f"{count:g} {'person' if count == 1 else 'people'}"


def _camera(data: Mapping[str, Any], prefix: str) -> str:
    value = next((data[key] for key in ("value", "state", "view") if isinstance(data.get(key), str)), "changed")
    reason = data.get("reason")
    return f"{prefix}{value}" + (f": {reason}" if isinstance(reason, str) and reason else "")


def _anything(parts: list[str], data: Mapping[str, Any]) -> str:
    stem = " ".join(part.replace("_", " ") for part in parts[1:] if part) or "event"
    facts = [f"{key}={value}" for key, value in data.items() if isinstance(value, str | int | float | bool)]
    return f"{stem}: {', '.join(facts[:6])}" if facts else stem


def _number(data: Mapping[str, Any], *keys: str) -> float | None:
    for key in keys:
        value = data.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None
