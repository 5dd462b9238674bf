"""What must never be. Each has a name, by which the mutants say what they break."""

from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from tests.model.people import ROOT_KEY, SWITCH
from tests.model.service import NEWEST
from tests.model.state import ACTIVE, DEACTIVATED, DESTROYED, OPENING, PREPARED, UP, D, T, Tenant, World, Wrap

AFTER_REVOKE = "no decrypt after revoke + T"
AFTER_WORD = "no answer after word of the change"
CROSS_TENANT = "no cross-tenant unwrap"
WORKING_WRAP = "never without a working wrap"
ONE_ACTIVE = "one version encrypts"
LOCKS = "a lock ends by its own reason alone"
DESTRUCTION = "nothing comes back from destruction"
HALF_DONE = "nothing is kept of what was given up"
TAKEN_AWAY = "what is open is dropped once the root key refuses"
SEALED = "no version is destroyed that something is sealed under"


def breach(before: World, words: str, after: World) -> str | None:
    """Return what a step breaks."""
    for was, now in zip(before.tenants, after.tenants, strict=True):
        if was is now or was == now:
            continue
        broken = _answer(was, words) or _memory(was, words, now) or _standing(was, words, now) or _keys(was, now)
        if broken is not None:
            return broken
    return None


def _answer(was: Tenant, words: str) -> str | None:
    if not words.endswith(": answers") or was.asking is None or was.asking.key is None:
        return None
    asking, key, encrypts = was.asking, was.asking.key, was.asking.place == NEWEST
    if key.tenant != was.name:
        return CROSS_TENANT
    if was.gone_for >= T + D or was.closed_for >= T + D:
        return AFTER_REVOKE
    closed = was.life.standing.state not in (ENCRYPTS if encrypts else DECRYPTS)
    ended = was.versions[key.version - 1].state not in ({ACTIVE} if encrypts else {ACTIVE, DEACTIVATED})
    # A request that was under way when the word came may end with the key that it had asked for.
    return AFTER_WORD if not was.unheard and (closed or (ended and not asking.old)) else None


def _memory(was: Tenant, words: str, now: Tenant) -> str | None:
    if words.endswith("takes the key from memory") and was.told_gone:
        return TAKEN_AWAY
    if any(one.key.tenant != now.name for one in now.kept):
        return CROSS_TENANT
    return None


def _standing(was: Tenant, words: str, now: Tenant) -> str | None:
    if was.life is now.life:
        return None
    before, after = was.life.standing, now.life.standing
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


def _keys(was: Tenant, now: Tenant) -> str | None:  # noqa: PLR0911 - a line for each
    if now.destroyed or now.life.destroying or now.tampered:
        return None
    if now.changing_to is None and any(one.staged is not None for one in now.versions):
        return HALF_DONE
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
    """Whether the holder of the root key in force can open it, and then the tenant key."""
    return (
        wrap is not None
        and wrap.good
        and wrap.root == tenant.root
        and wrap.root in tenant.credentials
        and tenant.l2.oldest <= wrap.l2 <= tenant.l2.newest
    )
