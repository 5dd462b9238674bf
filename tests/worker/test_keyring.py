"""Data keys are wrapped by a real Transit, one per tenant, and never returned for another key name."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors.keys import KeyUnavailable, WrongContext
from vault.transit.payload_keys import TransitPayloadKeys
from worker.payload_codec import PLATFORM_KEY, PayloadKeyCache


@pytest.fixture
def transit(key_server) -> TransitPayloadKeys:
    return TransitPayloadKeys(key_server.session("worker"))


@pytest.fixture
def keyring(transit) -> PayloadKeyCache:
    keyring = PayloadKeyCache(transit)
    keyring.open_platform_key()
    return keyring


def test_platforms_key_is_current_until_a_tenants_key_is_known_and_required_before(transit, keyring):
    with pytest.raises(RuntimeError):
        PayloadKeyCache(transit).current(None)
    assert keyring.current("acme-corp-12345").key_name == PLATFORM_KEY


async def test_data_key_is_unwrapped_in_another_process_and_only_under_its_key_name(keyring, transit):
    ours, theirs = transit.ensure("acme-keyring").name, transit.ensure("beta-keyring").name
    plain, wrapped = transit.new_data_key(ours)
    assert await PayloadKeyCache(transit).open(ours, wrapped) == plain

    keyring.learn("acme-keyring", plain, wrapped)
    assert await keyring.open(ours, wrapped) == plain
    with pytest.raises(WrongContext):
        await keyring.open(theirs, wrapped)


async def test_empty_cache_cannot_unwrap_a_data_key_of_a_deleted_key(keyring, transit, vault_admin):
    name = transit.ensure("gone-keyring").name
    plain, wrapped = transit.new_data_key(name)
    keyring.learn("gone-keyring", plain, wrapped)
    vault_admin.delete(f"transit/keys/{name}/soft-delete")
    with pytest.raises(KeyUnavailable):
        await PayloadKeyCache(transit).open(name, wrapped)
    assert await keyring.open(name, wrapped) == plain


def test_first_learned_key_stays_in_use(keyring):
    made = [(bytes([n]) * 32, f"vault:v1:{n}") for n in range(32)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: keyring.learn("acme-corp-12345", *key), made))
    kept = keyring.current("acme-corp-12345")
    keyring.learn("acme-corp-12345", b"\xff" * 32, "vault:v1:later")
    assert keyring.current("acme-corp-12345") == kept


async def test_many_readers_of_a_new_key_all_get_it(keyring, transit):
    plain, wrapped = transit.new_data_key(transit.ensure("many-keyring").name)
    opened = await asyncio.gather(*(keyring.open("payload-many-keyring", wrapped) for _ in range(16)))
    assert set(opened) == {plain}
    assert keyring.current("many-keyring").wrapped == wrapped


async def test_forgotten_key_neither_encrypts_nor_decrypts(keyring, transit, key_server):
    gone, stays = transit.ensure("gone-keyring").name, transit.ensure("stays-keyring").name
    for tenant_id, name in (("gone-keyring", gone), ("stays-keyring", stays)):
        keyring.learn(tenant_id, *transit.new_data_key(name))
    wrapped = keyring.current("gone-keyring").wrapped
    admin = key_server.admin()
    admin.write(f"transit/keys/{gone}/config", {"deletion_allowed": True})
    admin.delete(f"transit/keys/{gone}")
    keyring.forget("gone-keyring")
    assert keyring.current("gone-keyring").key_name == PLATFORM_KEY
    assert keyring.current("stays-keyring").key_name == stays
    with pytest.raises(KeyUnavailable):
        await keyring.open(gone, wrapped)
    keyring.forget("gone-keyring")
