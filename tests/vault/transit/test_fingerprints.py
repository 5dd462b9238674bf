"""The properties of fingerprints on a real server."""

import os
from collections.abc import Callable

import pytest

from core import names as ids
from core.errors.keys import KeyUnavailable
from tests.vault.sharing import a_shared_key, an_imported_key
from vault.auth.client import TokenSession, VaultSession
from vault.auth.tenant_tokens import TenantTokens
from vault.setup import POLICIES
from vault.transit.tenant_keys import FINGERPRINT_TEXT, TransitFingerprints, TransitTenantKeys


@pytest.fixture
def fingerprints(worker: VaultSession, tokens: TenantTokens) -> TransitFingerprints:
    return TransitFingerprints(worker, tokens)


@pytest.fixture
def keys(worker: VaultSession, tokens: TenantTokens) -> TransitTenantKeys:
    return TransitTenantKeys(worker, tokens)


def test_a_version_keeps_its_fingerprint_and_no_other_version_or_tenant_has_it(
    fingerprints: TransitFingerprints, keys: TransitTenantKeys, new_tenant: Callable[[], str]
) -> None:
    one, other = new_tenant(), new_tenant()
    keys.ensure(one)
    keys.ensure(other)
    first = fingerprints.of(one, 1)
    keys.rotate(one, 1)
    assert fingerprints.of(one, 1) == first
    assert len({first, fingerprints.of(one, 2), fingerprints.of(other, 1)}) == 3


def test_key_restored_under_a_second_name_has_the_same_fingerprint(
    fingerprints: TransitFingerprints, admin: TokenSession, new_tenant: Callable[[], str]
) -> None:
    one, other = new_tenant(), new_tenant()
    a_shared_key(admin, ids.l2_key(one), ids.l2_key(other))
    assert fingerprints.of(one, 1) == fingerprints.of(other, 1)


def test_same_bytes_imported_twice_have_two_fingerprints(
    fingerprints: TransitFingerprints, admin: TokenSession, new_tenant: Callable[[], str]
) -> None:
    one, other, material = new_tenant(), new_tenant(), os.urandom(32)
    an_imported_key(admin, ids.l2_key(one), material)
    an_imported_key(admin, ids.l2_key(other), material)
    assert fingerprints.of(one, 1) != fingerprints.of(other, 1)


def test_retired_version_and_disabled_key_have_no_fingerprint(
    fingerprints: TransitFingerprints, keys: TransitTenantKeys, tenant: str
) -> None:
    keys.ensure(tenant)
    keys.rotate(tenant, 1)
    keys.retire(tenant, 2)
    with pytest.raises(KeyUnavailable):
        fingerprints.of(tenant, 1)
    keys.disable(tenant)
    with pytest.raises(KeyUnavailable):
        fingerprints.of(tenant, 2)


def test_policy_permits_only_the_text_that_is_sent() -> None:
    assert f'"input"       = ["{FINGERPRINT_TEXT}"]' in (POLICIES / "tenant.hcl").read_text(encoding="utf-8")
