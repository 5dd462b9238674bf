"""The isolation checks of a tenant's keys and their results."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from activities.isolation.key_suite import KeyIsolationSuite
from config.secrets import BOUNDARY_IDENTITY, read_secret
from config.settings import Settings
from core import names as ids
from core.isolation import CheckResult
from vault.auth.client import TokenSession
from vault.auth.tenant_tokens import TenantTokens
from worker import wiring
from worker import wiring as evidence_wiring

Found = dict[str, CheckResult]
Attack = Callable[[str], Found]
Widen = Callable[..., AbstractContextManager[None]]


def breached(found: Found) -> set[str]:
    return {name for name, result in found.items() if result.outcome == "breached"}


def not_checked(found: Found) -> set[str]:
    return {name for name, result in found.items() if result.outcome == "not-checked"}


def attacks_of(parts: wiring.WorkerDependencies, settings: Settings) -> KeyIsolationSuite:
    tokens = TenantTokens(parts.vault, read_secret(settings.secrets, BOUNDARY_IDENTITY))
    root_key_cache = next(a.__self__._root_keys for a in parts.lifecycle if a.__name__ == "rewrap_keys")
    return evidence_wiring.key_attacks(parts.database, parts.queries, parts.vault, tokens, root_key_cache)


def forget_key(vault_admin: TokenSession, tenant_id: str) -> None:
    """Delete a tenant's key, so that another can replace it."""
    name = f"transit/keys/{ids.l2_key(tenant_id)}"
    vault_admin.write(f"{name}/config", {"deletion_allowed": True})
    vault_admin.delete(name)
