"""The operator's side: keys, thresholds, channels, and what a box makes of each change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from edge_agent.errors import NotOffered, UsageError, WrongKey
from edge_agent.ota.bundle import digest
from edge_agent.ota.offer import Facts
from edge_agent.ota.repository import operations
from edge_agent.ota.repository.keys import Keyring, read_public
from edge_agent.ota.repository.metadata import RepositoryFiles, Waiting
from edge_agent.ota.repository.status import status
from tests.ota_fixtures import MODEL, TEAM, Client, Operator, make_operator, model_folder


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return make_operator(tmp_path / "operator")


@pytest.fixture
def box(operator: Operator, tmp_path: Path) -> Client:
    """It fetches from the folder itself, as from a stick."""
    return Client(tmp_path / "box", operator.public.as_uri(), operator.root)


def offered(operator: Operator, channel: str) -> dict[str, str]:
    files = operator.files()
    found = operations.channels(files, files.targets(TEAM), TEAM).get(channel)
    return dict(found.bundles) if found is not None else {}


def served(operator: Operator) -> list[str]:
    return sorted(path.name for path in (operator.public / "targets").rglob("*") if path.is_file())


# ---- models and channels


def test_a_version_goes_from_canary_to_stable_and_away(operator: Operator, box: Client) -> None:
    bundle = operator.publish("1.0", "canary")
    assert bundle.sha256 == digest(operator.folder / "made" / MODEL / "1.0")
    with pytest.raises(NotOffered, match="has no channel stable"):
        box.client().look(MODEL)
    operations.promote(operator.files(), TEAM, MODEL, "1.0", "stable")
    assert box.client().look(MODEL).bundle == bundle
    operator.publish("2.0", "canary")
    assert (offered(operator, "stable"), offered(operator, "canary")) == ({MODEL: "1.0"}, {MODEL: "2.0"})
    assert box.client().look(MODEL, "2.0").bundle.version == "2.0"  # by its name it is there for all
    assert operations.revoke(operator.files(), TEAM, MODEL, "2.0") == ["canary"]
    assert (offered(operator, "stable"), offered(operator, "canary")) == ({MODEL: "1.0"}, {})
    with pytest.raises(NotOffered, match=r"has not published eyes@2\.0, or revoked it"):
        box.client().look(MODEL, "2.0")
    assert [name.split(".", 1)[1] for name in served(operator) if name.endswith(".tar")] == ["1.0.tar"]


def test_a_version_never_gets_another_content(operator: Operator) -> None:
    operator.publish("1.0")
    before = served(operator)
    shutil.rmtree(operator.folder / "made")
    with pytest.raises(UsageError, match="published with another content"):
        operator.publish("1.0")
    assert served(operator) == before
    shutil.rmtree(operator.folder / "made")
    with pytest.raises(UsageError, match=r"has not published eyes@7\.0"):
        operations.promote(operator.files(), TEAM, MODEL, "7.0", "stable")
    with pytest.raises(UsageError, match=r"has not published eyes@7\.0"):
        operations.revoke(operator.files(), TEAM, MODEL, "7.0")


def test_what_is_served_holds_no_key(operator: Operator) -> None:
    operator.publish("1.0")
    assert {path.name for path in operator.folder.iterdir()} == {"public", "keys", "keys.json", "made"}
    assert not [path for path in operator.public.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]
    for path in (operator.folder / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_refresh_vouches_anew_for_what_would_expire(operator: Operator, box: Client) -> None:
    operator.publish("1.0")
    before = operator.files().timestamp()
    assert operations.refresh(operator.files()) == ["timestamp"]
    after = operator.files({"timestamp": 60}).timestamp()
    assert after.version == before.version + 1 and after.expires >= before.expires
    assert operations.refresh(operator.files({"timestamp": 60, "snapshot": 90, TEAM: 800})) == [
        "snapshot",
        TEAM,
        "timestamp",
    ]
    days = {role["role"]: round(role["days_left"]) for role in status(operator.files())["roles"]}
    assert days == {"root": 365, "targets": 365, "snapshot": 90, "timestamp": 60, TEAM: 800}
    assert box.client().look(MODEL).bundle.version == "1.0"
    (operator.folder / "keys" / "team-models.pem").rename(operator.folder / "offline.pem")
    assert operations.refresh(operator.files({TEAM: 4000})) == [
        "timestamp"
    ]  # the team's key is not here: it is left alone


# ---- keys


def test_a_root_of_several_keys_needs_so_many(operator: Operator, box: Client, tmp_path: Path) -> None:
    operator.publish("1.0")
    stick = tmp_path / "stick"
    stick.mkdir()
    for number in (1, 2, 3):
        (operator.folder / "keys" / f"root-{number}.pem").rename(stick / f"root-{number}.pem")
    new = operations.NewKey("timestamp-2")
    with pytest.raises(Waiting, match=r"2 more signature\(s\) needed, of root-1.pem, root-2.pem, root-3.pem"):
        operations.add_key(operator.files(), "timestamp", new, None)
    with pytest.raises(UsageError, match="a change of root waits for signatures"):
        operations.add_key(operator.files(), "timestamp", operations.NewKey("timestamp-3"), None)
    assert not (operator.public / "metadata" / "2.root.json").exists()
    box.client().look(MODEL)  # what is served is as it was
    one, two = tmp_path / "one", tmp_path / "two"
    for place, number in ((one, 1), (two, 3)):
        place.mkdir()
        shutil.copy(stick / f"root-{number}.pem", place)
    with pytest.raises(Waiting, match=r"1 more signature\(s\) needed"):
        operations.sign(operator.files(None, one))
    assert list(status(operator.files())["waiting"]) == ["root"]
    assert operations.sign(operator.files(None, two)) == ["root"]
    assert status(operator.files())["waiting"] == {}
    assert len(operator.files().keys("timestamp")[0]) == 2
    assert box.client().look(MODEL).bundle.version == "1.0"


def test_a_box_follows_many_new_roots_and_a_lost_key_counts_no_more(operator: Operator, box: Client) -> None:
    operator.publish("1.0")
    box.client().look(MODEL)
    for number in (4, 5):
        operations.add_key(operator.files(), "root", operations.NewKey(f"root-{number}"), None)
    operations.remove_key(operator.files(), "root", "root-1", 3)
    assert operator.files().root().version == 4
    assert box.client().look(MODEL).bundle.version == "1.0"
    with pytest.raises(UsageError, match="root would have 3 keys and needs 4: add another one first"):
        operations.remove_key(operator.files(), "root", "root-2", 4)
    with pytest.raises(UsageError, match="root-1 is no key of root"):
        operations.remove_key(operator.files(), "root", "root-1", None)


def test_a_team_has_a_key_and_models_of_its_own(operator: Operator, box: Client, tmp_path: Path) -> None:
    """Its private key never comes here: its own machine signs what waits."""
    operator.publish("1.0")
    theirs = CryptoSigner.generate_ed25519()
    pem, private = tmp_path / "berlin.pub", tmp_path / "berlin" / "berlin.pem"
    pem.write_bytes(_public_pem(theirs))
    with pytest.raises(Waiting, match=r"berlin version 1 waits .* 1 more signature"):
        operations.add_key(operator.files(), "berlin", operations.NewKey("", read_public(pem), "berlin.pem"), None)
    assert box.client().look(MODEL).bundle.version == "1.0"  # others do not wait for them
    private.parent.mkdir()
    private.write_bytes(_locked(theirs))
    assert operations.sign(operator.files(None, private.parent)) == ["berlin"]
    place = model_folder(tmp_path / "theirs", "5.0")
    files = operator.files(None, private.parent)
    operations.publish(files, "berlin", place, Facts(name=MODEL, version="5.0"), "stable")
    box.settings["team"] = "berlin"
    assert box.client().look(MODEL).bundle.version == "5.0"
    box.settings["team"] = TEAM
    assert box.client().look(MODEL).bundle.version == "1.0"


def test_a_role_whose_key_was_replaced_signs_anew(operator: Operator, box: Client) -> None:
    operator.publish("1.0")
    box.update()
    operations.add_key(operator.files(), TEAM, operations.NewKey("models-2"), None)
    operations.remove_key(operator.files(), TEAM, "team-models", None)
    md = Metadata.from_file(str(max((operator.public / "metadata").glob(f"*.{TEAM}.json"))))
    assert list(md.signatures) == [operator.files().keys(TEAM)[0][0].keyid]
    operator.publish("2.0")
    assert box.client().look(MODEL).bundle.version == "2.0"


def test_a_box_with_another_root_takes_nothing(operator: Operator, tmp_path: Path) -> None:
    operator.publish("1.0")
    other = make_operator(tmp_path / "other")
    box = Client(tmp_path / "box", operator.public.as_uri(), other.root)
    with pytest.raises(
        WrongKey, match=r"timestamp\.json is refused: it is not signed as this box's root of trust asks for"
    ):
        box.client().look(MODEL)


def test_wrong_passphrases_and_lost_keys_change_nothing(operator: Operator) -> None:
    operator.publish("1.0")
    before = {path: path.read_bytes() for path in operator.public.rglob("*") if path.is_file()}
    wrong = RepositoryFiles(operator.folder, Keyring(operator.folder, lambda _name, _new: "not the passphrase"))
    with pytest.raises(UsageError, match="wrong passphrase"):
        operations.promote(wrong, TEAM, MODEL, "1.0", "canary")
    (operator.folder / "keys" / "snapshot.pem").unlink()
    with pytest.raises(UsageError, match=r"snapshot needs 1 of snapshot\.pem: name the folder they are in with --keys"):
        operations.promote(operator.files(), TEAM, MODEL, "1.0", "canary")
    assert {path: path.read_bytes() for path in operator.public.rglob("*") if path.is_file()} == before


def test_a_key_that_is_no_file_is_asked_for_by_its_uri(operator: Operator, tmp_path: Path) -> None:
    """securesystemslib's own way to keys: here its plain files, elsewhere an HSM or a cloud's KMS."""
    operator.publish("1.0")
    signer = CryptoSigner.generate_ed25519()
    (tmp_path / "plain").write_bytes(signer.private_bytes)
    (tmp_path / "public").write_bytes(_public_pem(signer))
    new = operations.NewKey("", read_public(tmp_path / "public"), f"file2:{tmp_path / 'plain'}")
    operations.add_key(operator.files(), "timestamp", new, None)
    operations.remove_key(operator.files(), "timestamp", "timestamp", None)
    operator.publish("2.0")
    assert list(operator.files().open("timestamp").signatures) == [signer.public_key.keyid]
    (tmp_path / "plain").unlink()
    with pytest.raises(UsageError, match=r"the key file2:.* cannot be used"):
        operations.refresh(operator.files())


@pytest.mark.parametrize(
    ("root_keys", "threshold", "team", "text"),
    [
        (2, 3, "models", "cannot be needed"),
        (1, 0, "models", "cannot be needed"),
        (1, 1, "root", "cannot be called root"),
    ],
)
def test_a_repository_that_could_not_work_is_not_begun(
    root_keys: int, threshold: int, team: str, text: str, tmp_path: Path
) -> None:
    operator = Operator(tmp_path / "operator")
    with pytest.raises(UsageError, match=text):
        operations.init(operator.files(), team, root_keys, threshold)
    assert not operator.folder.exists()


def test_what_is_there_is_not_made_again(operator: Operator) -> None:
    with pytest.raises(UsageError, match="this is a repository"):
        operations.init(operator.files(), TEAM, 1, 1)
    with pytest.raises(UsageError, match="a key is never overwritten"):
        operations.add_key(operator.files(), "timestamp", operations.NewKey("timestamp"), None)
    with pytest.raises(UsageError, match="there is no role 'nobody'"):
        operator.files().keys("nobody")


def test_a_short_passphrase_is_refused(tmp_path: Path) -> None:
    files = RepositoryFiles(tmp_path / "r", Keyring(tmp_path / "r", lambda _name, _new: "short"))
    with pytest.raises(UsageError, match="at least 12 characters"):
        operations.init(files, TEAM, 1, 1)
    assert not (tmp_path / "r").exists()


def _public_pem(signer: CryptoSigner) -> bytes:
    key = serialization.load_pem_private_key(signer.private_bytes, None).public_key()
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _locked(signer: CryptoSigner) -> bytes:
    from tests.ota_fixtures import PASSPHRASE

    key = serialization.load_pem_private_key(signer.private_bytes, None)
    encryption = serialization.BestAvailableEncryption(PASSPHRASE.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
