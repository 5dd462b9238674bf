"""Available changes of a tenant's state, and the services that a lock stops."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from core.messages.tenants import StatusChange
from core.services import ServiceState
from core.tenants.lifecycle import DECRYPTS, State, Transition, transitions_from
from core.tenants.locks import LockReason
from dashboard.components.formatting import KIND_NAMES, count, listed, moment
from database.services.repository import ServiceRow
from database.tenants import TenantRow

_SHOWN = 20
_SWITCH, _ROOT_KEY = frozenset({LockReason.MANUAL}), frozenset({LockReason.ROOT_KEY})
_UNLOCK_ADVICE: Mapping[frozenset[LockReason], str] = MappingProxyType(
    {
        frozenset(): "Contact your platform's operator.",
        _SWITCH: "Unlocking restores the former state.",
        _ROOT_KEY: (
            "The tenant unlocks automatically when the root key works again; it cannot be unlocked here. You can "
            "also lock it, so that it stays locked afterwards."
        ),
        _SWITCH | _ROOT_KEY: ("Both locks must be removed: unlock the tenant here, and restore the root key."),
    }
)


_NAMES: Mapping[LockReason, str] = MappingProxyType(
    {
        LockReason.MANUAL: "an administrator",
        LockReason.ROOT_KEY: "the root key",
        LockReason.BREACH: "the platform (failed isolation check)",
    }
)
_BREACH_ADVICE = (
    "All locks must be removed. The platform's operators remove the last one after all isolation checks have "
    "passed. You can also lock the tenant, so that it stays locked afterwards."
)


def moves(tenant: TenantRow) -> tuple[StatusChange, ...]:
    """Return the changes that a key administrator can request now.

    Unlocking removes only the administrator's lock. So a tenant that only its root key locks cannot be unlocked, but it
    can be locked, to stay locked when the root key works again.
    """
    if tenant.state is State.LOCKED:
        return (StatusChange.UNLOCK,) if LockReason.MANUAL in tenant.locks else (StatusChange.LOCK,)
    return tuple(
        StatusChange(move)
        for move in (Transition.SUSPEND, Transition.RESUME, Transition.LOCK)
        if move in transitions_from(tenant.state)
    )


def stops(services: Sequence[ServiceRow], now: datetime) -> tuple[str, ...]:
    """Return a line for each connected service, the last used first: its name, kind and last use."""
    connected = [service for service in services if service.state is ServiceState.CONNECTED]
    never = datetime.min.replace(tzinfo=now.tzinfo)
    ordered = sorted(connected, key=lambda one: (one.last_seen_at or never, one.service), reverse=True)
    lines = [
        f"**{one.service}**, {KIND_NAMES[one.kind]}: "
        f"{'not used so far' if one.last_seen_at is None else f'last used {moment(one.last_seen_at, now)}'}"
        for one in ordered[:_SHOWN]
    ]
    if len(ordered) > _SHOWN:
        lines.append(f"and {count(len(ordered) - _SHOWN, 'more service')}")
    return tuple(lines)


def why_locked_still(tenant: TenantRow) -> str:
    """Return why a tenant is still locked after an unlock; empty when it is not."""
    if tenant.state is not State.LOCKED:
        return ""
    if LockReason.BREACH in tenant.locks:
        return (
            "The administrator's lock is removed. The tenant stays locked because an isolation check failed; "
            "see Compliance."
        )
    return "The administrator's lock is removed. The tenant unlocks automatically when its root key works again."


def explained(tenant: TenantRow) -> str:
    """Return the available controls in this state, and the difference between suspend and lock."""
    if tenant.state in DECRYPTS:
        return (
            "**Suspend** allows decryption only. **Lock** rejects all requests and ends connections. Neither "
            "destroys anything, and both can be undone here."
        )
    if tenant.state is State.LOCKED:
        by = listed([_NAMES[reason] for reason in tenant.locks]) or "an unknown reason"
        if LockReason.BREACH in tenant.locks:
            return f"Locked by {by}. {_BREACH_ADVICE}"
        return f"Locked by {by}. {_UNLOCK_ADVICE[frozenset(tenant.locks)]}"
    return f"Not available while the tenant is {tenant.state}."
