import stat

import pytest

from config.secrets import (
    BOUNDARY_IDENTITY,
    CODEC_TOKEN,
    DASHBOARD_COOKIE,
    INTAKE_KEY,
    INTAKE_PUBLIC_KEY,
    OIDC_CLIENT_SECRET,
    WEBHOOK_SECRETS,
    add_new_values,
    boundary_public_key,
    context_key,
    database_password,
    ensure_secret,
    ensure_secrets,
    is_one_of,
    is_private,
    public_key,
    read_database_password,
    read_secret,
    read_secret_values,
    remove_former_values,
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


def test_a_secret_and_its_former_value_are_read(tmp_path):
    written(tmp_path, "new\r\n\n  former \n")
    assert read_secret_values(tmp_path, "webhook-secrets") == ("new", "former")
    assert read_secret(tmp_path, "webhook-secrets") == "new"


def test_three_values_are_rejected_without_quoting_them(tmp_path):
    written(tmp_path, "hunter1\nhunter2\nhunter3")
    with pytest.raises(SettingsInvalid, match="has 3 values") as rejected:
        read_secret(tmp_path, "webhook-secrets")
    assert "hunter" not in rejected.value.message + rejected.value.hint


def test_only_the_values_of_a_secret_are_accepted():
    for presented, accepted in (("new", True), ("former", True), ("", False), ("é", False), ("new\nformer", False)):
        assert is_one_of(presented, ("new", "former")) is accepted


def values_of(folder):
    names = {path.name for path in folder.iterdir()} - {OIDC_CLIENT_SECRET}
    return {name: read_secret_values(folder, name) for name in names if not name.endswith(".pub")}


def test_new_values_precede_the_former_ones_until_these_are_removed(tmp_path):
    ensure_secrets(tmp_path)
    before, client_secret = values_of(tmp_path), read_secret(tmp_path, OIDC_CLIENT_SECRET)
    assert set(add_new_values(tmp_path, ())) == set(before)
    meanwhile = values_of(tmp_path)
    for name, (new, former) in meanwhile.items():
        assert (former,) == before[name]
        assert new != former
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert read_database_password(tmp_path, "worker").split("\n") == list(meanwhile["database-worker"])
    assert add_new_values(tmp_path, ()) == ()
    assert values_of(tmp_path) == meanwhile
    assert read_secret(tmp_path, INTAKE_PUBLIC_KEY) == public_key(tmp_path, INTAKE_KEY)

    assert set(remove_former_values(tmp_path, ())) == set(before)
    assert values_of(tmp_path) == {name: (new,) for name, (new, _) in meanwhile.items()}
    assert remove_former_values(tmp_path, ()) == ()
    assert read_secret(tmp_path, OIDC_CLIENT_SECRET) == client_secret


def test_one_secret_is_replaced_and_the_others_are_unchanged(tmp_path):
    ensure_secrets(tmp_path)
    before = values_of(tmp_path)
    assert add_new_values(tmp_path, [CODEC_TOKEN]) == (CODEC_TOKEN,)
    changed = {name for name, values in values_of(tmp_path).items() if values != before[name]}
    assert changed == {CODEC_TOKEN}


@pytest.mark.parametrize("change", [add_new_values, remove_former_values])
def test_secret_of_another_system_is_not_replaced(change, tmp_path):
    ensure_secrets(tmp_path)
    before = values_of(tmp_path)
    for name in (OIDC_CLIENT_SECRET, "smtp-password", "../codec-token"):
        with pytest.raises(SettingsInvalid, match="is not a secret that OpenKCM generates"):
            change(tmp_path, [CODEC_TOKEN, name])
    assert values_of(tmp_path) == before


@pytest.mark.parametrize("change", [add_new_values, remove_former_values])
def test_interrupted_replacement_is_completed_by_a_repetition(change, tmp_path):
    """The n-th file cannot be written, for each n; until the repetition each process has a value it had before."""
    ensure_secrets(tmp_path)
    for name in sorted(values_of(tmp_path)):
        if change is remove_former_values:
            add_new_values(tmp_path, ())
        before = values_of(tmp_path)
        obstacle = tmp_path / f".{name}.new"
        obstacle.mkdir()
        with pytest.raises(SettingsInvalid, match=f"the secret {name} cannot be written"):
            change(tmp_path, ())
        obstacle.rmdir()
        interrupted = values_of(tmp_path)
        assert interrupted[name] == before[name]
        assert all(set(before[one]) & set(values) for one, values in interrupted.items())
        change(tmp_path, ())
        repeated = values_of(tmp_path)
        for one, values in interrupted.items():
            assert repeated[one] == (values[:1] if change is remove_former_values else repeated[one])
            assert values == before[one] or values == repeated[one]
        remove_former_values(tmp_path, ())


def test_interrupted_new_key_pair_gets_its_public_key(tmp_path):
    ensure_secrets(tmp_path)
    former = read_secret(tmp_path, INTAKE_PUBLIC_KEY)
    (tmp_path / f".{INTAKE_PUBLIC_KEY}.new").mkdir()
    with pytest.raises(SettingsInvalid):
        add_new_values(tmp_path, [INTAKE_KEY])
    assert read_secret(tmp_path, INTAKE_PUBLIC_KEY) == former
    (tmp_path / f".{INTAKE_PUBLIC_KEY}.new").rmdir()
    assert add_new_values(tmp_path, [INTAKE_KEY]) == ()
    assert read_secret(tmp_path, INTAKE_PUBLIC_KEY) == public_key(tmp_path, INTAKE_KEY) != former


def test_public_key_of_another_host_is_kept(tmp_path):
    ensure_secrets(tmp_path)
    key = read_secret(tmp_path, INTAKE_PUBLIC_KEY)
    for name in (INTAKE_KEY, DASHBOARD_COOKIE, WEBHOOK_SECRETS):
        (tmp_path / name).unlink()
    ensure_secrets(tmp_path)
    assert not (tmp_path / INTAKE_KEY).exists()
    assert read_secret(tmp_path, INTAKE_PUBLIC_KEY) == key


def test_boundary_public_key_is_derived_without_a_file(tmp_path):
    assert boundary_public_key(tmp_path) is None
    ensure_secrets(tmp_path)
    expected = public_key(tmp_path, BOUNDARY_IDENTITY)
    (tmp_path / "boundary-identity.pub").unlink()
    assert boundary_public_key(tmp_path) == expected
    assert not (tmp_path / "boundary-identity.pub").exists()
    (tmp_path / BOUNDARY_IDENTITY).unlink()
    ensure_secret(tmp_path, "boundary-identity.pub", expected)
    assert boundary_public_key(tmp_path) == expected


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
