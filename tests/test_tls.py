"""Certificates and keys: what is wrong with them, in words."""

from __future__ import annotations

import logging
import os
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config_base import TlsConfig
from edge_agent.config_file import load
from edge_agent.errors import ConfigError
from edge_agent.tls import SOON_S, make_context, problems, validity, warnings
from tests.certificates import Authority

DAY = 86400.0


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_a_context_is_made_from_good_files(ca: Authority) -> None:
    box = ca.issue("box")
    config = TlsConfig(ca_file=ca.cert, cert_file=box.cert, key_file=box.key, alpn=["mqtt"], min_version="1.3")
    assert list(problems(config)) == []
    context = make_context(config, "mqtt.tls")
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert make_context(TlsConfig(), "mqtt.tls").minimum_version is ssl.TLSVersion.TLSv1_2
    both = box.cert.with_name("both.pem")
    both.write_bytes(box.key.read_bytes() + box.cert.read_bytes())
    assert list(problems(TlsConfig(cert_file=both))) == []


def test_what_is_wrong_with_a_file_is_told_at_its_key(ca: Authority, tmp_path: Path) -> None:
    box, other = ca.issue("box"), ca.issue("other")
    locked, rubbish, huge = tmp_path / "locked.key", tmp_path / "rubbish", tmp_path / "huge"
    command = ["openssl", "pkey", "-in", str(box.key), "-aes128", "-passout", "pass:hunter2", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    rubbish.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    huge.write_bytes(b"x" * 1_000_001)

    def told(**files: Path) -> list[tuple[str, str]]:
        return list(problems(TlsConfig(**files)))

    missing = tmp_path / "missing"
    assert told(ca_file=missing) == [("ca_file", f"{missing}: cannot be read: No such file or directory")]
    assert told(ca_file=tmp_path)[0][1].endswith("cannot be read: Is a directory")
    assert "larger than" in told(ca_file=huge)[0][1]
    assert told(ca_file=box.key)[0][1].endswith("holds no certificate in PEM format (-----BEGIN CERTIFICATE-----)")
    assert told(ca_file=rubbish)[0][0] == "ca_file"
    assert told(cert_file=rubbish, key_file=box.key)[0][0] == "cert_file"
    assert told(cert_file=box.cert, key_file=other.key) == [
        ("key_file", f"{other.key}: is not the key of the certificate in {box.cert}")
    ]
    assert "holds no private key" in dict(told(cert_file=box.cert))["cert_file"]
    assert "holds no private key" in dict(told(cert_file=box.cert, key_file=box.cert))["key_file"]
    ((key, text),) = told(cert_file=box.cert, key_file=locked)
    assert key == "key_file" and "passphrase" in text and "openssl pkey" in text and "hunter2" not in text
    with pytest.raises(ConfigError, match=f"mqtt.tls.key_file: {other.key}: is not the key"):
        make_context(TlsConfig(cert_file=box.cert, key_file=other.key), "mqtt.tls")


def test_dates_are_read_from_the_certificate(ca: Authority) -> None:
    box, old = ca.issue("box"), ca.issue("old", days=-1)
    now = time.time()
    span = validity(box.cert.read_bytes())
    assert span is not None
    assert abs(span[0] - now) < 600 and abs(span[1] - now - 30 * DAY) < 600
    said = subprocess.run(
        ["openssl", "x509", "-in", box.cert, "-noout", "-enddate"], capture_output=True, text=True, check=True
    )
    assert span[1] == ssl.cert_time_to_seconds(said.stdout.strip().removeprefix("notAfter="))

    def told(at: float, cert: Path = box.cert) -> list[str]:
        return [text.rpartition(": ")[2] for _, text in warnings(TlsConfig(cert_file=cert), at)]

    assert told(now) == []
    assert "expired on" in told(now, old.cert)[0]
    assert "expires on" in told(now + 30 * DAY - SOON_S + 600)[0]
    assert "expired on" in told(now + 31 * DAY)[0]
    assert "is valid from" in told(now - DAY)[0]  # a box that wakes in the past


def test_of_many_authorities_the_last_one_to_expire_counts(ca: Authority, tmp_path: Path) -> None:
    old = Authority(tmp_path, "old").issue("old", days=-1)
    several = tmp_path / "several.pem"
    several.write_bytes(old.cert.read_bytes() + ca.cert.read_bytes())
    assert list(warnings(TlsConfig(ca_file=several), time.time())) == []
    assert list(warnings(TlsConfig(ca_file=old.cert), time.time())) != []


@given(st.binary(max_size=400))
def test_rubbish_has_no_dates(der: bytes) -> None:
    pem = ssl.DER_cert_to_PEM_cert(der).encode()
    found = validity(pem)
    assert found is None or all(isinstance(moment, float) for moment in found)


def test_the_configuration_tells_line_and_key(
    ca: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, other, old = ca.issue("box"), ca.issue("other"), ca.issue("old", days=-1)
    path = tmp_path / "c.yaml"

    def write(tls: str, more: str = "") -> Path:
        path.write_text(f"cameras:\n  - {{id: till, source: 0}}\nmqtt:\n{more}  tls:\n{tls}")
        return path

    with pytest.raises(ConfigError) as caught:
        load(write(f"    cert_file: {box.cert}\n    key_file: {other.key}\n"))
    assert caught.value.problems == [
        f"{path}:6:15: mqtt.tls.key_file: {other.key}: is not the key of the certificate in {box.cert}"
    ]
    with pytest.raises(ConfigError, match=r"c.yaml:5:15: mqtt.tls.key_file: given without cert_file"):
        load(write(f"    key_file: {other.key}\n"))
    with pytest.raises(ConfigError, match=r"c.yaml:5:14: mqtt.tls.ca_file: .*/nope.pem: cannot be read"):
        load(write("    ca_file: nope.pem\n"))
    assert load(write("    ca_file: nope.pem\n", "  enabled: false\n")).mqtt.tls is not None
    config = load(write(""))
    assert config.mqtt.tls == TlsConfig()
    assert [str(address) for address in config.mqtt.addresses] == ["localhost:8883"]
    with caplog.at_level(logging.WARNING):
        box.key.chmod(0o644)
        load(write(f"    cert_file: {box.cert}\n    key_file: {box.key}\n"))
        assert "mqtt.tls.key_file: every user of this machine can read" in caplog.text
        caplog.clear()
        relative = Path(os.path.relpath(old.cert, tmp_path))  # an expired one must not keep the agent from starting
        loaded = load(write(f"    cert_file: {relative}\n    key_file: {old.key}\n"))
        assert loaded.mqtt.tls is not None and loaded.mqtt.tls.cert_file == old.cert
        assert "mqtt.tls.cert_file" in caplog.text and "expired on" in caplog.text
