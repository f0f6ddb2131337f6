"""What a broker's answer means for the message (MQTT 5 §2.4)."""

from __future__ import annotations

from enum import Enum

NO_SUBSCRIBERS = 16
UNSPECIFIED = 128
UNSUPPORTED_VERSION = 132
NOT_AUTHORISED = 135
KEEP_ALIVE_TIMEOUT = 141
SESSION_TAKEN_OVER = 142
TOPIC_INVALID = 144
PACKET_TOO_LARGE = 149
PAYLOAD_INVALID = 153

_NEVER_TAKEN = {NOT_AUTHORISED, TOPIC_INVALID, PACKET_TOO_LARGE, PAYLOAD_INVALID}
_MAY_BE_ABOUT_A_MESSAGE = _NEVER_TAKEN | {UNSPECIFIED, 129, 130, 131, 154, 155}
"""Beside them: malformed packet, protocol error, implementation specific, retain and QoS not supported."""


class Outcome(Enum):
    """What becomes of a message that was sent."""

    ACCEPTED = "accepted"
    """The broker has it: it may be deleted. Also where nobody subscribes to it (16)."""
    REJECTED = "rejected"
    """The broker will never take it: to the dead letters, with the reason."""
    KEPT = "kept"
    """The broker cannot take it now (quota, disk, a fault of its own): it stays, and is sent again."""


def outcome(code: int) -> Outcome:
    """From the reason code of a PUBACK. MQTT 3.1.1 has none, and paho says 0 for it."""
    if code < 0x80:
        return Outcome.ACCEPTED
    return Outcome.REJECTED if code in _NEVER_TAKEN else Outcome.KEPT


def may_be_about_a_message(code: int) -> bool:
    """Whether a connection that ended with this reason may have ended because of what was sent."""
    return code in _MAY_BE_ABOUT_A_MESSAGE
