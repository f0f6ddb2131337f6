"""The way to a repository: TLS, certificates, tokens, proxies; the clock; what is remembered. Attacks are in test_ota_attacks."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge_agent.config_ota import OtaConfig
from edge_agent.errors import (
    ClockUnsynchronised,
    ConfigError,
    DownloadError,
    UpdateError,
    UpdateRefused,
    UsageError,
    WrongHardware,
)
from edge_agent.ota.offer import Box, Facts
from edge_agent.ota.trusted_time import STEP_S, WRITTEN, TrustedTime
from tests.certificates import Authority
from tests.file_server import Answer, body, leads_to, serve
from tests.ota_fixtures import BOX, MODEL, Client, Operator, make_operator


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's machine has must not come between."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    made = make_operator(tmp_path / "operator", root_keys=1, threshold=1)
    made.publish("1.0")
    return made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def box(operator: Operator, url: str, tmp_path: Path, **settings: object) -> Client:
    return Client(tmp_path / "box", url, operator.root, settings=settings)


# ---- the way


@pytest.mark.slow
def test_it_needs_the_right_authority_and_a_certificate_of_ours(
    operator: Operator, authority: Authority, tmp_path: Path
) -> None:
    server, ours = authority.issue("localhost"), authority.issue("till-3")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.cert))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server.cert, server.key)
    with serve({}, context, folder=operator.public) as running:
        tls = {"ca_file": authority.cert, "cert_file": ours.cert, "key_file": ours.key}
        assert box(operator, running.url, tmp_path, tls=tls).install() is not None
        with pytest.raises(DownloadError, match="certificate verify failed"):
            box(operator, running.url, tmp_path).client().look(MODEL)
        with pytest.raises(DownloadError):
            box(operator, running.url, tmp_path, tls={"ca_file": authority.cert}).client().look(MODEL)
    with pytest.raises(ConfigError, match=r"ota\.tls\.ca_file"):
        box(operator, "https://localhost", tmp_path, tls={"ca_file": tmp_path / "none"}).client()


@pytest.mark.slow
def test_the_token_goes_to_the_repository_and_nowhere_else(
    operator: Operator, authority: Authority, tmp_path: Path
) -> None:
    pair = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    seen: list[str | None] = []
    token = tmp_path / "token"
    token.write_text("sesame\n")

    def note(answer: Answer) -> Answer:
        def noted(handler: BaseHTTPRequestHandler) -> None:
            seen.append(handler.headers.get("Authorization"))
            answer(handler)

        return noted

    timestamp = (operator.public / "metadata" / "timestamp.json").read_bytes()
    with serve({"/moved": note(body(timestamp))}, context) as other:
        answers = {"/metadata/timestamp.json": note(leads_to(f"{other.url}/moved"))}
        with serve(answers, context, folder=operator.public) as running:
            client = box(operator, running.url, tmp_path, tls={"ca_file": authority.cert}, token_file=token)
            assert client.client().look(MODEL).bundle.version == "1.0"
    assert seen == ["Bearer sesame", None]
    assert "sesame" not in repr(client.client()._source)


@pytest.mark.slow
def test_a_proxy_is_used_where_one_is_named(operator: Operator, tmp_path: Path) -> None:
    answers = {
        f"http://updates.invalid/{path.relative_to(operator.public)}": body(path.read_bytes())
        for path in operator.public.rglob("*")
        if path.is_file()
    }
    with serve(answers) as proxy:
        client = box(operator, "http://updates.invalid", tmp_path, proxy=proxy.url)
        assert client.install() is not None
        assert len(proxy.asked) > 4
    with pytest.raises(DownloadError, match=r"updates\.invalid \(by the proxy localhost\) cannot be reached"):
        client.client().look(MODEL)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"repository": "https://x"}, "needs `root_file`"),
        ({"repository": "ftp://x", "root_file": "r"}, "must begin with https:// or http:// or file://"),
        ({"repository": "https://", "root_file": "r"}, "must begin with"),
        ({"repository": "file://host/x", "root_file": "r"}, "must begin with"),
        ({"repository": "https://me:pw@x", "root_file": "r"}, "a name or password does not belong"),
        ({"repository": "https://x/a b", "root_file": "r"}, "blanks as %20"),
        ({"repository": "http://x", "root_file": "r", "token_file": "t"}, "needs an https repository"),
        ({"proxy": "socks5://x"}, "must begin with http:// or https://"),
        ({"max_kb_s": 1}, "greater than or equal to 16"),
    ],
)
def test_a_configuration_that_cannot_work_is_told(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text) as caught:
        OtaConfig.model_validate(settings)
    assert "me:pw" not in str(caught.value.errors()[0]["msg"])


def test_without_a_repository_there_is_none(tmp_path: Path) -> None:
    from edge_agent.ota.client import RepositoryClient

    with pytest.raises(UsageError, match=r"set ota\.repository and ota\.root_file"):
        RepositoryClient(OtaConfig(), tmp_path, BOX, TrustedTime(tmp_path / "time", lambda: True))
    config = OtaConfig(repository="file:///nowhere", root_file=tmp_path / "none")
    client = RepositoryClient(config, tmp_path, BOX, TrustedTime(tmp_path / "time", lambda: True))
    with pytest.raises(ConfigError, match=r"ota\.root_file: .*No such file"):
        client.look(MODEL)


# ---- what is remembered


def test_the_little_that_is_new_is_fetched_and_the_rest_remembered(operator: Operator, tmp_path: Path) -> None:
    with serve({}, folder=operator.public) as running:
        client = box(operator, running.url, tmp_path)
        client.client().look(MODEL)
        first = len(running.asked)
        client.client().look(MODEL)
        channel = [name for name in running.asked[first:] if "channels" in name]
        assert running.asked[first:] == ["/metadata/2.root.json", "/metadata/timestamp.json", *channel]
    kept = client.state / "ota" / "metadata"
    assert {path.name for path in kept.rglob("*.json")} == {
        *("1.root.json", "timestamp.json", "snapshot.json", "targets.json", "models.json")
    }
    assert not (client.state / "ota" / "metadata.work").exists()


def test_a_box_that_cannot_write_says_so(operator: Operator, tmp_path: Path) -> None:
    client = box(operator, operator.public.as_uri(), tmp_path)
    client.state.mkdir()
    (client.state / "ota").write_text("a file where the folder should be")
    with pytest.raises(UpdateError, match=r"ota/time: (File exists|Not a directory)"):
        client.client().look(MODEL)


def test_downloads_of_another_bundle_are_cleared_away(operator: Operator, tmp_path: Path) -> None:
    client = box(operator, operator.public.as_uri(), tmp_path)
    client.install()
    downloads = client.state / "ota" / "downloads"
    assert list(downloads.iterdir()) == []
    (downloads / f"{'0' * 64}.part").write_bytes(b"half")
    operator.publish("2.0")
    client.activation().go_back()
    client.install()
    assert list(downloads.iterdir()) == []


# ---- the clock


@pytest.fixture
def wall() -> Iterator[list[float]]:
    yield [WRITTEN + 1000 * 86_400.0 + 0.9]


def test_the_floor_rises_with_the_clock_and_never_falls(tmp_path: Path, wall: list[float]) -> None:
    clock = TrustedTime(tmp_path / "ota" / "time", lambda: True, lambda: wall[0])
    assert clock.floor == WRITTEN
    clock.check()
    first = clock.floor
    assert first == int(wall[0])
    wall[0] += 0.7
    clock.check()
    wall[0] += STEP_S / 2
    clock.check()
    assert clock.floor == first  # flash wears out
    wall[0] += STEP_S
    clock.check()
    assert clock.floor == int(wall[0])
    again = TrustedTime(tmp_path / "ota" / "time", lambda: True, lambda: first)
    with pytest.raises(ClockUnsynchronised, match=r"but it was .* already.*remove .*time"):
        again.check()
    assert again.floor == int(wall[0])


def test_a_clock_that_nobody_keeps_is_not_asked_and_raises_nothing(tmp_path: Path, wall: list[float]) -> None:
    clock = TrustedTime(tmp_path / "time", lambda: False, lambda: wall[0])
    with pytest.raises(ClockUnsynchronised, match="clock: battery"):
        clock.check()
    assert not (tmp_path / "time").exists()


@pytest.mark.parametrize("rubbish", ["", "soon", "\xff", "-1"])
def test_a_floor_that_cannot_be_read_is_the_oldest(tmp_path: Path, rubbish: str) -> None:
    (tmp_path / "time").write_text(rubbish, encoding="latin-1")
    assert TrustedTime(tmp_path / "time", lambda: True).floor == WRITTEN
    with pytest.raises(ClockUnsynchronised):
        TrustedTime(tmp_path / "time", lambda: True, lambda: 0.0).check()


def test_this_machine_is_not_older_than_the_floor() -> None:
    assert time.time() > WRITTEN


# ---- what fits


@pytest.mark.parametrize(
    ("facts", "fits"),
    [
        ({}, True),
        ({"backends": ("tensorrt", "onnxruntime")}, True),
        ({"backends": ("tensorrt",)}, False),
        ({"hardware": ("till", "door")}, True),
        ({"hardware": ("door",)}, False),
        ({"hardware": ("x86_64",)}, True),
        ({"min_agent": "1.2.3"}, True),
        ({"min_agent": "1.2.3.0"}, True),
        ({"min_agent": "1.2"}, True),
        ({"min_agent": "1.2.4"}, False),
        ({"min_agent": "1.10"}, False),
    ],
)
def test_what_fits_a_box(facts: dict[str, object], fits: bool) -> None:
    described = Facts.model_validate({"name": MODEL, "version": "1", **facts})
    if fits:
        BOX.check(described)
        replace(BOX, agent=f"{BOX.agent}rc1").check(described)
    else:
        with pytest.raises(UpdateRefused, match=r"eyes@1 (needs|has files for|is for)"):
            BOX.check(described)


def test_the_box_says_what_it_is() -> None:
    with pytest.raises(WrongHardware, match=r"is for jetson; this box is till \(ota\.hardware\)"):
        Box(frozenset(), frozenset({"till"})).check(Facts(name=MODEL, version="1", hardware=("jetson",)))
