"""The invariants. The mutants refer to them by name."""

from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from tests.model.people import ROOT_KEY, SWITCH
from tests.model.service import NEWEST
from tests.model.state import ACTIVE, DEACTIVATED, DESTROYED, OPENING, PREPARED, UP, D, T, Tenant, World, Wrap

AFTER_REVOKE = "no decrypt after revoke + T"
AFTER_NOTIFICATION = "no response after the notification of a change"
CROSS_TENANT = "no cross-tenant unwrap"
WORKING_WRAP = "never without a working wrap"
ONE_ACTIVE = "one version encrypts"
LOCKS = "a lock ends by its own reason alone"
DESTRUCTION = "destruction is irreversible"
NO_LEFTOVERS = "an abandoned change leaves no wraps"
DROPPED_WHEN_DISABLED = "cached keys are dropped when the root key is disabled"
SEALED = "no version in use is destroyed"


def breach(before: World, words: str, after: World) -> str | None:
    """Return the name of the invariant that a step breaks."""
    for was, now in zip(before.tenants, after.tenants, strict=True):
        if was is now or was == now:
            continue
        broken = _answer(was, words) or _memory(was, words, now) or _status(was, words, now) or _keys(was, now)
        if broken is not None:
            return broken
    return None


def _answer(was: Tenant, words: str) -> str | None:
    if not words.endswith(": answers") or was.asking is None or was.asking.key is None:
        return None
    key, encrypts = was.asking.key, was.asking.place == NEWEST
    if key.tenant != was.name:
        return CROSS_TENANT
    if was.disabled_for >= T + D or was.closed_for >= T + D:
        return AFTER_REVOKE
    closed = was.life.lock_state.state not in (ENCRYPTS if encrypts else DECRYPTS)
    ended = was.versions[key.version - 1].state not in ({ACTIVE} if encrypts else {ACTIVE, DEACTIVATED})
    return AFTER_NOTIFICATION if not was.unnotified and (closed or ended) else None


def _memory(was: Tenant, words: str, now: Tenant) -> str | None:
    if words.endswith("takes the key from the cache") and was.disabled_ignored:
        return DROPPED_WHEN_DISABLED
    if any(one.key.tenant != now.name for one in now.cached):
        return CROSS_TENANT
    return None


def _status(was: Tenant, words: str, now: Tenant) -> str | None:
    if was.life is now.life:
        return None
    before, after = was.life.lock_state, now.life.lock_state
    if was.life.destroying and after.state not in {State.LEAVING, State.OFFBOARDED}:
        return DESTRUCTION
    ended = before.locks - after.locks
    by = {
        SWITCH: words.endswith(": unlocks") and "root key" not in words,
        ROOT_KEY: "follows its root key" in words or "switches to" in words,
    }
    opened = before.state is State.LOCKED and after.state in DECRYPTS
    wrong = any(not by[reason] for reason in ended) or (opened and len(before.locks) > 1)
    return LOCKS if wrong or (after.state in DECRYPTS and after.locks) else None


def _keys(was: Tenant, now: Tenant) -> str | None:  # noqa: PLR0911 - one line per invariant
    if now.destroyed or now.life.destroying or now.tampered:
        return None
    if now.changing_to is None and any(one.staged is not None for one in now.versions):
        return NO_LEFTOVERS
    if was.versions == now.versions and was.l2 == now.l2 and was.root == now.root:
        return None
    if [one.state for one in now.versions].count(ACTIVE) != 1:
        return ONE_ACTIVE
    if now.versions[now.sealed - 1].state == DESTROYED:
        return SEALED
    if was.root != now.root and now.holder(now.root) != UP:
        return WORKING_WRAP
    return (
        None
        if all(_works(now, one.wrap) for one in now.versions if one.state in OPENING | {PREPARED})
        else WORKING_WRAP
    )


def _works(tenant: Tenant, wrap: Wrap | None) -> bool:
    """Return whether the root key in force can unwrap it, and then the tenant key."""
    return (
        wrap is not None
        and wrap.valid
        and wrap.root == tenant.root
        and wrap.root in tenant.credentials
        and tenant.l2.oldest <= wrap.l2 <= tenant.l2.newest
    )
