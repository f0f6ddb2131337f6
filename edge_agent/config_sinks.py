"""The sections ``influxdb`` and ``webhook``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from edge_agent.config_base import Strict, TlsConfig


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is no address: {error}") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname or not url.isascii() or not url.isprintable():
        raise ValueError("must be https://HOST[:PORT][/PATH], or http://…")
    if " " in url or parts.fragment:
        raise ValueError("must have no blank and no #fragment in it")
    if parts.username is not None:
        raise ValueError("must have no name or password in it; a token belongs into a file: token_file")
    return url


HttpUrl = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(_checked)]
TypePattern = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.*-]+$")]
"""Of CloudEvents types; ``*`` stands for any text."""


class HttpSinkConfig(Strict):
    """What sinks that speak HTTP have in common."""

    enabled: bool = Field(False, description="whether to send there")
    tls: TlsConfig | None = Field(
        None, description="which certificates to trust and to show; default: the CAs of this machine, none of ours"
    )
    timeout_s: float = Field(15.0, ge=1, le=300, description="longest wait for a connection, and for an answer")


class InfluxDbConfig(HttpSinkConfig):
    """InfluxDB 2, or whatever takes its writes."""

    url: HttpUrl = Field("http://localhost:8086", description="address of the server")
    org: str = Field("edge-agent", min_length=1, max_length=128, description="organisation, by name or id")
    bucket: str = Field("edge-agent", min_length=1, max_length=128, description="bucket, by name or id")
    token_file: Path | None = Field(
        None, description="a file holding a token that may write to the bucket; or set EDGE_AGENT_INFLUXDB_TOKEN"
    )


class WebhookConfig(HttpSinkConfig):
    """A function or program that takes events by HTTPS."""

    url: HttpUrl | None = Field(None, description="where to post events; https, or http on this machine")
    secret_file: Path | None = Field(
        None, description="a file holding the signing key, whsec_ and base64; or set EDGE_AGENT_WEBHOOK_SECRET"
    )
    token_file: Path | None = Field(
        None, description="a file holding a bearer token to send along; or set EDGE_AGENT_WEBHOOK_TOKEN"
    )
    types: list[TypePattern] = Field(
        default=["*"],
        min_length=1,
        max_length=100,
        description="types of the events to send, * for any text: edge_agent.social_distancing.*, *.started",
    )
