"""A service key under both its layers: made, wrapped by the root key in force, and admitted to the records.

Making takes calls to two servers, in which the root key can be changed and the tenant key rotated. So what was made is
admitted only under the tenant's row lock, which those take too, and only while it still lies under what is in force:
whoever comes too late makes it again.

A new version of a tenant key is admitted only with a fingerprint that no other key has (MTCI U2).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import structlog
from temporalio import activity

from activities.audit_trail import append_audit_event
from activities.concurrency import ContextThreadPool
from activities.metrics import Metrics
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


@dataclass(frozen=True, slots=True)
class ActiveRootKey:
    """Under which root key a tenant's service keys lie, as it was read."""

    tenant: TenantRow
    held: CustomerRootKeyRow | None
    sealed: EncryptedRootKeyRow | None

    @property
    def root_key_id(self) -> str | None:
        """Which of the customer's keys it is; None: the platform's."""
        return None if self.held is None else self.held.root_key_id

    @property
    def name(self) -> str:
        """How people know it."""
        return ids.root_key(self.tenant.region) if self.held is None else self.held.name

    def open(self, shelf: RootKeyCache) -> RootKey:
        """Return it ready for use."""
        if self.held is None:
            return shelf.platform(self.tenant.region)
        return unwrap_service_key(shelf, self.tenant.tenant_id, self.sealed)

    def row(self, service: str, version: int, wrapped: bytes, l2_version: int) -> ServiceKeyRow:
        """Return the record of a service key that it has wrapped."""
        mode = RootKeyMode.PLATFORM if self.held is None else self.held.mode
        l2_key = ids.l2_key(self.tenant.tenant_id)
        return ServiceKeyRow(
            service, version, l2_key, mode, self.name, wrapped, self.root_key_id, l2_version=l2_version
        )


def root_key_in_force(tx: TenantTransaction, tenant: TenantRow) -> ActiveRootKey:
    """Read it; raises Overtaken when it is being replaced at this moment."""
    held = tx.root_keys.current()
    sealed = None if held is None else tx.root_keys.sealed(held.root_key_id)
    if held is not None and sealed is None:
        raise Superseded("the root key was changed meanwhile", "the next attempt uses the new one")
    return ActiveRootKey(tenant, held, sealed)


def require_current_root_key(tx: TenantTransaction, read: ActiveRootKey) -> None:
    """Raise Overtaken when the root key is no longer the one that was read; the caller holds the tenant's row lock."""
    now = tx.root_keys.current()
    if (None if now is None else now.root_key_id) != read.root_key_id:
        raise Superseded("the root key was changed meanwhile", "the next attempt uses the new one")


def require_active_version(tx: TenantTransaction, l2_version: int) -> None:
    """Raise Overtaken when a version of the tenant key opens nothing any more; the caller holds the row lock."""
    key = tx.keys.get(ids.l2_key(tx.tenant_id))
    if key is not None and l2_version < key.oldest:
        raise Superseded("the tenant key was rotated meanwhile", "the next attempt uses the new version")


def unwrap_service_key(shelf: RootKeyCache, tenant_id: str, row: EncryptedRootKeyRow | None) -> RootKey:
    """Return a root key on record, ready for use; raises RootKeyDenied when its credentials were forgotten."""
    if row is None:
        raise RootKeyDenied("the root key's credentials were forgotten when it was retired")
    return shelf.held(tenant_id, row.root_key_id, row.place, row.credentials)


def verify_wrapped_key(root_key: RootKey, context: EncryptionContext, inner: bytes) -> bytes:
    """Return `inner` wrapped, seen to open again."""
    wrapped = root_key.wrap(context, inner)
    if root_key.unwrap(context, wrapped) != inner:
        raise WrongContext("the root key does not open what it has just wrapped")
    return wrapped


def all_unwrapped(
    pool: ContextThreadPool, root_key: RootKey, contexts: Sequence[EncryptionContext], wraps: Sequence[bytes]
) -> Sequence[bytes]:
    """Return what lies under the root key, in one call where its server takes many; with a sign of life for each."""
    if isinstance(root_key, BatchRootKey):
        return root_key.unwrap_all(list(zip(contexts, wraps, strict=True)))
    return list(_beating(pool.map(root_key.unwrap, contexts, wraps)))


def verify_wrapped_keys(
    pool: ContextThreadPool, root_key: RootKey, contexts: Sequence[EncryptionContext], inners: Sequence[bytes]
) -> Sequence[bytes]:
    """Return each of `inners` wrapped, seen to open again; as above."""
    if isinstance(root_key, BatchRootKey):
        wraps = root_key.wrap_all(list(zip(contexts, inners, strict=True)))
        if list(root_key.unwrap_all(list(zip(contexts, wraps, strict=True)))) != list(inners):
            raise WrongContext("the root key does not open what it has just wrapped")
        return wraps
    return list(_beating(pool.map(verify_wrapped_key, repeat(root_key), contexts, inners)))


def _beating(results: Iterable[bytes]) -> Iterator[bytes]:
    for result in results:
        activity.heartbeat()
        yield result


def context_of(tenant_id: str, service: str, version: int) -> EncryptionContext:
    """Return what binds both layers of a service key to its place."""
    return EncryptionContext(tenant_id, ids.l2_key(tenant_id), service, Purpose.SERVICE_KEY, str(version))


_REFUSED = {Fingerprinted.TAKEN: TenantKeyShared, Fingerprinted.CHANGED: TenantKeyReplaced}

log = structlog.get_logger()


def refused_fingerprint(
    tx: TenantTransaction, step: StepInput, key: TransitKey, fingerprint: str
) -> OpenKcmError | None:
    """Put the newest version's fingerprint on record; return why the key must not be used, None when it may.

    The caller raises what is returned once the transaction is committed: by then it is in the audit stream.
    """
    refusal = _REFUSED.get(tx.fingerprints.record(key.name, key.version, fingerprint))
    if refusal is None:
        return None
    append_audit_event(
        tx, step, AuditName.TENANT_KEY_REFUSED, key.name, "failure", version=str(key.version), code=refusal.code
    )
    return refusal()


def alarm(metrics: Metrics, tenant_id: str, refusal: OpenKcmError) -> None:
    """Say it where somebody is woken: as a boundary that was breached."""
    log.error("tenant key refused", tenant_id=tenant_id, code=refusal.code)
    metrics.count_boundary_checks(
        [CheckResult(clause="U2", name="fingerprint", outcome="breached", seconds=0, evidence=refusal.message)]
    )
