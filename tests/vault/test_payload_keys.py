from collections.abc import Callable

import pytest

from tenancy.errors import VaultRefused
from tests.contracts.payload_keys import PayloadKeysContract
from vault.payload_keys import TransitPayloadKeys
from vault.session import VaultSession
from vault.setup import PLATFORM_PAYLOAD_KEY


@pytest.fixture
def keys(worker: VaultSession) -> TransitPayloadKeys:
    return TransitPayloadKeys(worker)


class TestTransitPayloadKeys(PayloadKeysContract):
    pass


def test_the_platforms_key_is_there_from_the_start(keys: TransitPayloadKeys) -> None:
    plain, wrapped = keys.new_data_key(PLATFORM_PAYLOAD_KEY)
    assert keys.open_data_key(PLATFORM_PAYLOAD_KEY, wrapped) == plain


def test_the_codec_opens_data_keys_and_makes_none(
    keys: TransitPayloadKeys, codec: VaultSession, new_tenant: Callable[[], str]
) -> None:
    key = keys.ensure(new_tenant())
    plain, wrapped = keys.new_data_key(key.name)
    assert TransitPayloadKeys(codec).open_data_key(key.name, wrapped) == plain
    with pytest.raises(VaultRefused):
        TransitPayloadKeys(codec).new_data_key(key.name)
