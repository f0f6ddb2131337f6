"""The box's side of a repository: what is offered to it, and the bundle itself. Nothing is believed but what is signed."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater, UpdaterConfig

from edge_agent.config_ota import OtaConfig
from edge_agent.durable import write_file
from edge_agent.errors import ConfigError, NotOffered, UpdateError, UpdateRefused, UsageError
from edge_agent.ota.offer import MODEL, Box, Bundle, Channel, Facts, bundle_path, channel_path, check_name
from edge_agent.ota.refusals import Fetcher, in_our_words
from edge_agent.ota.source import make_source
from edge_agent.ota.transfer import Progress, Wanted, transfer
from edge_agent.ota.trusted_time import TrustedTime

LIMITS = UpdaterConfig(
    max_root_rotations=64,
    max_delegations=8,
    root_max_length=1 << 18,
    timestamp_max_length=1 << 14,
    snapshot_max_length=1 << 20,
    targets_max_length=4 << 20,
)
CHANNEL_BYTES = 1 << 16
ROOT_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Offer:
    """A bundle that is signed and fits this box."""

    bundle: Bundle
    length: int
    path: str
    """Of the file, below the repository's targets."""
    installed_bytes: int = 0
    """What it takes beside the file and the same again unpacked."""


class RepositoryClient:
    """``folder`` keeps the metadata that was trusted last, the floor of time and what is half fetched. One at a time.

    ``kind``: of the bundles that it looks for.
    """

    def __init__(self, config: OtaConfig, folder: Path, box: Box, time: TrustedTime, kind: str = MODEL) -> None:
        if config.repository is None or config.root_file is None:
            raise UsageError(
                "no repository is configured: set ota.repository and ota.root_file (docs/update-models.md)"
            )
        self._config, self._folder, self._box, self._time = config, folder, box, time
        self._kind = kind
        self._base = config.repository.rstrip("/")
        self._source = make_source(config)

    def look(self, name: str, version: str | None = None) -> Offer:
        """What the repository has for this box: of ``name`` that ``version``, or the one that the channel says.

        Raises ClockUnsynchronised, DownloadError, UpdateRefused, NotOffered. Fetches a few kB.
        """
        self._time.check()
        fetcher = Fetcher(self._source)
        with self._metadata() as place, in_our_words(fetcher):
            updater = Updater(
                metadata_dir=str(place),
                metadata_base_url=f"{self._base}/metadata/",
                target_base_url=f"{self._base}/targets/",
                fetcher=fetcher,
                config=LIMITS,
                bootstrap=self._root(),
            )
            updater.refresh()
            wanted = version or self._offered(updater, place, name)
            target = updater.get_targetinfo(bundle_path(self._config.team, name, wanted))
            if target is None:
                raise NotOffered(f"{self._config.team} has not published {name}@{wanted}, or revoked it")
            return self._offer(target, name, wanted)

    def fetch(self, offer: Offer, progress: Progress, cancel: threading.Event) -> Path:
        """The bundle's file, complete and checked; it is the caller's to remove. Raises as ``transfer``."""
        folder = self._folder / "downloads"
        for other in folder.glob("*") if folder.exists() else ():
            if not other.name.startswith(offer.bundle.sha256):
                other.unlink()
        limit = self._config.max_kb_s
        wanted = Wanted(
            url=f"{self._base}/targets/{offer.path}",
            length=offer.length,
            sha256=offer.bundle.sha256,
            folder=folder,
            installed=offer.installed_bytes,
            keep_free=self._config.keep_free_mb << 20,
            max_bytes_s=None if limit is None else limit * 1000,
        )
        return transfer(self._source, wanted, progress, cancel)

    def _offered(self, updater: Updater, place: Path, name: str) -> str:
        config = self._config
        target = updater.get_targetinfo(channel_path(config.team, config.channel))
        if target is None:
            raise NotOffered(f"{config.team} has no channel {config.channel} (ota.team, ota.channel)")
        if target.length > CHANNEL_BYTES:
            raise UpdateRefused(f"channel {config.channel} has {target.length} bytes, which no channel needs")
        file = updater.download_target(target, str(place / "channel"))
        try:
            channel = Channel.model_validate_json(Path(file).read_bytes())
        except ValidationError as error:
            raise UpdateRefused(
                f"channel {config.channel} is signed but cannot be read: {error.errors()[0]['msg']}"
            ) from error
        if name not in channel.bundles:
            there = ", ".join(channel.bundles) or "nothing"
            raise NotOffered(f"{config.team}'s channel {config.channel} does not offer {name}; it offers {there}")
        return channel.bundles[name]

    def _offer(self, target: TargetFile, name: str, version: str) -> Offer:
        try:
            facts = Facts.model_validate(target.custom)
            bundle = Bundle(name=name, version=version, sha256=target.hashes.get("sha256", ""))
        except ValidationError as error:
            raise UpdateRefused(f"{target.path} is signed but not described as a bundle is") from error
        check_name(facts, name, version, self._kind)
        self._box.check(facts)
        return Offer(bundle, target.length, target.get_prefixed_paths()[0], facts.installed_bytes)

    def _root(self) -> bytes:
        path = self._config.root_file
        assert path is not None
        try:
            with path.open("rb") as file:
                return file.read(ROOT_BYTES)
        except OSError as error:
            raise ConfigError([f"ota.root_file: {path}: {error.strerror}"]) from error

    @contextlib.contextmanager
    def _metadata(self) -> Iterator[Path]:
        """A copy of the trusted metadata to work in; what is new in it afterwards is taken over file by file, durably.

        The library replaces files without waiting for the disk. After a power cut an empty one would be taken for none, and
        what this box knew about versions would be forgotten: an old state of the repository could be given to it again.
        """
        kept, work = self._folder / "metadata", self._folder / "metadata.work"
        try:
            shutil.rmtree(work, ignore_errors=True)
            (work / "root_history").mkdir(parents=True)
            (kept / "root_history").mkdir(parents=True, exist_ok=True)
            for name in _metadata_files(kept):
                shutil.copyfile(kept / name, work / name)
            try:
                yield work
            finally:
                for name in _metadata_files(work):
                    content = (work / name).read_bytes()
                    if not (kept / name).exists() or (kept / name).read_bytes() != content:
                        write_file(kept / name, content)
                shutil.rmtree(work, ignore_errors=True)
        except OSError as error:
            raise UpdateError(f"{self._folder}: {error.strerror or error}") from error


def _metadata_files(folder: Path) -> list[str]:
    """Roots first, by which the others are judged. The library's own link to the newest root is not one of them."""
    found = [*(folder / "root_history").glob("*.json"), *folder.glob("*.json")]
    return [os.path.relpath(path, folder) for path in found if not path.is_symlink()]
