"""What is said of a tenant that may leave, is leaving or has left: dry run, way back, and what stays."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from core.keys.rotation import KeyState
from core.tenants.lifecycle import State, Transition, transitions_from
from core.tenants.offboarding import KEPT
from dashboard.components.formatting import at, code, count, listed, moment, relative
from dashboard.components.tenant_status import TenantStatusView, sentence
from database.keys import KeyRow, KeyVersionRow
from database.offboarding import ErasureCertificateRow, KeyToDestroyRow, OffboardingRow
from database.tenants import TenantRow

_SHOWN = 20
_KINDS = {"L2": "tenant key", "CA": "certificate authority's key", "payload": "key of workflow payloads"}


def may_leave(tenant: TenantRow) -> bool:
    """Return whether the tenant can leave from where it is."""
    return Transition.LEAVE in transitions_from(tenant.state)


def is_restorable(left: OffboardingRow | None) -> bool:
    """Return whether a tenant is leaving and can come back: nothing of it is destroyed yet."""
    return left is not None and left.state is State.LEAVING and left.destroying_at is None


def notice(told: TenantStatusView, left: OffboardingRow | None, now: datetime) -> TenantStatusView:
    """Return what is said of a tenant's state, and of one that is leaving until when it can come back."""
    if left is None or left.state is not State.LEAVING:
        return told
    if left.destroying_at is not None:
        return replace(
            told,
            title="Your tenant is being destroyed",
            meaning=f"The grace is over since {moment(left.destroying_at, now)}, and its keys are being destroyed.",
            advice="Nothing can be restored any more. When it is done, a signed certificate says what was destroyed.",
        )
    if left.until is None:
        return told
    return replace(
        told,
        title=f"Your tenant is leaving: restorable until {at(left.until)} ({relative(left.until, now)})",
        advice="No service can read or write encrypted data. Until then somebody who manages keys can restore all of "
        "it here. After that the keys are destroyed and what they encrypted can never be read again.",
    )


def doomed(keys: Sequence[KeyRow], service_keys: Iterable[KeyVersionRow]) -> tuple[str, ...]:
    """Return a line for each key that is destroyed when the grace is over; the versions of a service share one."""
    versions: dict[str, int] = {}
    for key in service_keys:
        if key.state is not KeyState.DESTROYED:
            versions[key.service] = versions.get(key.service, 0) + 1
    lines = [f"{sentence(_KINDS.get(key.kind, key.kind))[:-1]} {code(key.name)}" for key in keys]
    lines += [f"Key of **{service}**, {count(number, 'version')}" for service, number in sorted(versions.items())]
    rest = len(lines) - _SHOWN
    return tuple(lines) if rest <= 0 else (*lines[:_SHOWN], f"and {count(rest, 'more key')}")


def until(days: float, now: datetime) -> str:
    """Return until when a tenant that leaves now can come back."""
    return moment(now + timedelta(days=days), now)


def destroyed(rows: Sequence[KeyToDestroyRow]) -> str:
    """Return what was destroyed, counted by kind."""
    kinds: dict[str, int] = {}
    for row in rows:
        kinds[row.kind] = kinds.get(row.kind, 0) + 1
    return listed([count(number, kind) for kind, number in sorted(kinds.items())])


def farewell(left: OffboardingRow, kept: ErasureCertificateRow | None, now: datetime) -> tuple[str, ...]:
    """Return what there is to say of a tenant that has left."""
    ended = moment(left.offboarded_at, now, "on a day that is not on record")
    began = moment(left.since, now, "on a day that is not on record")
    said = [
        f"It left {ended}, after a grace that began {began}.",
        "Its keys are destroyed. What they encrypted can never be read again, whoever has a copy of it.",
    ]
    if left.erased:
        said.append(f"{count(sum(left.erased.values()), 'row')} about it were erased, your organization's name too.")
    if kept is not None:
        said.append(f"The certificate was signed on {at(kept.issued_at)} with the key {code(kept.key)}.")
    return tuple(said)


def stays() -> tuple[str, ...]:
    """Return a line for each kind of record that is kept, and why."""
    return tuple(f"{code(table)}: {why}" for table, why in KEPT.items())
