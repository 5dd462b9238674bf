"""The folder belongs to one service and one user, and no other user can exchange it."""

import os
import stat
from pathlib import Path

import pytest

from openkcm.credentials.store import CredentialStore
from openkcm.errors import AgentRunning, FolderRefused
from tests.client.agent.control import SERVICE, TENANT
from tests.crypto_service.authority import service_leaf, write_folder

OTHER_USER = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kcm"


def test_symbolic_link_as_folder_is_rejected(tmp_path: Path, path: Path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderRefused):
        CredentialStore(path, TENANT, SERVICE)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_folder_of_another_user_is_rejected(path: Path):
    other_folder = Path("/usr")
    if os.geteuid() == 0:
        path.mkdir(mode=0o700)
        os.chown(path, OTHER_USER, OTHER_USER)
        other_folder = path
    before = sorted(other_folder.iterdir())
    with pytest.raises(FolderRefused, match="another user"):
        CredentialStore(other_folder, TENANT, SERVICE)
    assert sorted(other_folder.iterdir()) == before


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_folder_accessible_to_others_is_rejected(path: Path, mode: int):
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(FolderRefused, match="accessible to others"):
        CredentialStore(path, TENANT, SERVICE)


def test_folder_that_other_users_could_replace_is_rejected(tmp_path: Path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(FolderRefused, match="other users may replace"):
        CredentialStore(tmp_path / "open" / "kcm", TENANT, SERVICE)
    (tmp_path / "open").chmod(0o1777)
    (tmp_path / "open" / "kcm").chmod(0o700)
    CredentialStore(tmp_path / "open" / "kcm", TENANT, SERVICE)


def test_exchanged_folder_receives_no_files(tmp_path: Path, path: Path):
    folder = CredentialStore(path, TENANT, SERVICE)
    path.rename(tmp_path / "moved")
    (tmp_path / "trap").mkdir()
    path.symlink_to(tmp_path / "trap")
    folder.request()
    folder.write({"ca.pem": "x"})
    assert list((tmp_path / "trap").iterdir()) == []
    assert (tmp_path / "moved" / "ca.pem").read_text() == "x"


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_key_that_is_not_a_regular_file_is_rejected(tmp_path: Path, path: Path, what: str):
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


def test_symbolic_link_as_file_is_replaced_and_not_followed(tmp_path: Path, path: Path):
    folder = CredentialStore(path, TENANT, SERVICE)
    target = tmp_path / "target"
    target.write_text("other_folder")
    (path / "ca.pem").symlink_to(target)
    folder.write({"ca.pem": "new"})
    assert (target.read_text(), (path / "ca.pem").read_text()) == ("other_folder", "new")
    assert not (path / "ca.pem").is_symlink()


def test_key_readable_by_others_is_rejected(path: Path):
    folder = CredentialStore(path, TENANT, SERVICE)
    folder.request()
    (path / "client.key").chmod(0o640)
    with pytest.raises(FolderRefused, match="readable by others"):
        CredentialStore(path, TENANT, SERVICE).request()


@pytest.mark.parametrize(("tenant", "service"), [("globex-67890", SERVICE), (TENANT, "billing"), (None, "billing")])
def test_folder_of_another_service_or_tenant_is_rejected(path: Path, tenant: str | None, service: str):
    write_folder(path, TENANT, service_leaf(TENANT, SERVICE), 1)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(FolderRefused, match="another service"):
        CredentialStore(path, tenant, service)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_tenant_is_read_from_the_certificate(path: Path):
    write_folder(path, TENANT, service_leaf(TENANT, SERVICE), 1)
    assert CredentialStore(path, None, SERVICE).tenant_id == TENANT


def test_folder_lock_rejects_a_second_agent_and_removes_old_drafts(path: Path):
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


def test_folder_and_files_are_private_for_every_umask(path: Path):
    before = os.umask(0)
    try:
        folder = CredentialStore(path, TENANT, SERVICE)
        folder.request()
        folder.write({"ca.pem": "x"})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_folder_without_the_key_of_its_certificate_is_rejected(tmp_path: Path, path: Path):
    write_folder(path, TENANT, service_leaf(TENANT, SERVICE), 1)
    folder = CredentialStore(path, TENANT, SERVICE)
    folder.require_key_of_certificate()
    CredentialStore(tmp_path / "other", TENANT, SERVICE).request()
    (tmp_path / "other" / "client.key").rename(path / "client.key")
    with pytest.raises(FolderRefused, match="does not have the key"):
        folder.require_key_of_certificate()
    (path / "client.key").unlink()
    with pytest.raises(FolderRefused, match="does not have the key"):
        folder.require_key_of_certificate()
    assert not (path / "client.key").exists()
