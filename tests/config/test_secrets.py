import stat

import pytest

from config.secrets import (
    context_key,
    database_password,
    ensure_secret,
    is_private,
    read_secret,
    read_secret_lines,
    vault_secret,
)
from core.errors.platform import SettingsInvalid


def written(folder, text, mode=0o600):
    path = folder / "webhook-secrets"
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_secret_is_read_without_surrounding_white_space(tmp_path):
    written(tmp_path, "  hunter2\n")
    assert read_secret(tmp_path, "webhook-secrets") == "hunter2"


def test_two_secrets_are_read_line_by_line(tmp_path):
    written(tmp_path, "current\n\n  previous \n")
    assert read_secret_lines(tmp_path, "webhook-secrets") == ("current", "previous")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644])
def test_secret_accessible_by_others_is_rejected_without_its_value(tmp_path, mode):
    path = written(tmp_path, "hunter2", mode)
    with pytest.raises(SettingsInvalid, match="readable by others") as rejected:
        read_secret(tmp_path, "webhook-secrets")
    assert "hunter2" not in rejected.value.message + rejected.value.hint
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_secret_accessible_only_by_its_owner_is_read(tmp_path, mode):
    written(tmp_path, "hunter2", mode)
    assert read_secret(tmp_path, "webhook-secrets") == "hunter2"


@pytest.mark.parametrize(
    ("mode", "owner", "user", "private"),
    [
        (0o440, 0, 1000, True),  # a volume of Kubernetes with fsGroup, a credential of systemd with an ACL
        (0o640, 0, 1000, True),
        (0o444, 0, 1000, False),
        (0o660, 0, 1000, False),
        (0o644, 0, 1000, False),
        (0o440, 1000, 1000, False),
        (0o640, 0, 0, False),
        (0o640, 1001, 1000, False),
    ],
)
def test_only_a_file_of_root_may_be_readable_by_its_group(mode, owner, user, private):
    assert is_private(mode, owner, user) is private


def test_missing_secret_is_rejected_with_its_folder(tmp_path):
    with pytest.raises(SettingsInvalid) as rejected:
        read_secret(tmp_path, "webhook-secrets")
    assert str(tmp_path) in rejected.value.hint


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_secret_is_rejected(tmp_path, text):
    written(tmp_path, text)
    with pytest.raises(SettingsInvalid, match="is empty"):
        read_secret(tmp_path, "webhook-secrets")


def test_created_secret_is_private_and_not_replaced(tmp_path):
    folder = tmp_path / "state" / "secrets"
    made = ensure_secret(folder, "codec-token")
    assert len(bytes.fromhex(made)) == 32
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "codec-token").stat().st_mode) == 0o600
    assert ensure_secret(folder, "codec-token", "another") == made
    assert [path.name for path in folder.iterdir()] == ["codec-token"]


def test_incomplete_draft_of_a_crash_is_replaced(tmp_path):
    (tmp_path / ".codec-token.new").write_text("half")
    assert ensure_secret(tmp_path, "codec-token", "whole") == "whole"
    assert stat.S_IMODE((tmp_path / "codec-token").stat().st_mode) == 0o600


def test_each_role_has_its_own_files():
    names = [name(role) for name in (database_password, context_key, vault_secret) for role in ("worker", "operator")]
    assert names == [f"{kind}-{role}" for kind in ("database", "context", "vault") for role in ("worker", "operator")]


def test_unreadable_or_unwritable_secret_is_rejected_with_the_reason(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "binary").chmod(0o600)
    with pytest.raises(SettingsInvalid, match="the secret binary is not UTF-8 text"):
        read_secret(tmp_path, "binary")
    with pytest.raises(SettingsInvalid, match="cannot be read: not a directory") as rejected:
        read_secret(tmp_path / "binary", "vault-worker")
    assert rejected.value.hint.startswith("run as the user who owns")
    with pytest.raises(SettingsInvalid, match=r"cannot be written into .*: file exists"):
        ensure_secret(tmp_path / "binary", "vault-worker")
