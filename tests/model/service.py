"""What the crypto service does for one request after the other.

A look at the caller and the last check with the answer are one step each; what can come between the parts of these is
explored with the real code by tests/crypto_service/core/test_model.py.
"""

from collections.abc import Iterator

from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from tests.model.people import told
from tests.model.state import (
    ACTIVE,
    AWAY,
    COMPROMISED,
    DOWN,
    GRACE,
    OPENING,
    UP,
    WELL,
    Asking,
    D,
    Kept,
    Key,
    Opening,
    Rules,
    Scope,
    T,
    Tenant,
    World,
    Wrap,
)

NEWEST = 0
"""The place of the key that encrypts; every other place is a version that decrypts."""


def fresh(tenant: Tenant, rules: Rules) -> bool:
    """Whether what is known of the caller may still be believed."""
    return tenant.seen is not None and (tenant.seen[1] < T or not rules.bounds_callers)


def allows(state: State, place: int) -> bool:
    return state in (ENCRYPTS if place == NEWEST else DECRYPTS)


def serves(tenant: Tenant, world: World, rules: Rules, scope: Scope) -> Iterator[tuple[str, Tenant]]:
    if tenant.unheard and world.link == WELL:
        yield "the crypto service hears of it", told(tenant, rules, rules.forgets_when_told)
    if world.link != DOWN and (tenant.seen is None or tenant.seen[1] > 0 or tenant.asking is not None):
        state = tenant.life.standing.state
        if tenant.seen != (state, 0):
            yield "looks at the caller", tenant._replace(seen=(state, 0))
    if tenant.asking is None:
        if fresh(tenant, rules) and tenant.seen is not None:
            for place in range(0 if scope.encrypts else 1, len(tenant.versions) + 1):
                if allows(tenant.seen[0], place):
                    asking = Asking(place, waits=False, key=None, age=0, old=False)
                    yield f"is asked to {_verb(place)}", tenant._replace(asking=asking)
    elif tenant.asking.key is None:
        yield "the client gives up", tenant._replace(asking=None)
        yield from _wants(tenant, tenant.asking, rules)
    else:
        yield from _answers(tenant, tenant.asking, rules)
    if tenant.opening is not None:
        yield from _opens(tenant, tenant.opening, world, rules)


def _verb(place: int) -> str:
    return "encrypt" if place == NEWEST else f"decrypt with version {place}"


def _wants(tenant: Tenant, asking: Asking, rules: Rules) -> Iterator[tuple[str, Tenant]]:
    for kept in tenant.kept:
        if kept.place == asking.place and not asking.waits:
            opening = tenant.opening
            if opening is None and kept.age * 2 >= T:
                opening = Opening(kept.place, None, half=False, age=0, replaced=False)  # nobody waits for it
            has = asking._replace(key=kept.key)
            yield "takes the key from memory", tenant._replace(asking=has, opening=opening)
            return
    opening = tenant.opening
    if opening is None:
        begun = Opening(asking.place, None, half=False, age=0, replaced=False)
        yield "begins to open the key", tenant._replace(opening=begun, asking=asking._replace(waits=True))
    elif not asking.waits and opening.place == asking.place and not (opening.replaced and rules.joins_no_old_opening):
        yield "waits for the opening under way", tenant._replace(asking=asking._replace(waits=True))


def _opens(tenant: Tenant, opening: Opening, world: World, rules: Rules) -> Iterator[tuple[str, Tenant]]:
    if opening.row is None:
        if world.link != DOWN:
            row = _row(tenant, opening.place)
            if row is None:
                yield "finds no such key", _failed(tenant, opening)
            else:
                yield "reads the key's row", tenant._replace(opening=opening._replace(row=row))
        return
    number, wrap, compromised = opening.row
    holder = UP if opening.half else tenant.holder(wrap.root)
    if holder == AWAY:
        yield "cannot reach the root key", _failed(tenant, opening)
    elif holder != UP:
        kept = () if rules.empties_when_taken_away else tenant.kept
        yield "is refused by the root key", _failed(tenant._replace(kept=kept, told_gone=bool(kept)), opening)
    elif not opening.half and wrap.good and (wrap.tenant == tenant.name or not rules.binds_context):
        yield "has the outer layer opened", tenant._replace(opening=opening._replace(half=True))
    elif tenant.destroyed or not tenant.l2.oldest <= wrap.l2 <= tenant.l2.newest:
        if _row(tenant, opening.place) not in {None, opening.row} and world.link != DOWN:
            yield "reads the row once more", tenant._replace(opening=opening._replace(row=None, half=False))
        else:
            yield "finds the tenant key's version gone", _failed(tenant, opening)
    elif not wrap.good or (wrap.tenant != tenant.name and (rules.binds_context or rules.l2_of_its_own)):
        yield "finds that the wrap does not open in its place", _failed(tenant, opening)
    else:
        yield f"opens version {number}", _opened(tenant, opening, Key(wrap.tenant, number, compromised), rules)


def _row(tenant: Tenant, place: int) -> tuple[int, Wrap, bool] | None:
    for number, version in enumerate(tenant.versions, start=1):
        wanted = version.state == ACTIVE if place == NEWEST else number == place and version.state in OPENING
        if wanted and version.wrap is not None and version.wrap.root in tenant.credentials:
            return number, version.wrap, version.state == COMPROMISED
    return None


def _failed(tenant: Tenant, opening: Opening) -> Tenant:
    waited = tenant.asking is not None and tenant.asking.waits and tenant.asking.place == opening.place
    return tenant._replace(opening=None, asking=None if waited else tenant.asking)


def _opened(tenant: Tenant, opening: Opening, key: Key, rules: Rules) -> Tenant:
    asking, kept = tenant.asking, tenant.kept
    if asking is not None and asking.waits and asking.place == opening.place:
        asking = asking._replace(waits=False, key=key)
    if not opening.replaced:
        age = opening.age if rules.counts_from_the_beginning else 0
        places = {opening.place, key.version}
        kept = tuple(sorted([one for one in kept if one.place not in places] + [Kept(p, key, age) for p in places]))
    return tenant._replace(asking=asking, kept=kept, opening=None, told_gone=False)


def _answers(tenant: Tenant, asking: Asking, rules: Rules) -> Iterator[tuple[str, Tenant]]:
    """The last look at the caller and the answer, between which nothing gives up the loop."""
    key, done = asking.key, tenant._replace(asking=None)
    if rules.looks_again and not fresh(tenant, rules):
        return  # looks at the caller first
    if rules.looks_again and tenant.seen is not None and not allows(tenant.seen[0], asking.place):
        yield "refuses, for the tenant is closed", done
    elif key is not None and key.compromised and asking.place != NEWEST and rules.refuses_compromised:
        yield "refuses, for the version is compromised", done
    else:
        yield "answers", done


def ticks(world: World, rules: Rules) -> World:
    """Return the world a tick later; what hangs for longer than its time-outs has ended."""
    return world._replace(tenants=tuple(_older(tenant, rules) for tenant in world.tenants))


def _older(tenant: Tenant, rules: Rules) -> Tenant:
    asking, opening = tenant.asking, tenant.opening
    kept = tuple(one._replace(age=min(one.age + 1, T)) for one in tenant.kept)
    refused = tenant.holder(tenant.root) not in {UP, AWAY} or tenant.destroyed
    closed = tenant.life.standing.state not in DECRYPTS
    hangs = opening is not None and opening.age >= D
    # Who waits for what hangs gets its error.
    late = asking is None or asking.age >= D or (hangs and asking.waits)
    most = T + D
    return tenant._replace(
        health=(AWAY, min(tenant.health[1] + 1, GRACE + 1)) if tenant.health[0] == AWAY else tenant.health,
        closed_for=min(tenant.closed_for + 1, most) if closed else 0,
        gone_for=min(tenant.gone_for + 1, most) if refused else 0,
        seen=tenant.seen and (tenant.seen[0], min(tenant.seen[1] + 1, T)),
        kept=tuple(one for one in kept if one.age < T) if rules.bounds_keys else kept,
        asking=None if asking is None or late else asking._replace(age=asking.age + 1),
        opening=None if opening is None or hangs else opening._replace(age=opening.age + 1),
    )
