"""Comparison of what PostgreSQL, the key server and Temporal have about the tenants; pure (docs/backup-and-restore.md).

After one of them was restored from a backup it is older than the others. Each difference has a kind, which names the
remedy. A difference of two reads can be an operation in progress, so the caller reads twice and keeps what both show.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from core import names as ids
from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import DENIED, LockRecord

_SERVED = DECRYPTS | {State.LOCKED}
_BEFORE_KEYS = frozenset({State.REQUESTED, State.PROVISIONING})


class SkewKind(StrEnum):
    LOCK_LOST = "lock_lost"
    OFFBOARDING_LOST = "offboarding_lost"
    DESTRUCTION_LOST = "destruction_lost"
    LOCK_UNRECORDED = "lock_unrecorded"
    LOCK_OUTDATED = "lock_outdated"
    TENANT_LOST = "tenant_lost"
    KEY_MISSING = "tenant_key_missing"
    KEY_OLDER = "tenant_key_older"
    KEY_NEWER = "tenant_key_newer"
    KEY_DISABLED = "tenant_key_disabled"
    VERSIONS_RETIRED = "key_versions_retired"
    VERSIONS_DESTROYED = "key_versions_destroyed"
    CA_KEY_MISSING = "ca_key_missing"
    CA_KEY_OLDER = "ca_key_older"
    CA_KEY_NEWER = "ca_key_newer"
    DESTROYED_KEY_FOUND = "destroyed_key_found"
    PAYLOAD_KEY_MISSING = "payload_key_missing"
    CHECKPOINT_REFUSED = "checkpoint_refused"
    WORKFLOW_MISSING = "workflow_missing"
    WORKFLOW_DIFFERS = "workflow_differs"
    WORKFLOW_SURPLUS = "workflow_surplus"
    OFFBOARDING_MISSING = "offboarding_missing"


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a kind means and what an operator does.

    `repair` is whether `doctor --stores --repair` changes something, `replace` whether it replaces the tenant's
    workflows, because they started from other rows.
    """

    meaning: str
    steps: str
    repair: bool = False
    replace: bool = False


_RESTORE_KEY_SERVER = "restore a newer backup of the key server; --repair locks the tenant until then"
REMEDIES: Mapping[SkewKind, Remedy] = MappingProxyType(
    {
        SkewKind.LOCK_LOST: Remedy(
            "the key server has a lock that the database lacks; no service is served",
            "--repair locks the tenant again; openkcmctl tenant unlock if the lock is void",
            repair=True,
            replace=True,
        ),
        SkewKind.OFFBOARDING_LOST: Remedy(
            "the tenant was offboarding; no service is served",
            "--repair starts the grace period again; then openkcmctl tenant restore if the offboarding is void",
            repair=True,
            replace=True,
        ),
        SkewKind.DESTRUCTION_LOST: Remedy(
            "the tenant was offboarded and its keys are destroyed",
            "--repair completes the offboarding",
            repair=True,
            replace=True,
        ),
        SkewKind.LOCK_UNRECORDED: Remedy(
            "the key server lacks the lock of the database", "a worker or --repair records it", repair=True
        ),
        SkewKind.LOCK_OUTDATED: Remedy(
            "the key server has a lock that the database has seen and removed",
            "a worker or --repair removes it",
            repair=True,
        ),
        SkewKind.TENANT_LOST: Remedy(
            "the key server or Temporal has the tenant and the database does not",
            "--repair ends its workflows; then post its service_enabled event again and connect its services again",
            repair=True,
            replace=True,
        ),
        SkewKind.KEY_MISSING: Remedy(
            "the key server lacks the tenant key", _RESTORE_KEY_SERVER, repair=True, replace=True
        ),
        SkewKind.KEY_OLDER: Remedy(
            "the key server lacks the newest version of the tenant key", _RESTORE_KEY_SERVER, repair=True, replace=True
        ),
        SkewKind.KEY_NEWER: Remedy(
            "the key server has a version of the tenant key that the database lacks",
            "openkcmctl key rotate adopts it",
        ),
        SkewKind.KEY_DISABLED: Remedy(
            "the tenant key is disabled in the key server",
            "read in the key server's audit log who disabled it, and enable it there",
        ),
        SkewKind.VERSIONS_RETIRED: Remedy(
            "versions of the tenant key that wrap keys of the database are retired",
            "--repair enables them again; then openkcmctl key rotate wraps the keys with the newest version",
            repair=True,
        ),
        SkewKind.VERSIONS_DESTROYED: Remedy(
            "versions of the tenant key that wrap keys of the database are deleted",
            "restore a newer backup of the database; --repair locks the tenant until then",
            repair=True,
            replace=True,
        ),
        SkewKind.CA_KEY_MISSING: Remedy(
            "the key server lacks the key of the tenant CA", "restore a newer backup of the key server"
        ),
        SkewKind.CA_KEY_OLDER: Remedy(
            "the key server lacks a version of the tenant CA's key", "restore a newer backup of the key server"
        ),
        SkewKind.CA_KEY_NEWER: Remedy(
            "the key server has a version of the tenant CA's key that the database lacks",
            "openkcmctl certificate rotate-ca adopts it; connect services again that have certificates of it",
        ),
        SkewKind.DESTROYED_KEY_FOUND: Remedy(
            "the key server has keys of an offboarded tenant", "--repair destroys them again", repair=True
        ),
        SkewKind.PAYLOAD_KEY_MISSING: Remedy(
            "the key server lacks the key of workflow payloads", "restore a newer backup of the key server"
        ),
        SkewKind.CHECKPOINT_REFUSED: Remedy(
            "the newest checkpoint of the audit stream does not verify with the key server's public keys",
            "see docs/runbook.md#an-audit-stream-does-not-verify",
        ),
        SkewKind.WORKFLOW_MISSING: Remedy(
            "Temporal lacks the tenant workflow", "a worker or --repair starts it", repair=True
        ),
        SkewKind.WORKFLOW_DIFFERS: Remedy(
            "the tenant workflow has another state than the database",
            "--repair replaces it by one that reads the database",
            repair=True,
            replace=True,
        ),
        SkewKind.WORKFLOW_SURPLUS: Remedy(
            "Temporal runs the workflow of an offboarded tenant", "--repair ends it", repair=True, replace=True
        ),
        SkewKind.OFFBOARDING_MISSING: Remedy(
            "Temporal lacks the workflow of the offboarding", "a worker or --repair starts it", repair=True
        ),
    }
)


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant in PostgreSQL. Versions are None where nothing is recorded.

    The tenant key encrypts keys under its versions from `oldest_wrap` to `newest_wrap`. `busy` is a running rotation,
    `seq` the end of the audit stream, `is_signed` whether its newest checkpoint verifies; None without one.
    """

    tenant_id: str
    state: State
    l2_version: int | None = None
    oldest_wrap: int | None = None
    newest_wrap: int | None = None
    ca_version: int | None = None
    payload_key: bool = False
    busy: bool = False
    destroying: bool = False
    seq: int = 0
    is_signed: bool | None = None


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key in Transit: its newest version, and the oldest ones that decrypt and that exist."""

    version: int
    oldest: int = 1
    kept: int = 1
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class RecordedLock:
    """A lock at the key server; `is_outdated` is whether the database proves that it is newer."""

    lock: LockRecord
    is_outdated: bool = False


@dataclass(frozen=True, slots=True)
class StoreStates:
    """What the stores have. `workflows` are the states of the running tenant workflows; None leaves Temporal out."""

    tenants: Mapping[str, TenantRecord]
    keys: Mapping[str, KeyState]
    locks: Mapping[str, RecordedLock] = field(default_factory=dict)
    workflows: Mapping[str, str] | None = None
    offboardings: Collection[str] = frozenset()


@dataclass(frozen=True, slots=True, order=True)
class Skew:
    """One difference."""

    tenant_id: str
    kind: SkewKind
    detail: str = field(default="", compare=False)

    @property
    def remedy(self) -> Remedy:
        return REMEDIES[self.kind]


def compare(stores: StoreStates) -> tuple[Skew, ...]:
    """Return the differences, in order of tenant and kind."""
    found = [skew for tenant in stores.tenants.values() for skew in _of_tenant(tenant, stores)]
    return tuple(sorted([*found, *_lost_tenants(stores)]))


def _of_tenant(tenant: TenantRecord, stores: StoreStates) -> Iterator[Skew]:
    lock = stores.locks.get(tenant.tenant_id)
    offboarded = tenant.destroying or tenant.state is State.OFFBOARDED
    destroyed = not offboarded and _is_destroyed(tenant, lock, stores.keys)
    if destroyed and tenant.state is not State.LEAVING:
        yield Skew(tenant.tenant_id, SkewKind.DESTRUCTION_LOST, f"the database has {tenant.state}")
    else:
        yield from _of_lock(tenant, lock)
    if tenant.state is State.OFFBOARDED:
        yield from _of_destroyed_keys(tenant.tenant_id, stores.keys)
    elif not (destroyed or offboarded):
        yield from _of_keys(tenant, stores.keys)
    if tenant.is_signed is False:
        yield Skew(tenant.tenant_id, SkewKind.CHECKPOINT_REFUSED)
    if stores.workflows is not None:
        yield from _of_workflows(tenant, stores.workflows, stores.offboardings)


def _is_destroyed(tenant: TenantRecord, lock: RecordedLock | None, keys: Mapping[str, KeyState]) -> bool:
    """Return whether the keys were destroyed by an offboarding whose end the database does not have.

    The record becomes `offboarded` up to a minute after the destruction; until then the missing key shows it.
    """
    if lock is None or lock.is_outdated:
        return False
    gone = tenant.l2_version is not None and ids.l2_key(tenant.tenant_id) not in keys
    return lock.lock.state is State.OFFBOARDED or (lock.lock.state is State.LEAVING and gone)


def _of_lock(tenant: TenantRecord, lock: RecordedLock | None) -> Iterator[Skew]:
    if lock is None:
        if tenant.state in DENIED:
            yield Skew(tenant.tenant_id, SkewKind.LOCK_UNRECORDED, f"the database has {tenant.state}")
        return
    detail = f"the key server has {lock.lock.state}, the database {tenant.state}"
    if tenant.seq < lock.lock.seq:
        detail += f" and {lock.lock.seq - tenant.seq} audit records less"
    if lock.is_outdated:
        if tenant.state not in DENIED:
            yield Skew(tenant.tenant_id, SkewKind.LOCK_OUTDATED, detail)
    elif lock.lock.state is State.LEAVING and tenant.state not in {State.LEAVING, State.OFFBOARDED}:
        yield Skew(tenant.tenant_id, SkewKind.OFFBOARDING_LOST, detail)
    elif tenant.state not in DENIED:
        yield Skew(tenant.tenant_id, SkewKind.LOCK_LOST, detail)


def _of_destroyed_keys(tenant_id: str, keys: Mapping[str, KeyState]) -> Iterator[Skew]:
    names = [
        name for name in (ids.l2_key(tenant_id), ids.ca_key(tenant_id), ids.payload_key(tenant_id)) if name in keys
    ]
    if names:
        yield Skew(tenant_id, SkewKind.DESTROYED_KEY_FOUND, ", ".join(names))


def _of_keys(tenant: TenantRecord, keys: Mapping[str, KeyState]) -> Iterator[Skew]:
    tenant_id = tenant.tenant_id
    if tenant.l2_version is not None:
        yield from _of_tenant_key(tenant, tenant.l2_version, keys.get(ids.l2_key(tenant_id)))
    if tenant.ca_version is not None:
        found = keys.get(ids.ca_key(tenant_id))
        detail = f"recorded: {tenant.ca_version}, found: {0 if found is None else found.version}"
        if found is None:
            yield Skew(tenant_id, SkewKind.CA_KEY_MISSING)
        elif found.version < tenant.ca_version:
            yield Skew(tenant_id, SkewKind.CA_KEY_OLDER, detail)
        elif found.version > tenant.ca_version:
            yield Skew(tenant_id, SkewKind.CA_KEY_NEWER, detail)
    if tenant.payload_key and ids.payload_key(tenant_id) not in keys:
        yield Skew(tenant_id, SkewKind.PAYLOAD_KEY_MISSING)


def _of_tenant_key(tenant: TenantRecord, recorded: int, found: KeyState | None) -> Iterator[Skew]:
    tenant_id = tenant.tenant_id
    if found is None:
        yield Skew(tenant_id, SkewKind.KEY_MISSING)
        return
    if found.disabled and tenant.state in _SERVED:
        yield Skew(tenant_id, SkewKind.KEY_DISABLED)
    detail = f"recorded: {recorded}, found: {found.version}"
    oldest = tenant.oldest_wrap
    if found.version < max(recorded, tenant.newest_wrap or 0):
        yield Skew(tenant_id, SkewKind.KEY_OLDER, detail)
    elif oldest is not None and oldest < found.kept:
        yield Skew(tenant_id, SkewKind.VERSIONS_DESTROYED, f"needed from: {oldest}, exist from: {found.kept}")
    elif oldest is not None and oldest < found.oldest:
        yield Skew(tenant_id, SkewKind.VERSIONS_RETIRED, f"needed from: {oldest}, usable from: {found.oldest}")
    elif found.version > recorded and not tenant.busy:
        yield Skew(tenant_id, SkewKind.KEY_NEWER, detail)


def _of_workflows(tenant: TenantRecord, workflows: Mapping[str, str], offboardings: Collection[str]) -> Iterator[Skew]:
    running, state = workflows.get(tenant.tenant_id), tenant.state
    if state is State.OFFBOARDED:
        if running is not None:
            yield Skew(tenant.tenant_id, SkewKind.WORKFLOW_SURPLUS)
        return
    # A workflow starts as `provisioning`, and is `failed` where its provisioning was refused before its first step.
    equal = {state, State.PROVISIONING, State.FAILED} if state in _BEFORE_KEYS else {state}
    if running is None and not tenant.destroying:
        yield Skew(tenant.tenant_id, SkewKind.WORKFLOW_MISSING)
    elif running is not None and running not in equal:
        yield Skew(tenant.tenant_id, SkewKind.WORKFLOW_DIFFERS, f"Temporal has {running}, the database {state}")
    if state is State.LEAVING and tenant.tenant_id not in offboardings:
        yield Skew(tenant.tenant_id, SkewKind.OFFBOARDING_MISSING)


def _lost_tenants(stores: StoreStates) -> Iterator[Skew]:
    keys = {tenant_id for name in stores.keys if (tenant_id := ids.tenant_of_key(name))} - stores.tenants.keys()
    workflows = (stores.workflows or {}).keys() - stores.tenants.keys()
    for tenant_id in keys | workflows:
        places = [place for place, has in (("the key server", keys), ("Temporal", workflows)) if tenant_id in has]
        yield Skew(tenant_id, SkewKind.TENANT_LOST, f"found in {' and '.join(places)}")
