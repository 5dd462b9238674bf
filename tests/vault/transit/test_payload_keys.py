from collections.abc import Callable

import pytest

from core import names as ids
from core.errors.keys import KeyUnavailable, WrongContext
from core.errors.platform import VaultRefused
from vault.auth.client import VaultSession
from vault.setup import PLATFORM_PAYLOAD_KEY
from vault.transit.keys import TransitKey
from vault.transit.payload_keys import TransitPayloadKeys


@pytest.fixture
def keys(worker: VaultSession) -> TransitPayloadKeys:
    return TransitPayloadKeys(worker)


def test_ensure_creates_the_key_once(keys: TransitPayloadKeys, tenant: str) -> None:
    assert keys.ensure(tenant) == keys.ensure(tenant) == TransitKey(ids.payload_key(tenant), 1)


@pytest.mark.parametrize("platform", [False, True], ids=["tenant", "platform"])
def test_data_key_is_unwrapped_to_its_original_value(keys: TransitPayloadKeys, tenant: str, platform: bool) -> None:  # noqa: FBT001 - a parameter
    name = PLATFORM_PAYLOAD_KEY if platform else keys.ensure(tenant).name
    plain, wrapped = keys.new_data_key(name)
    other, _ = keys.new_data_key(name)
    assert len(plain) == 32
    assert plain != other
    assert keys.open_data_key(name, wrapped) == plain


def test_another_key_does_not_unwrap_it(keys: TransitPayloadKeys, new_tenant: Callable[[], str]) -> None:
    mine, theirs = keys.ensure(new_tenant()), keys.ensure(new_tenant())
    _, wrapped = keys.new_data_key(theirs.name)
    with pytest.raises(WrongContext):
        keys.open_data_key(mine.name, wrapped)
    missing = ids.payload_key(new_tenant())
    for attempt in (lambda: keys.new_data_key(missing), lambda: keys.open_data_key(missing, wrapped)):
        with pytest.raises(KeyUnavailable):
            attempt()


def test_the_codec_unwraps_data_keys_and_creates_none(
    keys: TransitPayloadKeys, codec: VaultSession, tenant: str
) -> None:
    key = keys.ensure(tenant)
    plain, wrapped = keys.new_data_key(key.name)
    assert TransitPayloadKeys(codec).open_data_key(key.name, wrapped) == plain
    with pytest.raises(VaultRefused):
        TransitPayloadKeys(codec).new_data_key(key.name)
