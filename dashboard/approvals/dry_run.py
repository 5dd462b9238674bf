"""The effects of an action that waits for approval: the requester's dry run, for the person who decides."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.keys.rotation import KeyState, RotationScope
from core.tenants.approvals import Action, Argument
from dashboard.components.formatting import count
from dashboard.offboarding import view as leaving
from dashboard.rotation import view as rotation
from dashboard.tenants import view as stopping
from database.connection.transaction import TenantTransaction
from database.keys import KeyRow, KeyVersionRow, VersionUseRow
from database.rotation import RotationRequest
from database.services.repository import ServiceRow

_OF_VERSIONS = frozenset({Action.COMPROMISE, Action.RETIRE_KEY_VERSION})


@dataclass(frozen=True, slots=True)
class Facts:
    """The rows that an action would affect; `grace_days` is the usual grace period of an offboarding."""

    tenant_id: str
    grace_days: float
    services: Sequence[ServiceRow] = ()
    keys: Sequence[KeyRow] = ()
    versions: Sequence[KeyVersionRow] = ()
    uses: Sequence[VersionUseRow] = ()


@dataclass(frozen=True, slots=True)
class Effect:
    """One kind of effect with a line for each service, key or object."""

    title: str
    lines: tuple[str, ...]


def read_facts(tx: TenantTransaction, tenant_id: str, actions: Iterable[Action], grace_days: float) -> Facts:
    """Return the rows that these actions would affect; objects are counted only for actions on key versions."""
    wanted = frozenset(actions)
    if not wanted:
        return Facts(tenant_id, grace_days)
    uses = tx.objects.versions() if wanted & _OF_VERSIONS else ()
    return Facts(tenant_id, grace_days, tx.services.all(), tx.keys.all(), tx.services.keys(), uses)


def effects(action: Action, argument: Argument, facts: Facts, now: datetime) -> tuple[Effect, ...]:
    """Return what an action would stop, change and destroy now; empty for a change of the policy."""
    match action:
        case Action.LOCK:
            return (_stops(facts, now),)
        case Action.OFFBOARD:
            return _stops(facts, now), _destroyed(argument, facts, now)
        case Action.COMPROMISE:
            return _compromise(argument, facts, now)
        case Action.RETIRE_KEY_VERSION:
            return (_retire(argument, facts, now),)
        case Action.ROOT_KEY_TO_PLATFORM:
            return (_rewraps(facts),)
        case Action.CHANGE_POLICY:
            return ()


def _stops(facts: Facts, now: datetime) -> Effect:
    return Effect("Stops immediately", stopping.stops(facts.services, now) or ("No service is connected.",))


def _destroyed(argument: Argument, facts: Facts, now: datetime) -> Effect:
    seconds = argument.get("grace_seconds")
    if argument.get("now") is True:
        title = "Destroyed immediately"
    else:
        grace = timedelta(days=facts.grace_days) if seconds is None else timedelta(seconds=float(str(seconds)))
        title = f"Destroyed after {leaving.until(grace / timedelta(days=1), now)}"
    return Effect(title, leaving.keys_to_destroy(facts.keys, facts.versions))


def _compromise(argument: Argument, facts: Facts, now: datetime) -> tuple[Effect, ...]:
    service = argument.get("service")
    wanted = RotationRequest(
        tenant_key=argument.get("tenant_key") is True,
        services=RotationScope(str(argument.get("services", RotationScope.NONE))),
        service=None if service is None else str(service),
        compromised=True,
    )
    l2 = rotation.l2_of(facts.tenant_id, facts.keys)
    concerned = [
        one
        for one in facts.services
        if wanted.services is RotationScope.ALL or (wanted.services is RotationScope.ONE and one.service == service)
    ]
    names = {one.service for one in concerned}
    objects = sum(use.objects for use in facts.uses if use.service in names)
    found = [Effect("Key versions affected", rotation.happens(wanted, facts.versions, l2, now) or ("None.",))]
    if names:
        found.append(Effect("Can no longer read older data", stopping.stops(concerned, now) or ("No service.",)))
        found.append(Effect("KMIP objects re-encrypted", (f"{count(objects, 'object')}.",)))
    return tuple(found)


def _retire(argument: Argument, facts: Facts, now: datetime) -> Effect:
    service, version = str(argument.get("service")), argument.get("version")
    there = rotation.old(facts.versions, facts.uses, service, now)
    lines = [
        f"**{one.service}**: {one.words}. {one.why_not or 'It protects no KMIP object.'}"
        for one in there
        if one.version == version
    ]
    return Effect("Destroyed immediately", tuple(lines) or ("This version is already destroyed.",))


def _rewraps(facts: Facts) -> Effect:
    kept = [key for key in facts.versions if key.state is not KeyState.DESTROYED]
    services = {key.service for key in kept}
    words = f"{count(len(kept), 'service key version')} of {count(len(services), 'service')}. No service stops."
    return Effect("Re-wrapped with the platform's root key", (words,))
