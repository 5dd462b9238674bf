"""What people, customers and servers do. The moves of a tenant are the product's own functions."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from core.errors.keys import RootKeyDisabled, RootKeyUnreachable
from core.errors.tenants import InvalidTransition
from core.tenants.lifecycle import DECRYPTS, State, Transition, transition
from core.tenants.locks import HEALTHY, LockReason
from tests.model.state import AWAY, DEAF, DESTROYED, DOWN, GRACE, PLATFORM, UP, WELL, Life, Rules, Scope, Tenant, World

SWITCH, ROOT_KEY = LockReason.SWITCH, LockReason.ROOT_KEY
CODES = {UP: HEALTHY, AWAY: RootKeyUnreachable.code}
"""What a holder's behaviour is called on record; everything else is the customer's decision."""

PEOPLE = ("suspends", "resumes", "locks", "unlocks", "leaves", "restores", "passes the point of no return", "offboards")


@cache
def moved(rules: Rules, life: Life, act: str) -> Life | None:  # noqa: C901, PLR0911 - one line for each act
    """Return the standing after somebody's act; None where the product refuses."""
    standing, back, destroying = life
    state = standing.state
    try:
        match act:
            case "suspends":
                return life._replace(standing=replace(standing, state=transition(state, Transition.SUSPEND)))
            case "resumes":
                return life._replace(standing=replace(standing, state=transition(state, Transition.RESUME)))
            case "locks":
                return life._replace(standing=rules.hold(standing, SWITCH))
            case "unlocks":
                return life if state in DECRYPTS else life._replace(standing=rules.release(standing, SWITCH))
            case "root key holds":
                return life._replace(standing=rules.hold(standing, ROOT_KEY))
            case "root key releases":
                return life._replace(standing=rules.release(standing, ROOT_KEY))
            case "leaves":
                return Life(replace(standing, state=transition(state, Transition.LEAVE)), state)
            case "restores" if not (destroying and rules.restores_before_destruction):
                return Life(replace(standing, state=transition(state, Transition.RESTORE, back)))
            case "passes the point of no return" if state is State.LEAVING and not destroying:
                return life._replace(destroying=True)
            case "offboards" if destroying:
                return life._replace(standing=replace(standing, state=transition(state, Transition.OFFBOARD)))
    except InvalidTransition:
        pass
    return None


def living(tenant: Tenant, life: Life) -> Tenant:
    """Return the tenant after a commit that changed its standing; another state is announced, another reason is not."""
    state = life.standing.state
    unheard = tenant.unheard or state is not tenant.life.standing.state
    return tenant._replace(life=life, unheard=unheard, closed_for=0 if state in DECRYPTS else tenant.closed_for)


def acts(tenant: Tenant, world: World, rules: Rules, scope: Scope) -> Iterator[tuple[str, Tenant]]:
    if scope.people and world.link != DOWN:
        for act in PEOPLE:
            after = moved(rules, tenant.life, act)
            if after is not None and after != tenant.life and (act != "offboards" or tenant.destroyed):
                yield act, living(tenant, after)
        if tenant.life.destroying and any(one.wrap for one in tenant.versions):
            gone = tuple(one._replace(state=DESTROYED, wrap=None, staged=None) for one in tenant.versions)
            yield "loses its service keys", tenant._replace(versions=gone, unheard=True)
    if tenant.life.destroying and not tenant.destroyed and not any(one.wrap for one in tenant.versions):
        yield "loses its tenant key", tenant._replace(destroyed=True)
    for root, was in tenant.holders:
        for now in (UP, AWAY) if root == PLATFORM else scope.holders:
            if now != was and len(scope.holders) > 1:
                holders = tuple((one, now if one == root else is_) for one, is_ in tenant.holders)
                gone_for = 0 if root == tenant.root else tenant.gone_for
                yield f"{root} is {now}", tenant._replace(holders=holders, gone_for=gone_for)


def watch(tenant: Tenant, world: World, rules: Rules, _scope: Scope) -> Iterator[tuple[str, Tenant]]:
    """The worker tries the root key in force and locks or unlocks by what is on record of it."""
    if world.link == DOWN or tenant.root == PLATFORM:
        return
    found = tenant.holder(tenant.root)
    if found != tenant.health[0]:
        yield f"the watch finds the root key {found}", tenant._replace(health=(found, 0))
    state, reasons = tenant.life.standing.state, tenant.life.standing.locks
    health, since = tenant.health
    due = rules.closes(CODES.get(health, RootKeyDisabled.code), since, GRACE)
    if due == (ROOT_KEY in reasons) or state not in DECRYPTS | {State.LOCKED}:
        return
    after = moved(rules, tenant.life, "root key holds" if due else "root key releases")
    if after is not None:
        yield f"the worker follows its root key: {'locks' if due else 'unlocks'}", living(tenant, after)


def links(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """The database and the feed of its changes come and go."""
    if world.link == WELL:
        yield "the feed is lost", world._replace(link=DEAF)
    if world.link != DOWN:
        yield "the database goes down", world._replace(link=DOWN)
    else:
        yield "the database is back", world._replace(link=DEAF)
    if world.link == DEAF:
        yield (
            "the feed is back",
            World(tuple(told(one, rules, rules.forgets_when_reconnected) for one in world.tenants)),
        )


def told(tenant: Tenant, rules: Rules, forgets: bool) -> Tenant:  # noqa: FBT001 - a rule
    """Return the tenant once the crypto service heard that something changed: what it remembers, it forgets."""
    tenant = tenant._replace(
        unheard=False, asking=tenant.asking and tenant.asking._replace(old=len(tenant.versions) > 1)
    )
    if not forgets:
        return tenant
    opening = tenant.opening
    if opening is not None and rules.forgets_openings:
        opening = opening._replace(replaced=True)
    return tenant._replace(kept=(), opening=opening, seen=None)
