"""Service keys: wrapped by the tenant key, then by the active root key, then recorded.

Wrapping needs calls to two servers, during which the root key can be changed and the tenant key rotated. A new wrap is
therefore recorded under the tenant's row lock, which those changes take too, and only if both keys are still active.
Otherwise the caller wraps the key again.

A new version of a tenant key is accepted only with a fingerprint that no other key has (MTCI U2).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TypeVar

import structlog
from temporalio import activity

from activities.runtime.audit_trail import append_audit_event
from activities.runtime.concurrency import ContextThreadPool
from activities.runtime.metrics import Metrics
from core import names as ids
from core.errors.compliance import TenantKeyReplaced, TenantKeyShared
from core.errors.keys import RootKeyDenied, WrongContext
from core.errors.platform import Superseded
from core.isolation import CheckResult
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.root_keys import RootKeyMode
from core.messages.base import StepInput
from database.connection.transaction import TenantTransaction
from database.keys import EncryptedRootKeyRow, Fingerprinted, ServiceKeyRow
from database.root_keys import CustomerRootKeyRow
from database.tenants import TenantRow
from kms.interfaces import BatchRootKey, RootKey
from kms.key_cache import RootKeyCache
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError
from vault.transit.keys import TransitKey

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ActiveRootKey:
    """The root key that wraps a tenant's service keys, as of one transaction."""

    tenant: TenantRow
    held: CustomerRootKeyRow | None
    sealed: EncryptedRootKeyRow | None

    @property
    def root_key_id(self) -> str | None:
        """Return the id of the customer's root key; None for the platform's."""
        return None if self.held is None else self.held.root_key_id

    @property
    def name(self) -> str:
        """Return the name that pages and audit events show."""
        return ids.root_key(self.tenant.region) if self.held is None else self.held.name

    def open(self, root_key_cache: RootKeyCache) -> RootKey:
        """Return the root key ready for use."""
        if self.held is None:
            return root_key_cache.platform(self.tenant.region)
        return unwrap_service_key(root_key_cache, self.tenant.tenant_id, self.sealed)

    def row(self, service: str, version: int, wrapped: bytes, l2_version: int) -> ServiceKeyRow:
        """Return the record of a service key that this root key wrapped."""
        mode = RootKeyMode.PLATFORM if self.held is None else self.held.mode
        l2_key = ids.l2_key(self.tenant.tenant_id)
        return ServiceKeyRow(
            service, version, l2_key, mode, self.name, wrapped, self.root_key_id, l2_version=l2_version
        )


def root_key_in_force(tx: TenantTransaction, tenant: TenantRow) -> ActiveRootKey:
    """Return the active root key; raises Superseded when a change replaces it at this moment."""
    held = tx.root_keys.current()
    sealed = None if held is None else tx.root_keys.sealed(held.root_key_id)
    if held is not None and sealed is None:
        raise Superseded("the root key was changed meanwhile", "the next attempt uses the new one")
    return ActiveRootKey(tenant, held, sealed)


def require_current_root_key(tx: TenantTransaction, read: ActiveRootKey) -> None:
    """Raise Superseded when the root key was replaced since `read`; the caller holds the tenant's row lock."""
    now = tx.root_keys.current()
    if (None if now is None else now.root_key_id) != read.root_key_id:
        raise Superseded("the root key was changed meanwhile", "the next attempt uses the new one")


def require_active_version(tx: TenantTransaction, l2_version: int) -> None:
    """Raise Superseded when a version of the tenant key is retired; the caller holds the row lock."""
    key = tx.keys.get(ids.l2_key(tx.tenant_id))
    if key is not None and l2_version < key.oldest:
        raise Superseded("the tenant key was rotated meanwhile", "the next attempt uses the new version")


def unwrap_service_key(root_key_cache: RootKeyCache, tenant_id: str, row: EncryptedRootKeyRow | None) -> RootKey:
    """Return a recorded root key, ready for use; raises RootKeyDenied when its credentials were erased."""
    if row is None:
        raise RootKeyDenied("the root key's credentials were erased when it was retired")
    return root_key_cache.held(tenant_id, row.root_key_id, row.place, row.credentials)


def verify_wrapped_key(root_key: RootKey, context: EncryptionContext, inner: bytes) -> bytes:
    """Return `inner` wrapped, after a test that the wrap can be unwrapped."""
    wrapped = root_key.wrap(context, inner)
    if root_key.unwrap(context, wrapped) != inner:
        raise WrongContext("the root key does not unwrap its own new wrap")
    return wrapped


def all_unwrapped(
    pool: ContextThreadPool, root_key: RootKey, contexts: Sequence[EncryptionContext], wraps: Sequence[bytes]
) -> Sequence[bytes]:
    """Unwrap with the root key, in one call where its server supports batches; else with a heartbeat for each."""
    if isinstance(root_key, BatchRootKey):
        return root_key.unwrap_all(list(zip(contexts, wraps, strict=True)))
    return list(with_heartbeats(pool.map(root_key.unwrap, contexts, wraps)))


def verify_wrapped_keys(
    pool: ContextThreadPool, root_key: RootKey, contexts: Sequence[EncryptionContext], inners: Sequence[bytes]
) -> Sequence[bytes]:
    """Return each of `inners` wrapped, after a test that each wrap can be unwrapped; batches as in `all_unwrapped`."""
    if isinstance(root_key, BatchRootKey):
        wraps = root_key.wrap_all(list(zip(contexts, inners, strict=True)))
        if list(root_key.unwrap_all(list(zip(contexts, wraps, strict=True)))) != list(inners):
            raise WrongContext("the root key does not unwrap its own new wrap")
        return wraps
    return list(with_heartbeats(pool.map(verify_wrapped_key, repeat(root_key), contexts, inners)))


def with_heartbeats(results: Iterable[Result]) -> Iterator[Result]:
    """Yield the results of calls to a server, with a heartbeat for each: together they may outlast its timeout."""
    for result in results:
        activity.heartbeat()
        yield result


def context_of(tenant_id: str, service: str, version: int) -> EncryptionContext:
    """Return the encryption context that binds both layers of a service key to tenant, service and version."""
    return EncryptionContext(tenant_id, ids.l2_key(tenant_id), service, Purpose.SERVICE_KEY, str(version))


_REFUSED = {Fingerprinted.TAKEN: TenantKeyShared, Fingerprinted.CHANGED: TenantKeyReplaced}

log = structlog.get_logger()


def refused_fingerprint(
    tx: TenantTransaction, step: StepInput, key: TransitKey, fingerprint: str
) -> OpenKcmError | None:
    """Record the newest version's fingerprint; return the error for which the key must not be used, or None.

    The caller raises the error after the commit, so that the audit stream contains it.
    """
    refusal = _REFUSED.get(tx.fingerprints.record(key.name, key.version, fingerprint))
    if refusal is None:
        return None
    append_audit_event(
        tx, step, AuditName.TENANT_KEY_REFUSED, key.name, "failure", version=str(key.version), code=refusal.code
    )
    return refusal()


def alarm(metrics: Metrics, tenant_id: str, refusal: OpenKcmError) -> None:
    """Alert the operators with the metric of a breached isolation check."""
    log.error("tenant key refused", tenant_id=tenant_id, code=refusal.code)
    metrics.count_boundary_checks(
        [CheckResult(clause="U2", name="fingerprint", outcome="breached", seconds=0, evidence=refusal.message)]
    )
