from collections.abc import Callable
from dataclasses import dataclass

import pytest

from compliance.isolation.vault.cross_tenant import VaultTenantIsolationSuite
from core import names as ids
from core.errors.keys import KeyUnavailable
from core.errors.platform import ConflictingResource, VaultRefused
from core.isolation import CheckResult, breaches
from tests.contracts.authorities import nothing_recorded
from vault.auth.client import TokenSession, VaultSession
from vault.auth.tenant_tokens import TenantTokens
from vault.pki.authorities import PkiAuthorities
from vault.pki.certificates import Authority
from vault.transit.tenant_keys import TransitTenantKeys


@dataclass
class Pair:
    """Two new tenants with keys and tenant CAs."""

    attacker: str
    victim: str
    attacker_ca: Authority
    victim_ca: Authority

    def attack(self, probe: VaultTenantIsolationSuite) -> tuple[CheckResult, ...]:
        """Return the results of the attacker; assert that the other direction is rejected too."""
        by_attacker, by_victim = self.attack_each_other(probe)
        assert breaches(by_victim) == ()
        return by_attacker

    def attack_each_other(
        self, probe: VaultTenantIsolationSuite
    ) -> tuple[tuple[CheckResult, ...], tuple[CheckResult, ...]]:
        by_one, by_other = probe.attack_each_other(self.attacker, self.victim, self.attacker_ca, self.victim_ca)
        return tuple(by_one), tuple(by_other)


@pytest.fixture
def pair(worker: VaultSession, tokens: TenantTokens, new_tenant: Callable[[], str]) -> Pair:
    keys, authorities, names = TransitTenantKeys(worker, tokens), PkiAuthorities(worker), (new_tenant(), new_tenant())
    for name in names:
        keys.ensure(name)
    return Pair(*names, *(authorities.ensure(name, nothing_recorded) for name in names))


@pytest.fixture
def probe(worker: VaultSession, tokens: TenantTokens) -> VaultTenantIsolationSuite:
    return VaultTenantIsolationSuite(worker, tokens)


def test_every_attack_is_rejected_and_leaves_no_data(
    probe: VaultTenantIsolationSuite, pair: Pair, admin: TokenSession
) -> None:
    before = admin.list("pki/certs"), admin.list("transit/keys")
    results = pair.attack(probe)
    assert {result.clause for result in results} == {"U2", "C2", "C3", "A1", "A3"}
    assert [result.outcome for result in results] == ["held"] * 9
    assert (admin.list("pki/certs"), admin.list("transit/keys")) == before
    assert not any(pair.victim in result.evidence for result in results)


@pytest.mark.parametrize("rotated", ["attacker", "victim"])
def test_attacks_are_rejected_with_different_key_versions(
    probe: VaultTenantIsolationSuite, pair: Pair, worker: VaultSession, tokens: TenantTokens, rotated: str
) -> None:
    keys, tenant = TransitTenantKeys(worker, tokens), getattr(pair, rotated)
    for version in (1, 2):
        keys.rotate(tenant, version)
    keys.retire(tenant, 3)
    assert [result.outcome for result in pair.attack(probe)] == ["held"] * 9


@pytest.mark.parametrize("disabled", ["attacker", "victim"])
def test_a_disabled_key_proves_nothing(
    probe: VaultTenantIsolationSuite, pair: Pair, worker: VaultSession, tokens: TenantTokens, disabled: str
) -> None:
    TransitTenantKeys(worker, tokens).disable(getattr(pair, disabled))
    with pytest.raises(KeyUnavailable):
        pair.attack(probe)


def test_an_attacker_without_rights_proves_nothing(
    probe: VaultTenantIsolationSuite, pair: Pair, new_tenant: Callable[[], str]
) -> None:
    without_rights = Pair(new_tenant(), pair.victim, pair.attacker_ca, pair.victim_ca)
    with pytest.raises(VaultRefused):
        without_rights.attack(probe)


def test_policy_that_allows_cross_tenant_access_is_a_breach(
    probe: VaultTenantIsolationSuite, pair: Pair, admin: TokenSession
) -> None:
    policy = "sys/policies/acl/openkcm-tenant"
    whole = admin.read(policy)
    assert whole is not None
    loose = ('path "transit/+/L2-*"', 'path "transit/datakey/wrapped/L2-*"')
    admin.write(policy, {"policy": " ".join(f'{path} {{ capabilities = ["update"] }}' for path in loose)})
    try:
        both = pair.attack_each_other(probe)
    finally:
        admin.write(policy, {"policy": whole["policy"]})
    for results in both:
        assert breaches(results) == (
            "encrypt-with-foreign-token",
            "make-key-with-foreign-token",
            "decrypt-with-foreign-token",
        )
    assert breaches(pair.attack(probe)) == ()


def test_ca_that_is_constrained_to_all_tenants_is_rejected(
    probe: VaultTenantIsolationSuite, pair: Pair, admin: TokenSession
) -> None:
    csr = admin.write(f"transit/keys/{ids.ca_key(pair.attacker)}/csr")["csr"]
    loose = admin.write(
        "pki/root/sign-intermediate",
        {
            "csr": csr,
            "common_name": "loose",
            "permitted_dns_domains": ["tenants.openkcm.internal"],
            "max_path_length": 0,
        },
    )
    forged = Authority(
        "00", loose["certificate"], loose["certificate"] + loose["issuing_ca"], pair.attacker_ca.not_after, "", 1
    )
    with pytest.raises(ConflictingResource, match="not constrained to one tenant"):
        probe.attack_each_other(pair.attacker, pair.victim, forged, pair.victim_ca)
