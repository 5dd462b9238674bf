"""A folder is one service's, its owner's alone, reached by nothing that somebody else could put in its place."""

import os
import stat
from pathlib import Path

import pytest

from openkcm.credentials.store import CredentialStore
from openkcm.errors import AgentRunning, FolderRefused
from tests.client.agent.control import SERVICE, TENANT
from tests.crypto_service.https.authority import service_leaf, write_folder

OTHER_USER = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kcm"


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path, path: Path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderRefused):
        CredentialStore(path, TENANT, SERVICE)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_of_another_user_is_refused(path: Path):
    theirs = Path("/usr")
    if os.geteuid() == 0:
        path.mkdir(mode=0o700)
        os.chown(path, OTHER_USER, OTHER_USER)
        theirs = path
    before = sorted(theirs.iterdir())
    with pytest.raises(FolderRefused, match="another user"):
        CredentialStore(theirs, TENANT, SERVICE)
    assert sorted(theirs.iterdir()) == before


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_a_folder_that_is_open_to_others_is_refused(path: Path, mode: int):
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(FolderRefused, match="open to others"):
        CredentialStore(path, TENANT, SERVICE)


def test_a_folder_that_anybody_could_replace_is_refused(tmp_path: Path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(FolderRefused, match="anybody may replace"):
        CredentialStore(tmp_path / "open" / "kcm", TENANT, SERVICE)
    (tmp_path / "open").chmod(0o1777)
    (tmp_path / "open" / "kcm").chmod(0o700)
    CredentialStore(tmp_path / "open" / "kcm", TENANT, SERVICE)


def test_a_folder_that_is_swapped_after_it_was_taken_gets_nothing(tmp_path: Path, path: Path):
    folder = CredentialStore(path, TENANT, SERVICE)
    path.rename(tmp_path / "moved")
    (tmp_path / "trap").mkdir()
    path.symlink_to(tmp_path / "trap")
    folder.request()
    folder.write({"ca.pem": "x"})
    assert list((tmp_path / "trap").iterdir()) == []
    assert (tmp_path / "moved" / "ca.pem").read_text() == "x"


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_read_as_a_key(tmp_path: Path, path: Path, what: str):
    folder = CredentialStore(path, TENANT, SERVICE)
    CredentialStore(tmp_path / "other", TENANT, SERVICE).request()
    key = path / "client.key"
    if what == "link":
        key.symlink_to(tmp_path / "other" / "client.key")
    elif what == "pipe":
        os.mkfifo(key, 0o600)
    else:
        key.mkdir()
    with pytest.raises(FolderRefused):
        folder.request()


def test_a_link_in_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path, path: Path):
    folder = CredentialStore(path, TENANT, SERVICE)
    target = tmp_path / "target"
    target.write_text("theirs")
    (path / "ca.pem").symlink_to(target)
    folder.write({"ca.pem": "ours"})
    assert (target.read_text(), (path / "ca.pem").read_text()) == ("theirs", "ours")
    assert not (path / "ca.pem").is_symlink()


def test_a_key_that_others_can_read_is_refused_and_kept(path: Path):
    folder = CredentialStore(path, TENANT, SERVICE)
    folder.request()
    (path / "client.key").chmod(0o640)
    with pytest.raises(FolderRefused, match="readable by others"):
        CredentialStore(path, TENANT, SERVICE).request()


@pytest.mark.parametrize(("tenant", "service"), [("globex-67890", SERVICE), (TENANT, "billing"), (None, "billing")])
def test_a_folder_of_another_service_or_tenant_is_refused(path: Path, tenant: str | None, service: str):
    write_folder(path, TENANT, service_leaf(TENANT, SERVICE), 1)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(FolderRefused, match="another service"):
        CredentialStore(path, tenant, service)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_whose_it_is_is_read_from_its_certificate(path: Path):
    write_folder(path, TENANT, service_leaf(TENANT, SERVICE), 1)
    assert CredentialStore(path, None, SERVICE).tenant_id == TENANT


def test_it_has_one_agent_and_what_a_killed_one_left_is_cleared(path: Path):
    folder = CredentialStore(path, TENANT, SERVICE)
    old, young = path / ".client.pem.0123abcd", path / ".client.pem.4567abcd"
    for draft in (old, young):
        draft.write_text("half")
    os.utime(old, (1, 1))
    with folder.held():
        with pytest.raises(AgentRunning), CredentialStore(path, TENANT, SERVICE).held():
            pass
        assert not old.exists()
        assert young.exists()
    with CredentialStore(path, TENANT, SERVICE).held():
        pass


def test_folder_and_files_are_their_owners_alone_whatever_the_umask(path: Path):
    before = os.umask(0)
    try:
        folder = CredentialStore(path, TENANT, SERVICE)
        folder.request()
        folder.write({"ca.pem": "x"})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_folder_whose_certificate_has_its_key_elsewhere_is_refused(tmp_path: Path, path: Path):
    write_folder(path, TENANT, service_leaf(TENANT, SERVICE), 1)
    folder = CredentialStore(path, TENANT, SERVICE)
    folder.refuse_strange_key()
    CredentialStore(tmp_path / "other", TENANT, SERVICE).request()
    (tmp_path / "other" / "client.key").rename(path / "client.key")
    with pytest.raises(FolderRefused, match="does not have the key"):
        folder.refuse_strange_key()
    (path / "client.key").unlink()
    with pytest.raises(FolderRefused, match="does not have the key"):
        folder.refuse_strange_key()
    assert not (path / "client.key").exists()
