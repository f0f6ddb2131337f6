"""A repository with real keys, an operator who changes it, a mirror that others change, and a box that fetches from there."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Key, Metadata
from tuf.api.serialization.json import JSONSerializer

from edge_agent.config_ota import OtaConfig
from edge_agent.ota.activation import Activation, Progress
from edge_agent.ota.client import RepositoryClient
from edge_agent.ota.job import Job, Stored
from edge_agent.ota.offer import Box, Bundle, Facts
from edge_agent.ota.repository import operations
from edge_agent.ota.repository.keys import Keyring
from edge_agent.ota.repository.metadata import RepositoryFiles
from edge_agent.ota.store import ModelStore
from edge_agent.ota.trusted_time import TrustedTime
from tests.file_server import Answer, Server, serve

TEAM, MODEL = "models", "eyes"
BOX = Box(frozenset({"onnxruntime"}), frozenset({"x86_64", "till"}), "1.2.3")
PASSPHRASE = "only for tests, this one"


def model_folder(folder: Path, version: str, size: int = 50_000) -> Path:
    """Something with a manifest and a network, as far as a bundle cares; other content for each version."""
    place = folder / MODEL / version
    place.mkdir(parents=True)
    place.joinpath("manifest.yaml").write_text(f"name: {MODEL}\nversion: {version}\n")
    place.joinpath("network.onnx").write_bytes(version.encode() + os.urandom(64) * (size // 64))
    place.joinpath("LICENSE").write_text("Apache-2.0\n")
    return place


@dataclass
class Operator:
    """Who owns the repository in ``folder``."""

    folder: Path

    @property
    def public(self) -> Path:
        return self.folder / "public"

    @property
    def root(self) -> Path:
        return self.public / "metadata" / "1.root.json"

    def files(self, days: dict[str, int] | None = None, *more: Path) -> RepositoryFiles:
        """As every command opens it anew."""
        return RepositoryFiles(self.folder, Keyring(self.folder, lambda _name, _new: PASSPHRASE, more), days)

    def signer(self, role: str, number: int = 0) -> Signer:
        """A private key of a role: what is stolen."""
        files = self.files()
        signer = files.keyring.signer(files.keys(role)[0][number])
        assert signer is not None
        return signer

    def publish(self, version: str, channel: str = "stable", *, size: int = 50_000, **facts: Any) -> Bundle:
        """A new version of MODEL."""
        place = model_folder(self.folder / "made", version, size)
        described = Facts(name=MODEL, version=version, **({"backends": ("onnxruntime",)} | facts))
        return operations.publish(self.files(), TEAM, place, described, channel)


def make_operator(folder: Path, *, root_keys: int = 3, threshold: int = 2) -> Operator:
    """With a repository in which nothing is published."""
    operator = Operator(folder)
    operations.init(operator.files(), TEAM, root_keys, threshold)
    return operator


@dataclass
class EasyWorkshop:
    """Whatever a model does here: by default it is good."""

    done: list[str] = field(default_factory=list)
    compiling: Callable[[Path], None] = lambda _: None
    testing: Callable[[Path], None] = lambda _: None

    def compile(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        self.done.append("compile")
        self.compiling(folder)

    def self_test(self, folder: Path, progress: Progress, cancel: threading.Event) -> None:
        self.done.append("self_test")
        self.testing(folder)


@dataclass
class Client:
    """A box: its state folder, and where it is told to fetch from."""

    state: Path
    url: str
    root: Path
    box: Box = BOX
    clock_ok: bool = True
    wall: Callable[[], float] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    workshop: EasyWorkshop = field(default_factory=EasyWorkshop)

    @property
    def store(self) -> ModelStore:
        return ModelStore(self.state / "models")

    def client(self) -> RepositoryClient:
        config = OtaConfig.model_validate(
            {"repository": self.url, "root_file": self.root, "keep_free_mb": 0, **self.settings}
        )
        clock = TrustedTime(self.state / "ota" / "time", lambda: self.clock_ok, self.wall or _now)
        return RepositoryClient(config, self.state / "ota", self.box, clock)

    def activation(self, **options: Any) -> Activation:
        return Activation(self.store, self.workshop, **options)

    def install(self, version: str | None = None, *, again: bool = False) -> Job | None:
        """Up to a model that is ready."""
        client = self.client()
        offer = client.look(MODEL, version)
        return self.activation().install(client, offer, threading.Event(), again=again)

    def update(self, version: str | None = None) -> Stored:
        """To the very end."""
        self.install(version)
        activation = self.activation()
        activation.activate(None)
        activation.confirm()
        return activation.stored

    def everything(self) -> dict[str, bytes]:
        """The content of the store: what no refused update may change."""
        folder = self.state / "models"
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _now() -> float:
    return datetime.now(timezone.utc).timestamp()


@dataclass
class Mirror:
    """A copy of what is served, on a real server, in other hands. ``answers`` take the place of files."""

    folder: Path
    operator: Operator
    answers: dict[str, Answer] = field(default_factory=dict)
    server: Server | None = None

    def copy(self) -> None:
        """Serve what the operator has now, and nothing else."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.operator.public, self.folder)
        self.answers.clear()
        if self.server is not None:
            self.server.cuts.clear()

    @property
    def metadata(self) -> Path:
        return self.folder / "metadata"

    def newest(self, role: str) -> Path:
        """The file of a role that counts."""
        if role == "timestamp":
            return self.metadata / "timestamp.json"
        return max(self.metadata.glob(f"*.{role}.json"), key=lambda path: int(path.name.partition(".")[0]))

    def bundle(self, version: str) -> Path:
        (found,) = self.folder.glob(f"targets/{TEAM}/bundles/{MODEL}/*.{version}.tar")
        return found

    def target(self, path: Path) -> str:
        """Of a file here, as it is asked for."""
        return "/" + str(path.relative_to(self.folder))


@contextmanager
def mirror_of(operator: Operator, folder: Path) -> Iterator[Mirror]:
    mirror = Mirror(folder, operator)
    mirror.copy()
    with serve(mirror.answers, folder=folder) as server:
        mirror.server = server
        yield mirror


def forge(path: Path, change: Callable[[Any], None], *signers: Signer, to: Path | None = None) -> None:
    """Change what is signed and sign it anew with ``signers``; without any the old signatures stay."""
    md: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    change(md.signed)
    if signers:
        md.signatures.clear()
        for signer in signers:
            md.sign(signer, append=True)
    (to or path).write_bytes(md.to_bytes(JSONSerializer(compact=False)))


def past(signed: Any) -> None:
    """Let it have expired an hour ago."""
    signed.expires = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(hours=1)


def stranger() -> CryptoSigner:
    """A key that nobody trusts."""
    return CryptoSigner.generate_ed25519()


def public(signer: Signer) -> Key:
    return signer.public_key
