"""What may be asked of a tenant's standing now, and what stops when it is locked."""

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
_SWITCH, _ROOT_KEY = frozenset({LockReason.SWITCH}), frozenset({LockReason.ROOT_KEY})
_OPENED: Mapping[frozenset[LockReason], str] = MappingProxyType(
    {
        frozenset(): "Ask your platform's operator.",
        _SWITCH: "Unlocking releases it, and everything opens as before.",
        _ROOT_KEY: (
            "It opens by itself when the root key works again; unlocking it here is not possible. You can lock it as "
            "well, so that it stays locked then."
        ),
        _SWITCH | _ROOT_KEY: (
            "Each has to go by itself: unlocking releases the switch, and the tenant opens when the root key works "
            "again too."
        ),
    }
)


_NAMES: Mapping[LockReason, str] = MappingProxyType(
    {
        LockReason.SWITCH: "the kill switch",
        LockReason.ROOT_KEY: "the root key",
        LockReason.BREACH: "the platform, for a wall that did not hold",
    }
)
_BREACHED = (
    "Each has to go by itself, and the last one is your platform's operators' to release, after a later examination "
    "that found every wall standing. You can lock it as well, so that it stays locked then."
)


def moves(tenant: TenantRow) -> tuple[StatusChange, ...]:
    """Return what a key administrator can ask for now.

    One who unlocks releases the switch and nothing else, so that a tenant which its root key alone locks cannot be
    unlocked; it can be locked, to stay so when the root key is back.
    """
    if tenant.state is State.LOCKED:
        return (StatusChange.UNLOCK,) if LockReason.SWITCH in tenant.locks else (StatusChange.LOCK,)
    return tuple(
        StatusChange(move)
        for move in (Transition.SUSPEND, Transition.RESUME, Transition.LOCK)
        if move in transitions_from(tenant.state)
    )


def stops(services: Sequence[ServiceRow], now: datetime) -> tuple[str, ...]:
    """Return a line for each connected service, the last used first: its name, kind and when it was last used."""
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
    """Return why a tenant is locked although somebody has just unlocked it; empty when it is not."""
    if tenant.state is not State.LOCKED:
        return ""
    if LockReason.BREACH in tenant.locks:
        return "The kill switch is released. The tenant stays locked for a wall that did not hold; see Overview."
    return (
        "The kill switch is released. The tenant stays locked until its root key works again where you hold it; then "
        "it unlocks by itself."
    )


def explained(tenant: TenantRow) -> str:
    """Return what can be stopped or started in this state, and how the two ways to stop differ."""
    if tenant.state in DECRYPTS:
        return (
            "**Suspended** is decrypt only: services read what is encrypted and encrypt nothing new. **Locked** is "
            "nothing: no key opens and connections end. Neither destroys anything, and both can be undone here."
        )
    if tenant.state is State.LOCKED:
        by = listed([_NAMES[reason] for reason in tenant.locks]) or "something that is not on record"
        if LockReason.BREACH in tenant.locks:
            return f"Locked by {by}. {_BREACHED}"
        return f"Locked by {by}. {_OPENED[frozenset(tenant.locks)]}"
    return f"There is nothing to stop or to start while the tenant is {tenant.state}."
