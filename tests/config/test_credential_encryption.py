from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from joserfc import jwe
from joserfc.jwk import OctKey

from config import secrets
from config.credential_encryption import decrypt_credentials, encrypt_credentials
from config.secrets import add_new_values, ensure_pair, read_secret, read_secret_values, remove_former_values
from core.errors.keys import RootKeyRefused
from core.errors.platform import SettingsInvalid
from core.keys.root_keys import Credentials

ACME, REQUEST = "acme-corp", "ab" * 16
CREDENTIALS = Credentials.model_validate({"access_key_id": "AKIA", "secret_access_key": "hunter2"})


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    ensure_pair(tmp_path, secrets.INTAKE_KEY, secrets.INTAKE_PUBLIC_KEY)
    return read_secret(tmp_path, secrets.INTAKE_KEY), read_secret(tmp_path, secrets.INTAKE_PUBLIC_KEY)


def test_worker_decrypts_credentials(pair: tuple[str, str]) -> None:
    private, public = pair
    sealed = encrypt_credentials(public, ACME, REQUEST, CREDENTIALS)
    assert "hunter2" not in sealed
    assert sealed != encrypt_credentials(public, ACME, REQUEST, CREDENTIALS)
    assert decrypt_credentials([private], ACME, REQUEST, sealed) == CREDENTIALS


@pytest.mark.parametrize(("tenant", "request_id"), [("other-corp", REQUEST), (ACME, "cd" * 16), ("", REQUEST)])
def test_decrypt_rejects_another_tenant_or_request(pair: tuple[str, str], tenant: str, request_id: str) -> None:
    private, public = pair
    with pytest.raises(RootKeyRefused):
        decrypt_credentials([private], tenant, request_id, encrypt_credentials(public, ACME, REQUEST, CREDENTIALS))


def test_intake_key_is_replaced_without_an_interruption(tmp_path: Path, pair: tuple[str, str]) -> None:
    before = [pair[0]]
    former_public = pair[1]
    add_new_values(tmp_path, [secrets.INTAKE_KEY])
    meanwhile, new_public = read_secret_values(tmp_path, secrets.INTAKE_KEY), read_secret(tmp_path, "intake.pub")
    remove_former_values(tmp_path, [secrets.INTAKE_KEY])
    after = read_secret_values(tmp_path, secrets.INTAKE_KEY)

    def decrypts(privates: Sequence[str], public: str) -> bool:
        sealed = encrypt_credentials(public, ACME, REQUEST, CREDENTIALS)
        with suppress(RootKeyRefused):
            return decrypt_credentials(privates, ACME, REQUEST, sealed) == CREDENTIALS
        return False

    workers = (before, meanwhile, after)
    assert [decrypts(worker, former_public) for worker in workers] == [True, True, False]
    assert [decrypts(worker, new_public) for worker in workers] == [False, True, True]
    assert read_secret(tmp_path, secrets.INTAKE_PUBLIC_KEY) == new_public != former_public


def test_binding_to_tenant_and_request_holds_for_a_former_key(tmp_path: Path, pair: tuple[str, str]) -> None:
    add_new_values(tmp_path, [secrets.INTAKE_KEY])
    both = read_secret_values(tmp_path, secrets.INTAKE_KEY)
    sealed = encrypt_credentials(pair[1], ACME, REQUEST, CREDENTIALS)
    for tenant, request_id in (("other-corp", REQUEST), (ACME, "cd" * 16)):
        with pytest.raises(RootKeyRefused):
            decrypt_credentials(both, tenant, request_id, sealed)


def test_decrypt_rejects_altered_credentials(pair: tuple[str, str]) -> None:
    private, public = pair
    sealed = encrypt_credentials(public, ACME, REQUEST, CREDENTIALS)
    header, *rest = sealed.split(".")
    others = encrypt_credentials(public, "other-corp", REQUEST, CREDENTIALS).split(".")[0]
    for altered in ("", "x", sealed[:-4], sealed[:-1], ".".join((others, *rest)), ".".join((header[:-2], *rest))):
        with pytest.raises(RootKeyRefused) as rejected:
            decrypt_credentials([private], ACME, REQUEST, altered)
        assert rejected.value.__cause__ is None


def test_decrypt_rejects_another_algorithm(pair: tuple[str, str]) -> None:
    private, _ = pair
    forged = jwe.encrypt_compact(
        {"alg": "dir", "enc": "A256GCM", "tenant": ACME, "request": REQUEST},
        CREDENTIALS.dump(),
        OctKey.generate_key(256),
        registry=jwe.JWERegistry(strict_check_header=False),
    )
    with pytest.raises(RootKeyRefused):
        decrypt_credentials([private], ACME, REQUEST, forged)


def test_invalid_key_raises_settings_invalid(pair: tuple[str, str]) -> None:
    with pytest.raises(SettingsInvalid):
        encrypt_credentials("not a key", ACME, REQUEST, CREDENTIALS)
    assert pair
