"""What every implementation of `vault.interfaces.TenantKeys` does. A subclass gives the fixture `keys`."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tenancy import ids
from tenancy.binding import Context, Purpose
from tenancy.errors import KeyUnavailable, OpenKcmError, WrongContext
from vault.interfaces import REWRAP_BATCH, TenantKeys, TransitKey, ciphertext_version


def context_of(tenant_id: str) -> Context:
    return Context(tenant_id, ids.l2_key(tenant_id), "orders", Purpose.VERIFY, "object-1")


class TenantKeysContract:
    def test_ensure_makes_the_key_once(self, keys: TenantKeys, new_tenant: Callable[[], str]) -> None:
        tenant = new_tenant()
        first = keys.ensure(tenant)
        assert first == TransitKey(ids.l2_key(tenant), 1)
        ciphertext = keys.encrypt(context_of(tenant), b"secret")
        assert keys.ensure(tenant) == first
        assert keys.decrypt(context_of(tenant), ciphertext) == b"secret"

    @pytest.mark.parametrize(
        "moved",
        [
            {"service": "billing"},
            {"purpose": Purpose.SERVICE_KEY},
            {"object_id": "object-2"},
            {"object_id": ""},
        ],
    )
    def test_decrypt_fails_in_another_place(
        self, keys: TenantKeys, new_tenant: Callable[[], str], moved: dict[str, str]
    ) -> None:
        tenant = new_tenant()
        keys.ensure(tenant)
        ciphertext = keys.encrypt(context_of(tenant), b"secret")
        with pytest.raises(WrongContext):
            keys.decrypt(replace(context_of(tenant), **moved), ciphertext)
        assert keys.decrypt(context_of(tenant), ciphertext) == b"secret"

    def test_decrypt_fails_for_another_tenants_ciphertext(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        mine, theirs = new_tenant(), new_tenant()
        keys.ensure(mine)
        keys.ensure(theirs)
        ciphertext = keys.encrypt(context_of(theirs), b"secret")
        with pytest.raises(WrongContext):
            keys.decrypt(context_of(mine), ciphertext)

    def test_decrypt_fails_for_an_altered_ciphertext(self, keys: TenantKeys, new_tenant: Callable[[], str]) -> None:
        tenant = new_tenant()
        keys.ensure(tenant)
        ciphertext = keys.encrypt(context_of(tenant), b"secret")
        flipped = "A" if ciphertext[-6] != "A" else "B"
        for altered in (ciphertext[:-6] + flipped + ciphertext[-5:], ciphertext[:-8], "not a ciphertext"):
            with pytest.raises(WrongContext):
                keys.decrypt(context_of(tenant), altered)

    def test_a_key_that_is_missing_is_unavailable_and_stays_missing(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant, other = new_tenant(), new_tenant()
        keys.ensure(other)
        with pytest.raises(KeyUnavailable):
            keys.encrypt(context_of(tenant), b"secret")
        with pytest.raises(KeyUnavailable):
            keys.decrypt(context_of(tenant), keys.encrypt(context_of(other), b"secret"))
        with pytest.raises(KeyUnavailable):
            keys.encrypt(context_of(tenant), b"secret")

    def test_a_disabled_key_does_nothing_until_it_is_ensured(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        keys.ensure(tenant)
        ciphertext = keys.encrypt(context_of(tenant), b"secret")
        keys.disable(tenant)
        keys.disable(tenant)
        with pytest.raises(KeyUnavailable):
            keys.encrypt(context_of(tenant), b"more")
        with pytest.raises(KeyUnavailable):
            keys.decrypt(context_of(tenant), ciphertext)
        assert keys.ensure(tenant).version == 1
        assert keys.decrypt(context_of(tenant), ciphertext) == b"secret"

    def test_a_wrapped_key_opens_to_256_bits_in_its_own_place_alone(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        keys.ensure(tenant)
        context = replace(context_of(tenant), purpose=Purpose.SERVICE_KEY)
        one, other = keys.new_wrapped_key(context), keys.new_wrapped_key(context)
        opened = keys.decrypt(context, one)
        assert len(opened) == 32
        assert opened != keys.decrypt(context, other)
        with pytest.raises(WrongContext):
            keys.decrypt(replace(context, object_id="object-2"), one)

    def test_without_a_key_there_is_no_wrapped_key(self, keys: TenantKeys, new_tenant: Callable[[], str]) -> None:
        tenant = new_tenant()
        with pytest.raises(KeyUnavailable):
            keys.new_wrapped_key(context_of(tenant))
        keys.ensure(tenant)
        keys.disable(tenant)
        with pytest.raises(KeyUnavailable):
            keys.new_wrapped_key(context_of(tenant))

    def test_a_key_is_rotated_once_for_each_version_that_was_expected(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        first = keys.ensure(tenant)
        ciphertext = keys.encrypt(context_of(tenant), b"secret")
        second = TransitKey(first.name, 2)
        assert keys.rotate(tenant, 1) == keys.rotate(tenant, 1) == keys.newest(tenant) == second
        assert keys.decrypt(context_of(tenant), ciphertext) == b"secret"
        assert ciphertext_version(ciphertext) == 1
        assert ciphertext_version(keys.encrypt(context_of(tenant), b"secret")) == 2
        assert ciphertext_version(keys.new_wrapped_key(context_of(tenant))) == 2

    def test_what_is_rewrapped_opens_in_its_own_place_to_what_it_was(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        keys.ensure(tenant)
        contexts = [replace(context_of(tenant), object_id=f"object-{number}") for number in range(REWRAP_BATCH)]
        old = [(context, keys.encrypt(context, context.object_id.encode())) for context in contexts]
        keys.rotate(tenant, 1)
        new = keys.rewrap(old)
        assert {ciphertext_version(ciphertext) for ciphertext in new} == {2}
        assert [keys.decrypt(*item) for item in zip(contexts, new, strict=True)] == [
            context.object_id.encode() for context in contexts
        ]
        with pytest.raises(WrongContext):
            keys.decrypt(contexts[1], new[0])
        assert keys.rewrap([]) == []

    def test_one_ciphertext_that_does_not_open_fails_the_batch(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        keys.ensure(tenant)
        context = context_of(tenant)
        good = keys.encrypt(context, b"secret")
        moved = replace(context, object_id="object-2")
        for bad in ((moved, good), (context, good[:-8]), (context, "not a ciphertext")):
            with pytest.raises(WrongContext):
                keys.rewrap([(context, good), bad])

    def test_a_retired_version_opens_nothing_and_encrypts_nothing_and_stays_retired(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        keys.ensure(tenant)
        old = keys.encrypt(context_of(tenant), b"secret")
        keys.rotate(tenant, 1)
        [new] = keys.rewrap([(context_of(tenant), old)])
        keys.retire(tenant, 2)
        keys.retire(tenant, 2)
        keys.retire(tenant, 1)
        assert keys.newest(tenant) == TransitKey(ids.l2_key(tenant), 2, 2)
        assert keys.decrypt(context_of(tenant), new) == b"secret"
        with pytest.raises(KeyUnavailable):
            keys.decrypt(context_of(tenant), old)
        with pytest.raises(KeyUnavailable):
            keys.rewrap([(context_of(tenant), old)])

    def test_a_trimmed_version_is_gone_and_one_that_was_not_retired_cannot_be_trimmed(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        keys.ensure(tenant)
        old = keys.encrypt(context_of(tenant), b"secret")
        keys.rotate(tenant, 1)
        [new] = keys.rewrap([(context_of(tenant), old)])
        with pytest.raises(OpenKcmError):
            keys.trim(tenant, 2)
        assert keys.decrypt(context_of(tenant), old) == b"secret"
        keys.retire(tenant, 2)
        keys.trim(tenant, 2)
        keys.trim(tenant, 2)
        assert keys.decrypt(context_of(tenant), new) == b"secret"
        with pytest.raises(KeyUnavailable):
            keys.decrypt(context_of(tenant), old)

    def test_a_key_that_is_missing_or_disabled_is_neither_rotated_nor_rewrapped(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        for attempt in (
            lambda: keys.newest(tenant),
            lambda: keys.rotate(tenant, 1),
            lambda: keys.retire(tenant, 1),
            lambda: keys.trim(tenant, 1),
        ):
            with pytest.raises(KeyUnavailable):
                attempt()
        keys.ensure(tenant)
        ciphertext = keys.encrypt(context_of(tenant), b"secret")
        keys.disable(tenant)
        with pytest.raises(KeyUnavailable):
            keys.rotate(tenant, 1)
        with pytest.raises(KeyUnavailable):
            keys.rewrap([(context_of(tenant), ciphertext)])
        assert keys.ensure(tenant).version == 1

    def test_disabling_a_key_that_was_never_made_makes_none(
        self, keys: TenantKeys, new_tenant: Callable[[], str]
    ) -> None:
        tenant = new_tenant()
        keys.disable(tenant)
        with pytest.raises(KeyUnavailable):
            keys.encrypt(context_of(tenant), b"secret")
