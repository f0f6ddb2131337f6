"""What may be done to a box through its repository, the mirror it is served by, or the line: TUF's attacks and some more.

Each starts from a box on which version 1 is active, and from a mirror in the attacker's hands. Real files, real keys, a real server.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from unittest import mock

from tuf.api.metadata import DelegatedRole, Metadata, TargetFile, Targets

from edge_agent.errors import (
    AgentTooOld,
    ClockUnsynchronised,
    DownloadError,
    EdgeAgentError,
    EndlessData,
    MetadataExpired,
    MixedMetadata,
    NoRoom,
    NotOffered,
    RolledBack,
    SlowRetrieval,
    Tampered,
    UpdateRefused,
    WrongHardware,
    WrongKey,
)
from edge_agent.ota import refusals, transfer
from edge_agent.ota.offer import bundle_path
from edge_agent.ota.repository import operations
from tests.file_server import Answer, leads_to
from tests.ota_fixtures import (
    BOX,
    MODEL,
    TEAM,
    Client,
    Mirror,
    Operator,
    forge,
    make_operator,
    mirror_of,
    past,
    stranger,
)


@dataclass
class World:
    """``wants`` is the version that the box asks for; None: what its channel says."""

    operator: Operator
    mirror: Mirror
    client: Client
    wants: str | None = None
    around: list[contextlib.AbstractContextManager[Any]] = field(default_factory=list)
    """What holds while the box tries."""

    def advance(self, version: str = "2.0", *, new_team: bool = False, **facts: Any) -> None:
        """The operator publishes (with a ``new_team`` there is a new version of every role), and the mirror has it."""
        if new_team:
            operations.add_key(self.operator.files(), "hamburg", operations.NewKey("team-hamburg"), None)
        self.operator.publish(version, **facts)
        self.mirror.copy()

    def impatient(self) -> None:
        """Hours become seconds."""
        self.around += [
            mock.patch.object(refusals, "FILE_S", 2.0),
            mock.patch.object(transfer, "SILENCE_S", 1.0),
            mock.patch.object(transfer, "PAUSE_S", 0.01),
        ]


@dataclass(frozen=True)
class Attack:
    """``prepare`` sets the stage; then the box asks for an update, and must refuse with ``expected``."""

    name: str
    prepare: Callable[[World], None]
    expected: type[EdgeAgentError]
    stolen: tuple[str, ...] = ()
    """Roles whose keys the operator replaces afterwards."""


@dataclass(frozen=True)
class Outcome:
    """``refused`` with which error, what it said, and whether nothing of the store had changed and the box could go on afterwards."""

    error: str
    text: str
    untouched: bool
    whole: bool
    recovered: bool

    def held(self, attack: Attack) -> bool:
        return self.error == attack.expected.__name__ and self.untouched and self.whole and self.recovered


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    operator = make_operator(folder / "operator")
    operator.publish("1.0")
    with mirror_of(operator, folder / "mirror") as mirror:
        assert mirror.server is not None
        box = Client(folder / "box", mirror.server.url, operator.root)
        box.update()
        yield World(operator, mirror, box)


def perform(attack: Attack, folder: Path) -> Outcome:
    """Do it to a fresh box."""
    with world(folder) as scene:
        attack.prepare(scene)
        before = scene.client.everything()
        error, text = "", "accepted"
        with contextlib.ExitStack() as stack:
            for context in scene.around:
                stack.enter_context(context)
            try:
                scene.client.install(scene.wants)
            except EdgeAgentError as refusal:
                error, text = type(refusal).__name__, str(refusal)
            else:
                job = scene.client.store.read().job
                if job is not None and job.state == "rolled_back":
                    error, text = _by_code(job.reason), job.detail
        after = scene.client.everything()
        state = scene.client.store.read()
        # The job is written down once a bundle is being fetched; nothing else may have changed.
        before.pop("state.json"), after.pop("state.json")
        untouched = before == after and state.active is not None and state.active.version == "1.0"
        whole = state.active is not None and scene.client.store.is_whole(state.active)
        return Outcome(error, text, untouched, whole, _recovers(scene, attack))


def _by_code(code: str) -> str:
    return next(a.expected.__name__ for a in ATTACKS if getattr(a.expected, "code", "") == code)


def _recovers(scene: World, attack: Attack) -> bool:
    """The attacker is gone, the operator publishes: the box updates as if nothing had been."""
    _rotate(scene.operator, *attack.stolen)
    scene.operator.publish("9.0")
    scene.mirror.copy()
    client = replace(
        scene.client,
        clock_ok=True,
        wall=None,
        box=BOX,
        settings={},
        url=str(scene.mirror.server and scene.mirror.server.url),
    )
    stored = client.update()
    return stored.active is not None and stored.active.version == "9.0" and client.store.is_whole(stored.active)


# ---- the bundle


def other_content(w: World) -> None:
    w.advance()
    path = w.mirror.bundle("2.0")
    path.write_bytes(bytes(path.stat().st_size))


def one_bit(w: World) -> None:
    w.advance()
    path = w.mirror.bundle("2.0")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def older_bundle(w: World) -> None:
    w.advance()
    shutil.copy(w.mirror.bundle("1.0"), w.mirror.bundle("2.0"))


def cut_short(w: World) -> None:
    w.advance()
    w.impatient()
    path = w.mirror.bundle("2.0")
    path.write_bytes(path.read_bytes()[:-1000])


def endless_bundle(w: World) -> None:
    w.advance()
    path = w.mirror.bundle("2.0")
    w.mirror.answers[w.mirror.target(path)] = _endless(path.read_bytes())


def trickling_bundle(w: World) -> None:
    w.advance()
    w.impatient()
    w.around.append(mock.patch.object(transfer, "SLOWEST", 1 << 20))
    w.mirror.answers[w.mirror.target(w.mirror.bundle("2.0"))] = _trickle(w)


def byte_by_connection(w: World) -> None:
    w.advance()
    w.impatient()
    w.around.append(mock.patch.object(transfer, "SLOWEST", 1 << 20))
    assert w.mirror.server is not None
    w.mirror.server.cuts += [10_000_000] * 4 + [1] * 100_000  # the metadata comes, the bundle a byte at a time


ONLINE = ("snapshot", "timestamp")
ALL = (TEAM, *ONLINE)


def hostile_bundle(name: str, content: bytes) -> Attack:
    """Signed by a team whose key was stolen."""

    def prepare(w: World) -> None:
        _sign_target(w, content)

    return Attack(f"bundle signed with a stolen team key: {name}", prepare, Tampered, ALL)


def _sign_target(w: World, content: bytes, path: str = "", **custom: Any) -> None:
    path = path or bundle_path(TEAM, MODEL, "3.0")
    target = TargetFile.from_data(path, content, ["sha256"])
    target.unrecognized_fields["custom"] = {"name": MODEL, "version": "3.0", **custom}
    place = w.mirror.folder / "targets" / target.get_prefixed_paths()[0]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)

    def add(signed: Any) -> None:
        signed.targets[path] = target

    _publish_forged(w, TEAM, add, w.operator.signer(TEAM))
    w.wants = "3.0"


def _publish_forged(w: World, role: str, change: Callable[[Any], None], *signers: Any) -> None:
    """Whoever has these keys, and those of snapshot and timestamp, publishes a new version of ``role``."""
    number = int(w.mirror.newest(role).name.partition(".")[0]) + 1

    def bump(signed: Any) -> None:
        signed.version = number
        change(signed)

    forge(w.mirror.newest(role), bump, *signers, to=w.mirror.metadata / f"{number}.{role}.json")
    _snapshot(w, {f"{role}.json": number})


def _snapshot(w: World, versions: dict[str, int]) -> None:
    old = int(w.mirror.newest("snapshot").name.partition(".")[0])

    def change(signed: Any) -> None:
        signed.version = old + 1
        for name, version in versions.items():
            signed.meta[name].version = version

    forge(
        w.mirror.newest("snapshot"),
        change,
        w.operator.signer("snapshot"),
        to=w.mirror.metadata / f"{old + 1}.snapshot.json",
    )
    _timestamp(w, old + 1)


def _timestamp(w: World, snapshot: int, version: int | None = None) -> None:
    def change(signed: Any) -> None:
        signed.version = version or signed.version + 1
        signed.snapshot_meta.version = snapshot

    forge(w.mirror.newest("timestamp"), change, w.operator.signer("timestamp"))


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _member(name: str, content: bytes = b"x", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


_MANIFEST = _member("manifest.yaml", b"name: eyes\n")
HOSTILE_BUNDLES = {
    "a path out of its folder": _tar(_MANIFEST, _member("../../../owned")),
    "an absolute path": _tar(_MANIFEST, _member("/tmp/owned")),
    "a symbolic link": _tar(_MANIFEST, _member("x", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link": _tar(_MANIFEST, _member("x", type=tarfile.LNKTYPE, linkname="manifest.yaml")),
    "a device": _tar(_MANIFEST, _member("x", type=tarfile.CHRTYPE, devmajor=1, devminor=1)),
    "a pipe": _tar(_MANIFEST, _member("x", type=tarfile.FIFOTYPE)),
    "a folder": _tar(_MANIFEST, _member("x", type=tarfile.DIRTYPE)),
    "one name twice": _tar(_MANIFEST, _MANIFEST),
    "a long name in an extended header": _tar(_MANIFEST, _member("x" * 300)),
    "ten thousand files": _tar(_MANIFEST, *(_member(f"f{n}") for n in range(10_000))),
    "a time and an owner": _tar(_member("manifest.yaml", mtime=1_700_000_000, uid=1000)),
    "no manifest": _tar(_member("network.onnx")),
    "no archive at all": b"\x89PNG" * 1000,
    "a size that is not there": _tar(_MANIFEST).replace(b"00000000013", b"77777777777"),
}


# ---- the metadata


def strange_key(role: str) -> Callable[[World], None]:
    def prepare(w: World) -> None:
        w.advance(new_team=True)
        forge(w.mirror.newest(role), lambda _: None, stranger())

    return prepare


def changed_after_signing(role: str) -> Callable[[World], None]:
    def change(signed: Any) -> None:
        signed.expires = signed.expires.replace(year=signed.expires.year + 10)

    def prepare(w: World) -> None:
        w.advance(new_team=True)
        forge(w.mirror.newest(role), change)

    return prepare


def unsigned(w: World) -> None:
    w.advance()
    path = w.mirror.newest("timestamp")
    path.write_text(json.dumps({**json.loads(path.read_text()), "signatures": []}))


def instead_of(role: str, content: bytes) -> Callable[[World], None]:
    def prepare(w: World) -> None:
        w.advance()
        w.mirror.newest(role).write_bytes(content)

    return prepare


def endless(role: str) -> Callable[[World], None]:
    def prepare(w: World) -> None:
        w.advance()
        path = w.mirror.newest(role) if role != "root" else w.mirror.metadata / "2.root.json"
        w.mirror.answers[w.mirror.target(path)] = _endless(b'{"signatures": [], "signed": {')

    return prepare


def silent(w: World) -> None:
    w.impatient()
    w.mirror.answers["/metadata/timestamp.json"] = lambda _: time.sleep(4)


def trickling(w: World) -> None:
    w.impatient()
    w.mirror.answers["/metadata/timestamp.json"] = _trickle(w)


def rolled_back(w: World) -> None:
    w.client.client().look(MODEL)
    old = shutil.copytree(w.mirror.folder, w.mirror.folder.with_name("old"))
    w.advance()
    w.client.client().look(MODEL)
    shutil.rmtree(w.mirror.folder)
    shutil.move(old, w.mirror.folder)


def rolled_back_by_online_keys(w: World) -> None:
    """Keys of snapshot and timestamp were stolen: they vouch for an older state of a team."""
    w.advance()
    w.client.client().look(MODEL)
    number = int(w.mirror.newest(TEAM).name.partition(".")[0])
    _snapshot(w, {f"{TEAM}.json": number - 1})


def snapshot_rolled_back(w: World) -> None:
    """The key of the timestamp was stolen: it vouches for an older snapshot."""
    w.advance()
    w.client.client().look(MODEL)
    _timestamp(w, int(w.mirror.newest("snapshot").name.partition(".")[0]) - 1)


def expired(role: str) -> Callable[[World], None]:
    """The mirror goes on serving what was right once: nobody may learn of what came after."""

    def prepare(w: World) -> None:
        w.advance(new_team=True)
        forge(w.mirror.newest(role), past, w.operator.signer(role))

    return prepare


def expired_root(w: World) -> None:
    """The root that this box knows has expired, and nobody lets it see the next one."""

    def change(signed: Any) -> None:
        past(signed)
        signed.version = 2

    forge(
        w.mirror.newest("root"),
        change,
        *(w.operator.signer("root", n) for n in (0, 1)),
        to=w.mirror.metadata / "2.root.json",
    )


def mixed(role: str) -> Callable[[World], None]:
    """Under the name of the new file lies the old one, as it was signed."""

    def prepare(w: World) -> None:
        old = w.mirror.newest(role).read_bytes()
        w.advance()
        w.mirror.newest(role).write_bytes(old)

    return prepare


def fast_forward(w: World) -> None:
    """The stolen key of the timestamp signs the highest version there is. The operator gives that role and the snapshot new keys."""
    _timestamp(w, int(w.mirror.newest("snapshot").name.partition(".")[0]), version=2**31 - 1)
    w.client.client().look(MODEL)
    w.advance()


def _rotate(operator: Operator, *roles: str) -> None:
    for role in roles:
        old = operator.signer(role).public_key.keyid
        operations.add_key(operator.files(), role, operations.NewKey(f"{role}-new"), None)
        operations.remove_key(operator.files(), role, old, None)


def one_root_key(w: World) -> None:
    """One of the three root keys, of which two must sign, was stolen: it makes a root of its own."""
    w.advance()
    thief = stranger()

    def change(signed: Any) -> None:
        signed.version = 2
        signed.add_key(thief.public_key, "timestamp")

    path = w.mirror.metadata / "2.root.json"
    forge(w.mirror.newest("root"), change, w.operator.signer("root"), to=path)


def own_root(w: World) -> None:
    """A root that trusts the attacker alone, signed by the attacker alone."""
    thief = stranger()

    def change(signed: Any) -> None:
        signed.version = 2
        for role in signed.roles.values():
            role.keyids, role.threshold = [thief.public_key.keyid], 1
        signed.keys = {thief.public_key.keyid: thief.public_key}

    forge(w.mirror.newest("root"), change, thief, to=w.mirror.metadata / "2.root.json")


def skipped_root(w: World) -> None:
    for name in ("more-1", "more-2"):
        operations.add_key(w.operator.files(), "timestamp", operations.NewKey(name), None)
    w.advance()
    shutil.copy(w.mirror.newest("root"), w.mirror.metadata / "2.root.json")


def removed_key(role: str) -> Callable[[World], None]:
    """The key was stolen; the operator has replaced it since. What it signs must not count any more."""

    def prepare(w: World) -> None:
        thief = w.operator.signer(role)
        _rotate(w.operator, role)
        w.advance()
        forge(w.mirror.newest(role), lambda _: None, thief)

    return prepare


def beyond_its_paths(w: World) -> None:
    """A team signs for what is another team's."""
    operations.add_key(w.operator.files(), "berlin", operations.NewKey("team-berlin"), None)
    w.advance()
    content = w.mirror.bundle("2.0").read_bytes()
    path = bundle_path(TEAM, MODEL, "3.0")
    target = TargetFile.from_data(path, content, ["sha256"])
    target.unrecognized_fields["custom"] = {"name": MODEL, "version": "3.0"}
    shutil.copy(w.mirror.bundle("2.0"), w.mirror.bundle("2.0").with_name(f"{target.hashes['sha256']}.3.0.tar"))
    _publish_forged(w, "berlin", lambda signed: signed.targets.update({path: target}), w.operator.signer("berlin"))
    w.wants = "3.0"


def own_delegation(w: World) -> None:
    """The mirror adds a role of its own to those that may sign for this team's models."""
    w.advance(new_team=True)
    thief = stranger()

    def change(signed: Any) -> None:
        signed.delegations.roles = {
            "evil": DelegatedRole("evil", [], 1, terminating=False, paths=[f"{TEAM}/*/*/*"]),
            **signed.delegations.roles,
        }
        signed.add_key(thief.public_key, "evil")

    evil: Metadata[Targets] = Metadata(Targets(version=1, expires=datetime(2100, 1, 1, tzinfo=timezone.utc)))
    evil.sign(thief)
    (w.mirror.metadata / "1.evil.json").write_bytes(evil.to_bytes())
    forge(w.mirror.newest("targets"), change)


def missing_role(w: World) -> None:
    w.advance()
    w.mirror.newest(TEAM).unlink()


# ---- what is honest and not for this box, and a box that is not fit


def other_hardware(w: World) -> None:
    w.advance(hardware=("jetson-orin",))


def other_backend(w: World) -> None:
    w.advance(backends=("tensorrt",))


def newer_agent(w: World) -> None:
    w.advance(min_agent="1.10")


def misplaced(w: World) -> None:
    """A team's stolen key signs an old version's bundle under a new one's path."""
    _sign_target(w, w.mirror.bundle("1.0").read_bytes(), name=MODEL, version="1.0")


def not_published(w: World) -> None:
    w.wants = "8.0"


def revoked(w: World) -> None:
    w.advance()
    operations.revoke(w.operator.files(), TEAM, MODEL, "2.0")
    w.mirror.copy()
    w.wants = "2.0"


def clock_of_1970(w: World) -> None:
    w.advance()
    w.client.wall = lambda: 1000.0


def clock_before_what_was_known(w: World) -> None:
    w.advance()
    known = float((w.client.state / "ota" / "time").read_text())
    w.client.wall = lambda: known - 86_400


def clock_that_nobody_keeps(w: World) -> None:
    w.advance()
    w.client.clock_ok = False


def full_disk(w: World) -> None:
    w.advance()
    w.client.settings["keep_free_mb"] = 1_000_000


def server_gone(w: World) -> None:
    w.client.url = "http://127.0.0.1:9"


def server_broken(w: World) -> None:
    w.mirror.answers["/metadata/timestamp.json"] = lambda handler: handler.send_error(500)


def leads_to_a_file(w: World) -> None:
    w.mirror.answers["/metadata/timestamp.json"] = leads_to(w.operator.root.as_uri())


# ---- answers


def _endless(beginning: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(beginning)
        while True:
            handler.wfile.write(bytes(1 << 16))

    return answer


def _trickle(w: World) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        assert w.mirror.server is not None
        while not w.mirror.server.over.wait(0.2):
            handler.wfile.write(b"{")

    return answer


_PORTAL = b"<!doctype html><title>Please log in</title>" * 50
ATTACKS = (
    Attack("arbitrary install: another bundle of the same length", other_content, Tampered),
    Attack("arbitrary install: one bit of the bundle", one_bit, Tampered),
    Attack("arbitrary install: an older bundle under the new one's name", older_bundle, Tampered),
    Attack("bundle cut short", cut_short, DownloadError),
    Attack("endless data: bundle", endless_bundle, EndlessData),
    Attack("slow retrieval: bundle trickles", trickling_bundle, SlowRetrieval),
    Attack("slow retrieval: a byte, and the connection ends, again and again", byte_by_connection, SlowRetrieval),
    *(hostile_bundle(name, content) for name, content in HOSTILE_BUNDLES.items()),
    *(
        Attack(f"arbitrary metadata: {role} signed by a stranger", strange_key(role), WrongKey)
        for role in ("timestamp", "snapshot", "targets", TEAM)
    ),
    *(
        Attack(f"arbitrary metadata: {role} changed after signing", changed_after_signing(role), WrongKey)
        for role in ("timestamp", "snapshot", "targets", TEAM)
    ),
    Attack("arbitrary metadata: no signatures", unsigned, WrongKey),
    Attack("no metadata: the page of a captive portal", instead_of("timestamp", _PORTAL), Tampered),
    Attack("no metadata: empty", instead_of("timestamp", b""), Tampered),
    Attack("no metadata: nested a thousand times", instead_of("timestamp", b"[" * 8000), Tampered),
    Attack(
        "no metadata: another role's", instead_of("snapshot", b'{"signatures":[],"signed":{"_type":"root"}}'), Tampered
    ),
    *(Attack(f"endless data: {role}", endless(role), EndlessData) for role in ("root", "timestamp", "snapshot", TEAM)),
    Attack("slow retrieval: silence", silent, SlowRetrieval),
    Attack("slow retrieval: metadata trickles", trickling, SlowRetrieval),
    Attack("rollback: an old state of the mirror", rolled_back, RolledBack),
    Attack("rollback: by stolen online keys, of a team", rolled_back_by_online_keys, RolledBack, ONLINE),
    Attack("rollback: by the stolen timestamp key, of the snapshot", snapshot_rolled_back, RolledBack, ONLINE),
    Attack("indefinite freeze: root expired", expired_root, MetadataExpired, ONLINE),
    *(
        Attack(f"indefinite freeze: {role} expired", expired(role), MetadataExpired)
        for role in ("timestamp", "snapshot", "targets", TEAM)
    ),
    *(Attack(f"mix and match: {role} of another state", mixed(role), MixedMetadata) for role in ("snapshot", TEAM)),
    Attack("fast forward: the stolen timestamp key signs version 2147483647", fast_forward, RolledBack, ONLINE),
    Attack("key compromise: one of two needed root keys", one_root_key, WrongKey),
    Attack("key compromise: a root of the attacker's own", own_root, WrongKey),
    Attack("key compromise: a root is skipped", skipped_root, MixedMetadata),
    *(
        Attack(f"key compromise: the replaced key of {role} still signs", removed_key(role), WrongKey)
        for role in ("timestamp", "snapshot", "targets", TEAM)
    ),
    Attack(
        "extraneous dependencies: another team signs for this team's model",
        beyond_its_paths,
        NotOffered,
        ("berlin", *ONLINE),
    ),
    Attack("extraneous dependencies: a role that nobody delegated to", own_delegation, WrongKey),
    Attack("metadata of the team held back", missing_role, DownloadError),
    Attack("wrong software: under another version's path", misplaced, UpdateRefused, ALL),
    Attack("wrong hardware", other_hardware, WrongHardware),
    Attack("wrong hardware: for another accelerator", other_backend, WrongHardware),
    Attack("too new for this agent", newer_agent, AgentTooOld),
    Attack("never published", not_published, NotOffered),
    Attack("revoked", revoked, NotOffered),
    Attack("clock: 1970", clock_of_1970, ClockUnsynchronised),
    Attack("clock: before what was known", clock_before_what_was_known, ClockUnsynchronised),
    Attack("clock: not synchronised", clock_that_nobody_keeps, ClockUnsynchronised),
    Attack("full disk", full_disk, NoRoom),
    Attack("server gone", server_gone, DownloadError),
    Attack("server broken", server_broken, DownloadError),
    Attack("redirect to a file of this box", leads_to_a_file, DownloadError),
)
