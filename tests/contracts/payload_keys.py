"""What every implementation of `vault.interfaces.PayloadKeys` does. A subclass gives the fixture `keys`."""

from collections.abc import Callable

import pytest

from tenancy import ids
from tenancy.errors import KeyUnavailable, WrongContext
from vault.interfaces import PayloadKeys, TransitKey


class PayloadKeysContract:
    def test_a_data_key_opens_to_what_it_was(self, keys: PayloadKeys, new_tenant: Callable[[], str]) -> None:
        key = keys.ensure(new_tenant())
        plain, wrapped = keys.new_data_key(key.name)
        other, _ = keys.new_data_key(key.name)
        assert len(plain) == 32
        assert plain != other
        assert keys.open_data_key(key.name, wrapped) == plain

    def test_ensure_makes_the_key_once(self, keys: PayloadKeys, new_tenant: Callable[[], str]) -> None:
        tenant = new_tenant()
        assert keys.ensure(tenant) == keys.ensure(tenant) == TransitKey(ids.payload_key(tenant), 1)

    def test_another_tenants_key_does_not_open_it(self, keys: PayloadKeys, new_tenant: Callable[[], str]) -> None:
        mine, theirs = keys.ensure(new_tenant()), keys.ensure(new_tenant())
        _, wrapped = keys.new_data_key(theirs.name)
        with pytest.raises(WrongContext):
            keys.open_data_key(mine.name, wrapped)

    def test_without_the_key_there_is_no_data_key(self, keys: PayloadKeys, new_tenant: Callable[[], str]) -> None:
        _, wrapped = keys.new_data_key(keys.ensure(new_tenant()).name)
        missing = ids.payload_key(new_tenant())
        with pytest.raises(KeyUnavailable):
            keys.new_data_key(missing)
        with pytest.raises(KeyUnavailable):
            keys.open_data_key(missing, wrapped)
