"""Snapshot of a tenant for a compliance report. Imports no psycopg: it uses the interfaces of the database package."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from compliance.coverage.assessment import FullyCovered, ServiceCoverage, Unknown
from compliance.coverage.reader import read_coverage
from core import names as ids
from core.certificates import AuthorityState
from core.errors.tenants import TenantUnknown
from core.keys.rotation import KeyState
from core.services import ServiceState
from core.tenants.locks import HEALTHY
from core.tenants.policy import TenantPolicy
from database.connection.transaction import TenantTransaction
from database.isolation import BoundaryRunRow
from database.keys import KeyRow, KeyVersionRow
from database.tenants import TenantRow
from openkcm.verification.reports.model import CoveredService, InventoryKey, LatestCheck, Snapshot

_KEY_SERVER = "the platform's key server"
_PLATFORM = "the platform"
_KIND = "L2"
_SLACK = timedelta(days=1)
"""A key is overdue a day after it is due: the check for due keys runs every hour, and a rotation takes time."""


def read_stated(tx: TenantTransaction, now: datetime) -> Snapshot:
    """Return the snapshot; `tx` should be a snapshot transaction, so that all parts are of the same moment.

    Raises:
        TenantUnknown: the tenant does not exist.
    """
    tenant, policy = tx.tenants.get(), tx.policy.get()
    if tenant is None:
        raise TenantUnknown
    root_key, run = tx.root_keys.current(), tx.boundaries.latest_run()
    versions = tx.services.keys()
    active = {key.service: key for key in versions if key.state is KeyState.ACTIVE}
    ends = [
        service.certificate_not_after
        for service in tx.services.all()
        if service.state is ServiceState.CONNECTED and service.certificate_not_after is not None
    ]
    return Snapshot(
        state=tenant.state,
        root_key_mode=tenant.root_key_mode,
        root_key_holder=_PLATFORM if root_key is None else _holder(tenant.root_key_mode, root_key.name),
        tenant_key_days=policy.tenant_key_days,
        service_key_days=policy.service_key_days,
        four_eyes=tuple(sorted(policy.four_eyes)),
        revoked_keys_readable=policy.revoked_keys_readable,
        resources_recorded=policy.resources_recorded,
        enabled_at=tenant.requested_at,
        coverage=tuple(_covered(one, active.get(one.service)) for one in read_coverage(tx, now).services),
        keys=(
            *_root_keys(tx, tenant),
            *_tenant_keys(tx, policy, now),
            *_service_keys(tx, versions, policy, now),
            *_authorities(tx),
        ),
        checks=tuple(_checks(run)),
        certificates=len(tx.services.valid_leaves(now)),
        next_certificate_expiry=min(ends, default=None),
    )


def _checks(run: BoundaryRunRow | None) -> Iterator[LatestCheck]:
    if run is None:
        return
    for one in run.results:
        yield LatestCheck(**one.model_dump(exclude={"seconds"}), at=run.recorded_at)


def _holder(mode: str, name: str) -> str:
    return f"the customer ({mode}: {name})"


def _covered(one: ServiceCoverage, key: KeyVersionRow | None) -> CoveredService:
    lineage = (
        ()
        if key is None
        else (
            f"{one.service} version {key.version} (L3)",
            f"{key.l2_key} version {key.l2_version} (L2)",
            f"{key.root_key} (L1)",
        )
    )
    gaps = () if isinstance(one.verdict, FullyCovered) else one.verdict.gaps
    return CoveredService(
        service=one.service,
        kind=one.facts.kind,
        state=one.facts.state or "discovered",
        protected=tuple(field.place for field in one.fields if field.field is not None),
        ways=tuple(one.ways),
        under=", ".join(lineage),
        operations_30_days=sum(one.days.values()),
        last_used=max(one.days).isoformat() if one.days else "",
        complete=not gaps,
        is_unknown=isinstance(one.verdict, Unknown),
        gaps=tuple(" ".join(filter(None, (gap.place, gap.missing))) for gap in gaps),
    )


def _root_keys(tx: TenantTransaction, tenant: TenantRow) -> Iterator[InventoryKey]:
    """Yield the current root key. Only its holder sets its cryptoperiod and knows its creation time."""
    held = tx.root_keys.current()
    yield InventoryKey(
        level="L1",
        name=ids.root_key(tenant.region) if held is None else held.name,
        version=1,
        state="active" if held is None or held.health == HEALTHY else "unavailable",
        algorithm="",
        holder=_PLATFORM if held is None else _holder(held.mode, held.name),
        purpose="wraps service keys, outermost",
        created_at=None if held is None else held.created_at,
        cryptoperiod_days=None,
        due_at=None,
        overdue=False,
        last_used_at=None,
    )


def _tenant_keys(tx: TenantTransaction, policy: TenantPolicy, now: datetime) -> Iterator[InventoryKey]:
    """Yield each usable version of the tenant key; only the first and the newest have a recorded creation time."""
    for key in (one for one in tx.keys.all() if one.kind == _KIND):
        for version in range(key.oldest, key.version + 1):
            is_newest = version == key.version
            made = _made(key, version)
            due = made + policy.tenant_key_age if made is not None and is_newest else None
            yield InventoryKey(
                level="L2",
                name=key.name,
                version=version,
                state=KeyState.ACTIVE if is_newest else KeyState.DEACTIVATED,
                algorithm="AES-256-GCM",
                holder=_KEY_SERVER,
                purpose="wraps service keys",
                created_at=made,
                cryptoperiod_days=policy.tenant_key_days,
                due_at=due,
                overdue=due is not None and due + _SLACK < now,
                last_used_at=None,
            )


def _made(key: KeyRow, version: int) -> datetime | None:
    if version == key.version:
        return key.rotated_at
    return key.created_at if version == 1 else None


def _service_keys(
    tx: TenantTransaction, versions: Iterable[KeyVersionRow], policy: TenantPolicy, now: datetime
) -> Iterator[InventoryKey]:
    states = {one.service: one.state for one in tx.services.all()}
    for key in versions:
        due = _due(key, policy.service_key_age) if states.get(key.service) is ServiceState.CONNECTED else None
        yield InventoryKey(
            level="L3",
            name=key.service,
            version=key.version,
            state=key.state,
            algorithm="AES-256",
            holder=f"the database, wrapped by {key.l2_key} version {key.l2_version} and {key.root_key}",
            purpose="encrypts data keys and values of one service",
            created_at=key.created_at,
            cryptoperiod_days=policy.service_key_days,
            due_at=due,
            overdue=due is not None and due + _SLACK < now,
            last_used_at=key.last_opened_at,
        )


def _due(key: KeyVersionRow, age: timedelta) -> datetime | None:
    """Return the due time of the active version; other versions are never due."""
    return (key.activated_at or key.created_at) + age if key.state is KeyState.ACTIVE else None


def _authorities(tx: TenantTransaction) -> Iterator[InventoryKey]:
    for one in tx.certificates.authorities():
        if one.state is AuthorityState.PREPARED:
            continue
        yield InventoryKey(
            level="CA",
            name=ids.ca_key(tx.tenant_id),
            version=one.key_version,
            state=one.state,
            algorithm="ECDSA P-256",
            holder=_KEY_SERVER,
            purpose="signs certificates of services",
            created_at=None,
            cryptoperiod_days=None,
            due_at=one.not_after,
            overdue=False,
            last_used_at=None,
        )
