"""A box gets its identity: key, request, certificate, renewal; and the broker that knows it by that."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.certificate_watch import CertificateWatch
from edge_agent.config_file import load
from edge_agent.enrolment import Enrolment
from edge_agent.errors import UsageError
from edge_agent.tls import SOON_S, ours
from tests.agent_process import RunningAgent, run_agent, write_config
from tests.certificates import Authority
from tests.mosquitto import subscriber, tls_broker, wait_for

LONG_S = 60.0


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def file(tmp_path: Path, ca: Authority) -> Path:
    """A configuration that wants TLS to its broker and names no certificate."""
    path = tmp_path / "config.yaml"
    (tmp_path / "state").mkdir()
    camera = {"id": "one", "source": "0"}
    mqtt = {"enabled": True, "tls": {"ca_file": str(ca.cert)}}
    path.write_text(
        yaml.safe_dump({"site": "lab", "device": "box1", "state_dir": "state", "cameras": [camera], "mqtt": mqtt})
    )
    return path


def enrolled(file: Path, ca: Authority, **options: Any) -> Enrolment:
    enrolment = Enrolment(load(file))
    enrolment.accept(ca.sign(enrolment.request(renew=False).pem, **options))
    return enrolment


def test_the_key_stays_and_the_request_says_who_it_is_for(file: Path) -> None:
    made = Enrolment(load(file)).request(renew=False)
    request = x509.load_pem_x509_csr(made.pem)
    assert request.is_signature_valid
    assert request.subject.rfc4514_string() == made.subject == "CN=box1,O=lab"
    public = request.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp256r1"
    key = made.path.with_name("pending.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert b"PRIVATE" not in made.pem
    again = Enrolment(load(file)).request(renew=False)  # whoever lost it may ask again
    assert x509.load_pem_x509_csr(again.pem).public_key() == public


def test_the_certificate_is_taken_and_found_without_being_named(file: Path, ca: Authority) -> None:
    assert load(file).mqtt.tls.cert_file is None  # type: ignore[union-attr]
    enrolment = enrolled(file, ca)
    tls = load(file).mqtt.tls
    assert tls is not None and tls.cert_file == file.parent / "state/identity/device.pem"
    assert stat.S_IMODE(tls.cert_file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tls.cert_file.parent.iterdir()) == ["device.pem"]
    with file.open("a") as config:
        config.write("influxdb: {tls: {min_version: '1.3'}}\n")
    assert load(file).influxdb.tls.cert_file == tls.cert_file  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"--renew asks for its successor"):
        enrolment.request(renew=False)


def test_a_renewal_has_a_new_key_and_leaves_the_old_pair_until_it_is_whole(file: Path, ca: Authority) -> None:
    enrolment = enrolled(file, ca)
    pair = file.parent / "state/identity/device.pem"
    before = pair.read_bytes()
    request = enrolment.request(renew=True)
    assert pair.read_bytes() == before
    enrolment.accept(ca.sign(request.pem))
    keys = [serialization.load_pem_private_key(content, None) for content in (before, pair.read_bytes())]
    assert keys[0].public_key() != keys[1].public_key()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "/O=lab/CN=box2"}, r"is for box2; the broker knows this box as box1"),
        ({"days": -1}, r"expired on 20"),
        ({"extension": "extendedKeyUsage=serverAuth"}, r"not one for a client"),
    ],
)
def test_a_certificate_that_would_not_do_is_refused(
    file: Path, ca: Authority, options: dict[str, Any], says: str
) -> None:
    enrolment = Enrolment(load(file))
    with pytest.raises(UsageError, match=says):
        enrolment.accept(ca.sign(enrolment.request(renew=False).pem, **options))
    assert enrolment.present() is None


def test_what_is_no_certificate_or_another_boxes_is_refused(file: Path, ca: Authority) -> None:
    enrolment = Enrolment(load(file))
    enrolment.request(renew=False)
    with pytest.raises(UsageError, match="no certificate in PEM format"):
        enrolment.accept(b"hello")
    with pytest.raises(UsageError, match=r"for another key than the one that waits .* --csr -"):
        enrolment.accept(ca.issue("box1").cert.read_bytes())
    with pytest.raises(UsageError, match="are no certificate"):
        enrolment.accept(b"x" * 2_000_000)


def test_a_certificate_that_ends_soon_is_told_once_a_day_until_it_is_renewed(file: Path, ca: Authority) -> None:
    enrolment = enrolled(file, ca)
    config = load(file)
    assert config.mqtt.tls is not None
    span = ours(config.mqtt.tls)
    assert span is not None
    now, told = span[1] - SOON_S - 60, list[dict[str, Any]]()
    watch = CertificateWatch(config, lambda: now)

    def look() -> list[str]:
        watch._next = 0.0
        told.clear()
        watch.look(lambda what, data: told.append({"what": what, **data}))
        return [fact["state"] for fact in told]

    assert (look(), watch.trouble) == ([], "")
    now += 120
    assert look() == ["expires_soon"]
    assert "mqtt.tls" in watch.trouble
    assert look() == []
    now += 86400
    assert look() == ["expires_soon"]
    now = span[1] + 1
    assert look() == ["expired"]
    enrolment.accept(ca.sign(enrolment.request(renew=True).pem, days=400))
    assert (look(), watch.trouble) == (["good"], "")


@pytest.mark.slow
def test_the_verb(file: Path, ca: Authority, tmp_path: Path) -> None:
    done = run_agent("enroll", "-c", file, "--csr", tmp_path / "box1.csr", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subject"] == "CN=box1,O=lab"
    (tmp_path / "box1.pem").write_bytes(ca.sign((tmp_path / "box1.csr").read_bytes()))
    done = run_agent("enroll", "-c", file, "--certificate", tmp_path / "box1.pem", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["expires"] > "20"
    both = run_agent("enroll", "-c", file, "--certificate", tmp_path / "box1.pem", "--renew")
    assert both.returncode == 2 and "give one of them" in both.stderr


@pytest.mark.slow
def test_the_broker_knows_the_box_by_its_certificate_and_gets_the_renewed_one_without_a_restart(
    root: Path, vtest_video: Path, tmp_path: Path, ca: Authority
) -> None:
    rules = ["user all", "topic read #", "pattern write edge/v1/+/%u/#", "pattern read edge/v1/+/%u/status"]
    lines = (f"cafile {ca.cert}", "require_certificate true", "use_identity_as_username true")
    users = {"all": "secret"}
    with (
        tls_broker(tmp_path / "m", ca.issue("broker"), *lines, users=users, acl=rules) as (mosquitto, port),
        subscriber(mosquitto.port, user=("all", "secret")) as sub,
    ):
        mqtt = {"port": port, "host": "127.0.0.1", "heartbeat_s": 1, "tls": {"ca_file": str(ca.cert)}}
        video = {"id": "pets", "source": str(vtest_video), "fps": 7, "max_fps": 2}
        path = write_config(root, tmp_path, mqtt=mqtt | {"reconnect_spread_s": 0.2}, cameras=[video])
        (tmp_path / "state").mkdir(exist_ok=True)
        enrolled(path, ca, days=5)
        with RunningAgent(tmp_path, "-c", path, "--realtime") as agent:
            wait_for(lambda: bool(sub.under("_device/certificate")), LONG_S, "warning")
            facts = json.loads(sub.under("_device/certificate")[0].payload)["data"]
            assert (facts["section"], facts["state"]) == ("mqtt.tls", "expires_soon")
            wait_for(
                lambda: any(b"our certificate" in beat.payload for beat in sub.under("/heartbeat")), LONG_S, "heartbeat"
            )
            asked = run_agent("enroll", "-c", path, "--renew", "--csr", tmp_path / "new.csr")
            assert asked.returncode == 0, asked.stderr
            (tmp_path / "new.pem").write_bytes(ca.sign((tmp_path / "new.csr").read_bytes(), days=400))
            taken = run_agent("enroll", "-c", path, "--certificate", tmp_path / "new.pem")
            assert taken.returncode == 0, taken.stderr
            agent.wait_for_log("our certificate was renewed", LONG_S)
            wait_for(lambda: agent.log.count("mqtt: connected") == 2, LONG_S, "connected anew")
            states = [json.loads(message.payload)["state"] for message in sub.under("/status")]
            assert set(states) == {"online"}
            assert mosquitto.log_text().count("u'box1'") >= 2
            assert agent.end() == 0


@pytest.mark.slow
def test_doctor_warns_of_a_certificate_that_ends_soon(file: Path, ca: Authority) -> None:
    enrolled(file, ca, days=5)
    done = run_agent("doctor", "-c", file, "--json")
    text = done.stdout
    assert "the certificate expires on" in text
