"""What several sections of the configuration share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Slug = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""A name that is safe in a topic, a file name and a URL."""


class Strict(BaseModel):
    """Base of every section: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Protocol = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[!-~]+$")]
"""An ALPN protocol name (RFC 7301): 1 to 255 bytes; here without spaces and control characters."""


class TlsConfig(Strict):
    """Encryption. Named and left empty it is on, and trusts the CAs of this machine. Certificates are checked, always."""

    ca_file: Path | None = Field(None, description="CAs to trust (PEM); default: those of this machine")
    cert_file: Path | None = Field(
        None,
        description="our certificate (PEM) and what is between it and its CA; default for mqtt: what edge-agent enroll got",
    )
    key_file: Path | None = Field(None, description="the key of our certificate (PEM); default: it is in cert_file")
    server_name: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        description="name to ask for (SNI) and to find in the certificate; default: host",
    )
    alpn: list[Protocol] = Field(
        default_factory=list, max_length=8, description="protocols to offer, for example [x-amzn-mqtt-ca]"
    )
    min_version: Literal["1.2", "1.3"] = Field("1.2", description="oldest TLS version that is good enough")
