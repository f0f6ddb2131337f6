"""``repo``: the update repository, on the operator's machine."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.cli.common import Verb, add_verb, out, positive
from edge_agent.errors import UsageError

if TYPE_CHECKING:
    from edge_agent.ota.offer import Facts
    from edge_agent.ota.repository.metadata import RepositoryFiles

VARIABLE = "EDGE_AGENT_REPO_PASSPHRASE"
MODEL = "NAME@VERSION"
TEAM, CONFIG_TEAM, RELEASE_TEAM = "models", "config", "agent"


def add(verbs: Any) -> None:
    """Add ``repo`` and its own verbs."""
    parser = verbs.add_parser("repo", help="sign and publish models, configurations and releases for boxes to fetch")
    own = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_keys(own)
    _add_models(own)
    _add_pack(own)
    _verb(own, "refresh", _refresh, "vouch for the present state again, before it expires (from cron)", "refresh repo/")
    about = "every role: version, expiry, keys; every channel: what it offers; what waits for signatures"
    _verb(own, "status", _status, about, "status repo/", days=False)


def _add_keys(verbs: Any) -> None:
    about = "make a repository: its keys, and signed files that a web server can serve"
    parser = _verb(verbs, "init", _init, about, "init repo/ --root-keys 3 --threshold 2")
    parser.add_argument(
        "--root-keys", type=positive, default=1, metavar="N", help="keys of the root; default: %(default)s"
    )
    parser.add_argument("--threshold", type=positive, metavar="K", help="of them must sign; default: more than half")
    parser.add_argument("--team", default="models", help="the first role that may publish; default: %(default)s")
    about = "give a role one more key; a role that is not there becomes a new team's"
    parser = _verb(verbs, "add-key", _add_key, about, "add-key repo/ --role berlin")
    _role(parser)
    parser.add_argument("--name", help="of the new key's file; default: the role and a number")
    parser.add_argument("--public", type=Path, metavar="PEM", help="of somebody who keeps the private key")
    parser.add_argument("--uri", help="where the private key of --public is: hsm:…, awskms:…, gcpkms:…, azurekms:…")
    parser = _verb(
        verbs,
        "remove-key",
        _remove_key,
        "a key is lost or known to others",
        "remove-key repo/ --role berlin team-berlin",
    )
    _role(parser)
    parser.add_argument("key", help="its file's name, or the beginning of its id")
    about = "sign what waits for more signatures, with the keys that are here"
    _verb(verbs, "sign", _sign, about, "sign repo/ --keys /media/stick/keys", days=False)


def _add_models(verbs: Any) -> None:
    about = "publish a model version, a part of the configuration, or a release of the agent"
    parser = _verb(verbs, "publish", _publish, about, "publish repo/ person-n@1.1.0 --channel canary")
    what = "in the folder of models, or of --config; or FILE.tar, which `repo pack` made"
    parser.add_argument("model", metavar=MODEL, help=what)
    parser.add_argument("--models-dir", type=Path, default=Path("models"), metavar="DIR", help="default: %(default)s")
    layer = "a part of the configuration (YAML), under that name and version"
    parser.add_argument("--config", type=Path, metavar="FILE", help=layer)
    parser.add_argument("--min-agent", default="0", metavar="VERSION", help="of edge-agent that it needs")
    parser.add_argument(
        "--hardware", nargs="*", default=[], metavar="NAME", help="it is for any of these; default: all"
    )
    _team(parser)
    parser = _verb(
        verbs,
        "promote",
        _promote,
        "offer a published version in a channel",
        "promote repo/ person-n@1.1.0 --channel stable",
    )
    parser.add_argument("model", metavar=MODEL)
    _team(parser)
    parser = _verb(verbs, "revoke", _revoke, "offer a version no more, anywhere", "revoke repo/ person-n@1.1.0")
    parser.add_argument("model", metavar=MODEL)
    _team(parser, channel=False)


def _add_pack(verbs: Any) -> None:
    about = "make a release's archive of a folder of wheels, for `repo publish` and for `edge-agent update --from`"
    parser = add_verb(verbs, "pack", _pack, about, "repo pack wheelhouse/ --model person-n@1.0.0", config=False)
    parser.add_argument(
        "wheels", type=Path, metavar="DIR", help="all wheels, the agent's own among them; or an unpacked bundle"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: its name and version, .tar, here")
    parser.add_argument(
        "--model", action="append", default=[], metavar=MODEL, help="goes along; the release's folder `models` has it"
    )
    parser.add_argument("--models-dir", type=Path, default=Path("models"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--root", type=Path, metavar="FILE", help="a repository's 1.root.json, for first installations")
    parser.add_argument("--name", help="for a set of wheels of one's own; default: edge-agent-MACHINE-pyX.Y")


def _verb(verbs: Any, name: str, verb: Verb, about: str, example: str, *, days: bool = True) -> argparse.ArgumentParser:
    parser = add_verb(verbs, name, verb, about, f"repo {example}", config=False)
    parser.add_argument("folder", type=Path, metavar="DIR", help="of the repository; DIR/public is what to serve")
    parser.add_argument(
        "--keys",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="further folder with keys, first for new ones",
    )
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help=f"its first line; or set {VARIABLE}; default: asked for"
    )
    if days:
        parser.add_argument(
            "--days", action="append", default=[], metavar="ROLE=N", help="how long what ROLE signs now is valid"
        )
    return parser


def _role(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", required=True, help="root, targets, snapshot, timestamp or a team")
    parser.add_argument("--threshold", type=positive, metavar="K", help="so many of its keys must sign from now on")


def _team(parser: argparse.ArgumentParser, *, channel: bool = True) -> None:
    default = "default: whoever published it; at first models, of a configuration config, of a release agent"
    parser.add_argument("--team", help=f"the role that publishes; {default}")
    if channel:
        parser.add_argument("--channel", required=True, help="canary, stable, …")


# ---- the work


def _init(args: argparse.Namespace) -> int:
    from edge_agent.ota.repository.operations import init

    threshold = args.threshold or args.root_keys // 2 + 1
    init(_files(args), args.team, args.root_keys, threshold)
    root = args.folder / "public" / "metadata" / "1.root.json"
    words = f"serve {args.folder / 'public'}; give each box {root} as ota.root_file; keep the root keys offline"
    return _tell(args, words, root=str(root))


def _add_key(args: argparse.Namespace) -> int:
    from edge_agent.ota.repository.keys import read_public
    from edge_agent.ota.repository.operations import NewKey, add_key

    if args.uri and not args.public:
        raise UsageError("--uri needs --public: the public key that belongs to it, PEM")
    files = _files(args)
    public = read_public(args.public) if args.public else None
    key = add_key(
        files, args.role, NewKey(args.name or files.keyring.free_name(args.role), public, args.uri), args.threshold
    )
    return _tell(args, f"{args.role} has one more key: {key.keyid}", key=key.keyid)


def _remove_key(args: argparse.Namespace) -> int:
    from edge_agent.ota.repository.operations import remove_key

    remove_key(_files(args), args.role, args.key, args.threshold)
    return _tell(args, f"{args.key} signs for {args.role} no more")


def _sign(args: argparse.Namespace) -> int:
    from edge_agent.ota.repository.operations import sign

    done = sign(_files(args))
    return _tell(args, f"complete: {', '.join(done) or 'nothing waited'}", complete=done)


def _publish(args: argparse.Namespace) -> int:
    if args.model.endswith(".tar"):
        return _publish_release(args)
    if args.config is not None:
        return _publish_config(args)
    from edge_agent.detect.manifest import load_model
    from edge_agent.ota.repository.operations import publish

    name, version = _name(args.model)
    model = load_model(args.models_dir / name / version)
    described = {
        "name": name,
        "version": version,
        "min_agent": args.min_agent,
        "backends": sorted({file.backend for file in model.manifest.files}),
        "hardware": args.hardware,
    }
    bundle = publish(_files(args), args.team or TEAM, model.folder, _facts(described), args.channel)
    if model.manifest.golden is None:
        sys.stderr.write(f"warning: {bundle.label} has no golden pictures: boxes cannot tell whether it sees\n")
    return _tell(args, f"{bundle.label} is offered in {args.channel}; SHA-256 {bundle.sha256}", sha256=bundle.sha256)


def _publish_config(args: argparse.Namespace) -> int:
    from edge_agent.config_bundle import write_layer
    from edge_agent.ota.offer import CONFIG
    from edge_agent.ota.repository.operations import publish

    name, version = _name(args.model)
    described = {
        "name": name,
        "version": version,
        "kind": CONFIG,
        "min_agent": args.min_agent,
        "hardware": args.hardware,
    }
    facts = _facts(described)
    with tempfile.TemporaryDirectory() as work:
        write_layer(Path(work), name, version, args.config)
        bundle = publish(_files(args), args.team or CONFIG_TEAM, Path(work), facts, args.channel)
    return _tell(args, f"{bundle.label} is offered in {args.channel}; SHA-256 {bundle.sha256}", sha256=bundle.sha256)


def _publish_release(args: argparse.Namespace) -> int:
    from edge_agent.ota.bundle import unpack
    from edge_agent.ota.offer import AGENT
    from edge_agent.ota.release import Release, archive_sha256
    from edge_agent.ota.repository.operations import publish

    archive = Path(args.model)
    sha256 = archive_sha256(archive)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="publish-") as work:
        folder = Path(work) / "release"
        unpack(archive, folder, sha256)
        release = Release.read(folder)
        described = {
            "name": release.name,
            "version": release.version,
            "kind": AGENT,
            "min_agent": args.min_agent,
            "hardware": args.hardware or [release.machine],
            "installed_bytes": release.installed_bytes,
        }
        bundle = publish(_files(args), args.team or RELEASE_TEAM, folder, _facts(described), args.channel)
    return _tell(args, f"{bundle.label} is offered in {args.channel}; SHA-256 {bundle.sha256}", sha256=bundle.sha256)


def _facts(described: dict[str, Any]) -> Facts:
    from pydantic import ValidationError

    from edge_agent.ota.offer import Facts

    try:
        return Facts.model_validate(described)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UsageError(f"--{wrong['loc'][0]} {wrong['input']!r}: {wrong['msg']}".replace("_", "-", 1)) from error


def _pack(args: argparse.Namespace) -> int:
    from edge_agent.detect.manifest import load_model
    from edge_agent.ota.repository.pack import pack, pack_bundle

    models = [load_model(args.models_dir.joinpath(*_name(model))) for model in args.model]
    described = [(model.manifest.name, model.manifest.version, model.folder) for model in models]
    given = {"models": described, "root": args.root, "name": args.name}
    if (args.wheels / "wheels").is_dir():
        packed = pack_bundle(args.wheels, args.out, **{key: value for key, value in given.items() if value})
    else:
        packed = pack(args.wheels, args.out, **given)
    release = packed.release
    words = f"{packed.path}: {packed.wheels} wheels, {packed.bytes >> 20} MiB, for {release.machine}, Python {release.python}"
    return _tell(args, words, path=str(packed.path), sha256=packed.sha256, name=release.name, version=release.version)


def _promote(args: argparse.Namespace) -> int:
    from edge_agent.ota.repository.operations import promote

    files = _files(args)
    promote(files, _team_of(args, files), *_name(args.model), args.channel)
    return _tell(args, f"{args.model} is offered in {args.channel}")


def _revoke(args: argparse.Namespace) -> int:
    from edge_agent.ota.repository.operations import revoke

    files = _files(args)
    had = revoke(files, _team_of(args, files), *_name(args.model))
    words = f"; nothing of that name is offered now in {', '.join(had)}" if had else ""
    return _tell(args, f"{args.model} is offered no more{words}", channels=had)


def _refresh(args: argparse.Namespace) -> int:
    from edge_agent.ota.repository.operations import refresh

    done = refresh(_files(args))
    return _tell(args, f"signed anew: {', '.join(done)}", roles=done)


def _status(args: argparse.Namespace) -> int:
    from edge_agent.cli.model_common import show_on_screen
    from edge_agent.ota.repository.status import status, tables

    found = status(_files(args))
    if args.json:
        out(json.dumps({"ok": True, **found}))
    else:
        for table in tables(found):
            show_on_screen(table)
    return 0


# ---- what they share


def _files(args: argparse.Namespace) -> RepositoryFiles:
    from edge_agent.ota.repository.keys import Keyring
    from edge_agent.ota.repository.metadata import RepositoryFiles

    days = {}
    for text in getattr(args, "days", []):
        role, _, number = text.partition("=")
        if not role or not number.isdecimal() or not 0 < int(number) < 10_000:
            raise UsageError(f"--days {text}: give ROLE=DAYS, for example timestamp=30")
        days[role] = int(number)
    if args.verb is not _init and not (args.folder / "public" / "metadata").is_dir():
        raise UsageError(f"{args.folder}: no repository there; make one with `edge-agent repo init {args.folder}`")
    keyring = Keyring(args.folder, lambda name, new: _passphrase(args.passphrase_file, name, new=new), args.keys)
    return RepositoryFiles(args.folder, keyring, days)


def _passphrase(file: Path | None, name: str, *, new: bool) -> str:
    from edge_agent.config import read_secret

    if file is not None or os.environ.get(VARIABLE):
        return read_secret(file, VARIABLE) or ""
    if not sys.stdin.isatty():
        raise UsageError(
            f"the passphrase of {name} cannot be asked for here: give --passphrase-file, or set {VARIABLE}"
        )
    secret = getpass.getpass(f"{'New passphrase' if new else 'Passphrase'} of {name}: ")
    if new and getpass.getpass("Once more: ") != secret:
        raise UsageError("the two were not the same")
    return secret


def _name(model: str) -> tuple[str, str]:
    name, _, version = model.partition("@")
    if not name or not version:
        raise UsageError(f"{model}: give {MODEL}")
    return name, version


def _team_of(args: argparse.Namespace, files: RepositoryFiles) -> str:
    """Who published it. Raises UsageError where several teams did."""
    from edge_agent.ota.offer import bundle_path

    if args.team:
        return str(args.team)
    name, version = _name(args.model)
    teams = [team for team in files.teams() if bundle_path(team, name, version) in files.targets(team).targets]
    if len(teams) > 1:
        raise UsageError(f"{args.model} was published by {' and '.join(teams)}: say --team")
    return teams[0] if teams else TEAM


def _tell(args: argparse.Namespace, words: str, **facts: object) -> int:
    out(json.dumps({"ok": True, **facts}) if args.json else words)
    return 0
