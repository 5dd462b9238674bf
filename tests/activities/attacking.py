"""Tenants whose keys are attacked, beside the canary, and the walls of the key server to be taken down."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from temporalio.testing import ActivityEnvironment

from activities.key_attacks import KeyAttacks
from config.secrets import BOUNDARY_IDENTITY, read_secret
from config.settings import Settings
from tenancy import ids
from tenancy.boundaries import CheckResult
from tenancy.ids import CANARY_TENANT_ID
from tenancy.provisioning import Step
from tests.activities.conftest import Provisioning, run_steps
from vault.session import TokenSession
from vault.tokens import TenantTokens
from worker import evidence_wiring, wiring

Found = dict[str, CheckResult]
Attack = Callable[[str], Found]
Widen = Callable[..., AbstractContextManager[None]]
MADE = (Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.ACTIVATE)


def breached(found: Found) -> set[str]:
    return {name for name, result in found.items() if result.outcome == "breached"}


def not_checked(found: Found) -> set[str]:
    return {name for name, result in found.items() if result.outcome == "not-checked"}


def attacks_of(parts: wiring.Parts, settings: Settings) -> KeyAttacks:
    tokens = TenantTokens(parts.vault, read_secret(settings.secrets, BOUNDARY_IDENTITY))
    shelf = next(a.__self__._shelf for a in parts.lifecycle if a.__name__ == "rewrap_keys")
    return evidence_wiring.key_attacks(parts.database, parts.vault, tokens, shelf)


@pytest.fixture
def attack(parts: wiring.Parts, settings: Settings, canary: Provisioning) -> Attack:
    """Return a function that attacks a tenant as an activity does, and gives the results by name."""
    assert canary.is_done(Step.ACTIVATE)
    attacks = attacks_of(parts, settings)
    ActivityEnvironment().run(lambda: attacks(CANARY_TENANT_ID))  # it leaves a probe, which others are tried on

    def attack(tenant_id: str) -> Found:
        results = ActivityEnvironment().run(lambda: attacks(tenant_id))
        found = {result.name: result for result in results}
        assert len(found) == len(results)
        return found

    return attack


@pytest.fixture
def active(tenant: Provisioning) -> Provisioning:
    """An active tenant without a service."""
    run_steps(tenant, MADE)
    return tenant


@pytest.fixture
def widen(vault_admin: TokenSession) -> Widen:
    """Return a function that adds to one role's policy, or changes a text in it, for a while."""

    @contextmanager
    def widen(role: str, more: str = "", *, swap: tuple[str, str] = ("", "")) -> Iterator[None]:
        path = f"sys/policies/acl/openkcm-{role}"
        policy = (vault_admin.read(path) or {})["policy"]
        vault_admin.write(path, {"policy": policy.replace(*swap) + more if swap[0] else policy + more})
        try:
            yield
        finally:
            vault_admin.write(path, {"policy": policy})

    return widen


def forget_key(vault_admin: TokenSession, tenant_id: str) -> None:
    """Delete a tenant's key, to put another in its place."""
    name = f"transit/keys/{ids.l2_key(tenant_id)}"
    vault_admin.write(f"{name}/config", {"deletion_allowed": True})
    vault_admin.delete(name)
