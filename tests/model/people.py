"""The actions of people, customers and servers. The moves of a tenant are the product's own functions."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from core.errors.keys import RootKeyDisabled, RootKeyUnreachable
from core.errors.tenants import InvalidTransition
from core.tenants.lifecycle import DECRYPTS, State, Transition, transition
from core.tenants.locks import HEALTHY, LockReason
from tests.model.state import (
    CONNECTED,
    DESTROYED,
    DOWN,
    FEED_LOST,
    GRACE,
    PLATFORM,
    UNREACHABLE,
    UP,
    Life,
    Rules,
    Scope,
    Tenant,
    World,
)

SWITCH, ROOT_KEY = LockReason.MANUAL, LockReason.ROOT_KEY
CODES = {UP: HEALTHY, UNREACHABLE: RootKeyUnreachable.code}
"""The recorded code of a holder's behaviour; any other behaviour is the customer's decision."""

PEOPLE = ("suspends", "resumes", "locks", "unlocks", "leaves", "restores", "passes the point of no return", "offboards")


@cache
def apply_move(rules: Rules, life: Life, act: str) -> Life | None:  # noqa: C901, PLR0911 - one line for each act
    """Return the state of the tenant after an action; None where the product rejects it."""
    lock_state, back, destroying = life
    state = lock_state.state
    try:
        match act:
            case "suspends":
                return life._replace(lock_state=replace(lock_state, state=transition(state, Transition.SUSPEND)))
            case "resumes":
                return life._replace(lock_state=replace(lock_state, state=transition(state, Transition.RESUME)))
            case "locks":
                return life._replace(lock_state=rules.hold(lock_state, SWITCH))
            case "unlocks":
                return life if state in DECRYPTS else life._replace(lock_state=rules.release(lock_state, SWITCH))
            case "root key holds":
                return life._replace(lock_state=rules.hold(lock_state, ROOT_KEY))
            case "root key releases":
                return life._replace(lock_state=rules.release(lock_state, ROOT_KEY))
            case "leaves":
                return Life(replace(lock_state, state=transition(state, Transition.LEAVE)), state)
            case "restores" if not (destroying and rules.restores_before_destruction):
                return Life(replace(lock_state, state=transition(state, Transition.RESTORE, back)))
            case "passes the point of no return" if state is State.LEAVING and not destroying:
                return life._replace(destroying=True)
            case "offboards" if destroying:
                return life._replace(lock_state=replace(lock_state, state=transition(state, Transition.OFFBOARD)))
    except InvalidTransition:
        pass
    return None


def with_life(tenant: Tenant, life: Life) -> Tenant:
    """Return the tenant after a commit that changed its state; a new state is notified, a new reason is not."""
    state = life.lock_state.state
    unnotified = tenant.unnotified or state is not tenant.life.lock_state.state
    return tenant._replace(life=life, unnotified=unnotified, closed_for=0 if state in DECRYPTS else tenant.closed_for)


def acts(tenant: Tenant, world: World, rules: Rules, scope: Scope) -> Iterator[tuple[str, Tenant]]:
    if scope.people and world.link != DOWN:
        for act in PEOPLE:
            after = apply_move(rules, tenant.life, act)
            if after is not None and after != tenant.life and (act != "offboards" or tenant.destroyed):
                yield act, with_life(tenant, after)
        if tenant.life.destroying and any(one.wrap for one in tenant.versions):
            gone = tuple(one._replace(state=DESTROYED, wrap=None, staged=None) for one in tenant.versions)
            yield "loses its service keys", tenant._replace(versions=gone, unnotified=True)
    if tenant.life.destroying and not tenant.destroyed and not any(one.wrap for one in tenant.versions):
        yield "loses its tenant key", tenant._replace(destroyed=True)
    for root, was in tenant.holders:
        for now in (UP, UNREACHABLE) if root == PLATFORM else scope.holders:
            if now != was and len(scope.holders) > 1:
                holders = tuple((one, now if one == root else is_) for one, is_ in tenant.holders)
                disabled_for = 0 if root == tenant.root else tenant.disabled_for
                yield f"{root} is {now}", tenant._replace(holders=holders, disabled_for=disabled_for)


def watch(tenant: Tenant, world: World, rules: Rules, _scope: Scope) -> Iterator[tuple[str, Tenant]]:
    """The worker monitors the root key in force, and locks or unlocks according to the recorded health."""
    if world.link == DOWN or tenant.root == PLATFORM:
        return
    found = tenant.holder(tenant.root)
    if found != tenant.health[0]:
        yield f"monitoring finds the root key {found}", tenant._replace(health=(found, 0))
    state, reasons = tenant.life.lock_state.state, tenant.life.lock_state.locks
    health, since = tenant.health
    due = rules.closes(CODES.get(health, RootKeyDisabled.code), since, GRACE)
    if due == (ROOT_KEY in reasons) or state not in DECRYPTS | {State.LOCKED}:
        return
    after = apply_move(rules, tenant.life, "root key holds" if due else "root key releases")
    if after is not None:
        yield f"the worker follows its root key: {'locks' if due else 'unlocks'}", with_life(tenant, after)


def links(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """The connection to the database and the feed of its changes fail and recover."""
    if world.link == CONNECTED:
        yield "the feed is lost", world._replace(link=FEED_LOST)
    if world.link != DOWN:
        yield "the database goes down", world._replace(link=DOWN)
    else:
        yield "the database is back", world._replace(link=FEED_LOST)
    if world.link == FEED_LOST:
        yield (
            "the feed is back",
            World(tuple(after_notification(one, rules, rules.forgets_when_reconnected) for one in world.tenants)),
        )


def after_notification(tenant: Tenant, rules: Rules, forgets: bool) -> Tenant:  # noqa: FBT001 - a rule
    """Return the tenant after the crypto service was notified of a change and dropped its caches."""
    asking = tenant.asking
    if asking is not None and asking.key is not None and forgets and rules.reads_keys_again:
        asking = asking._replace(key=None)
    tenant = tenant._replace(unnotified=False, asking=asking)
    if not forgets:
        return tenant
    unwrap = tenant.unwrap
    if unwrap is not None and rules.forgets_unwraps:
        unwrap = unwrap._replace(replaced=True)
    return tenant._replace(cached=(), unwrap=unwrap, seen=None)
