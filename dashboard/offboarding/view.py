"""Texts about a tenant that can be offboarded, is offboarding or is offboarded."""

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
    """Return whether the tenant can be offboarded in its state."""
    return Transition.LEAVE in transitions_from(tenant.state)


def is_restorable(left: OffboardingRow | None) -> bool:
    """Return whether an offboarding tenant can be restored: its keys are not destroyed yet."""
    return left is not None and left.state is State.LEAVING and left.destroying_at is None and not left.immediate


def notice(status: TenantStatusView, left: OffboardingRow | None, now: datetime) -> TenantStatusView:
    """Return the notice of a tenant's state; for an offboarding tenant with the end of the grace period."""
    if left is None or left.state is not State.LEAVING:
        return status
    if left.immediate:
        return replace(
            status,
            title="Destroying keys",
            meaning=f"Offboarded without a grace period {moment(left.since, now)}. The keys are being destroyed.",
            advice="The tenant cannot be restored. A signed erasure certificate is available afterwards.",
        )
    if left.destroying_at is not None:
        return replace(
            status,
            title="Destroying keys",
            meaning=f"The grace period ended {moment(left.destroying_at, now)}. The keys are being destroyed.",
            advice="The tenant can no longer be restored. A signed erasure certificate is available afterwards.",
        )
    if left.until is None:
        return status
    return replace(
        status,
        title=f"Offboarding: restorable until {at(left.until)} ({relative(left.until, now)})",
        advice="No service can read or write encrypted data. A key administrator can restore the tenant here "
        "until then. Afterwards the keys are destroyed and the encrypted data can never be decrypted again.",
    )


def keys_to_destroy(keys: Sequence[KeyRow], service_keys: Iterable[KeyVersionRow]) -> tuple[str, ...]:
    """Return a line for each key that is destroyed after the grace period; the versions of a service share one."""
    versions: dict[str, int] = {}
    for key in service_keys:
        if key.state is not KeyState.DESTROYED:
            versions[key.service] = versions.get(key.service, 0) + 1
    lines = [f"{sentence(_KINDS.get(key.kind, key.kind))[:-1]} {code(key.name)}" for key in keys]
    lines += [f"Key of **{service}**, {count(number, 'version')}" for service, number in sorted(versions.items())]
    rest = len(lines) - _SHOWN
    return tuple(lines) if rest <= 0 else (*lines[:_SHOWN], f"and {count(rest, 'more key')}")


def until(days: float, now: datetime) -> str:
    """Return the end of the grace period of a tenant that is offboarded now."""
    return moment(now + timedelta(days=days), now)


def destroyed(rows: Sequence[KeyToDestroyRow]) -> str:
    """Return the destroyed keys, counted by kind."""
    kinds: dict[str, int] = {}
    for row in rows:
        kinds[row.kind] = kinds.get(row.kind, 0) + 1
    return listed([count(number, kind) for kind, number in sorted(kinds.items())])


def summary(left: OffboardingRow, certificate: ErasureCertificateRow | None, now: datetime) -> tuple[str, ...]:
    """Return the summary of an offboarded tenant."""
    ended = moment(left.offboarded_at, now, "on an unknown date")
    began = moment(left.since, now, "on an unknown date")
    grace = "without a grace period" if left.immediate else f"after a grace period that began {began}"
    lines = [
        f"Offboarded {ended}, {grace}.",
        "Its keys are destroyed. Data encrypted with them can never be decrypted again, from any copy.",
    ]
    if left.erased:
        lines.append(
            f"{count(sum(left.erased.values()), 'row')} about the tenant were erased, including the "
            "organization's name."
        )
    if certificate is not None:
        lines.append(f"Certificate signed {at(certificate.issued_at)} with the key {code(certificate.key)}.")
    return tuple(lines)


def stays() -> tuple[str, ...]:
    """Return a line for each kind of retained record, with the reason."""
    return tuple(f"{code(table)}: {why}" for table, why in KEPT.items())
