"""The crypto service's steps for one request after another.

The check of the caller is one step, and so are the final check and the response. What can occur between their parts is
explored by tests/crypto_service/core/test_model.py with the real code.
"""

from collections.abc import Iterator

from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from tests.model.people import after_notification
from tests.model.state import (
    ACTIVE,
    COMPROMISED,
    CONNECTED,
    DOWN,
    GRACE,
    OPENING,
    UNREACHABLE,
    UP,
    CachedKey,
    D,
    Key,
    Request,
    Rules,
    Scope,
    T,
    Tenant,
    Unwrap,
    World,
    Wrap,
)

NEWEST = 0
"""The slot of the key that encrypts; every other slot is a version that decrypts."""


def fresh(tenant: Tenant, rules: Rules) -> bool:
    """Return whether the cached caller may still be used."""
    return tenant.seen is not None and (tenant.seen[1] < T or not rules.bounds_callers)


def allows(state: State, place: int) -> bool:
    return state in (ENCRYPTS if place == NEWEST else DECRYPTS)


def serves(  # noqa: C901 - one line per step
    tenant: Tenant, world: World, rules: Rules, scope: Scope
) -> Iterator[tuple[str, Tenant]]:
    if tenant.unnotified and world.link == CONNECTED:
        yield "the crypto service is notified", after_notification(tenant, rules, rules.forgets_when_notified)
    if world.link != DOWN and (tenant.seen is None or tenant.seen[1] > 0 or tenant.asking is not None):
        state = tenant.life.lock_state.state
        if tenant.seen != (state, 0):
            yield "refreshes the caller", tenant._replace(seen=(state, 0))
    if tenant.asking is None:
        if fresh(tenant, rules) and tenant.seen is not None:
            for place in range(0 if scope.encrypts else 1, len(tenant.versions) + 1):
                if allows(tenant.seen[0], place):
                    asking = Request(place, waits=False, key=None, age=0)
                    yield f"is asked to {_verb(place)}", tenant._replace(asking=asking)
    elif tenant.asking.key is None:
        yield "the client cancels", tenant._replace(asking=None)
        yield from _wants(tenant, tenant.asking)
    else:
        yield from _answers(tenant, tenant.asking, rules)
    if tenant.unwrap is not None and tenant.unwrap.unwrapped:
        if world.link != DOWN:
            yield _reads_again(tenant, tenant.unwrap, rules)
    elif tenant.unwrap is not None:
        yield from _opens(tenant, tenant.unwrap, world, rules)


def _verb(place: int) -> str:
    return "encrypt" if place == NEWEST else f"decrypt with version {place}"


def _wants(tenant: Tenant, asking: Request) -> Iterator[tuple[str, Tenant]]:
    for cached in tenant.cached:
        if cached.place == asking.place and not asking.waits:
            unwrap = tenant.unwrap
            if unwrap is None and cached.age * 2 >= T:
                unwrap = Unwrap(cached.place, None, outer_unwrapped=False, age=0, replaced=False)  # in the background
            has = asking._replace(key=cached.key)
            yield "takes the key from the cache", tenant._replace(asking=has, unwrap=unwrap)
            return
    unwrap = tenant.unwrap
    if unwrap is None:
        begun = Unwrap(asking.place, None, outer_unwrapped=False, age=0, replaced=False)
        yield "begins to unwrap the key", tenant._replace(unwrap=begun, asking=asking._replace(waits=True))
    elif not asking.waits and unwrap.place == asking.place and not unwrap.replaced:
        yield "waits for the unwrap in progress", tenant._replace(asking=asking._replace(waits=True))


def _opens(  # noqa: C901, PLR0912 - one line per step
    tenant: Tenant, unwrap: Unwrap, world: World, rules: Rules
) -> Iterator[tuple[str, Tenant]]:
    if unwrap.row is None:
        if world.link != DOWN:
            row = _row(tenant, unwrap.place)
            if row is None:
                yield "finds no such key", _fail(tenant, unwrap)
            else:
                yield "reads the key's row", tenant._replace(unwrap=unwrap._replace(row=row))
        return
    number, wrap, compromised = unwrap.row
    holder = UP if unwrap.outer_unwrapped else tenant.holder(wrap.root)
    if holder == UNREACHABLE:
        yield "cannot reach the root key", _fail(tenant, unwrap)
    elif holder != UP:
        cached = () if rules.empties_when_disabled else tenant.cached
        yield (
            "is rejected by the root key",
            _fail(tenant._replace(cached=cached, disabled_ignored=bool(cached)), unwrap),
        )
    elif not unwrap.outer_unwrapped and wrap.valid and (wrap.tenant == tenant.name or not rules.binds_context):
        yield "has the outer layer unwrapped", tenant._replace(unwrap=unwrap._replace(outer_unwrapped=True))
    elif tenant.destroyed or not tenant.l2.oldest <= wrap.l2 <= tenant.l2.newest:
        if _row(tenant, unwrap.place) not in {None, unwrap.row} and world.link != DOWN:
            yield "reads the row again", tenant._replace(unwrap=unwrap._replace(row=None, outer_unwrapped=False))
        else:
            yield "finds the tenant key's version deleted", _fail(tenant, unwrap)
    elif not wrap.valid or (wrap.tenant != tenant.name and (rules.binds_context or rules.l2_per_tenant)):
        yield "finds that the wrap does not decrypt in its context", _fail(tenant, unwrap)
    elif unwrap.replaced and rules.reads_keys_again:
        yield f"unwraps version {number}", tenant._replace(unwrap=unwrap._replace(unwrapped=True))
    else:
        yield f"unwraps version {number}", _unwrapped(tenant, unwrap, Key(wrap.tenant, number, compromised), rules)


def _reads_again(tenant: Tenant, unwrap: Unwrap, rules: Rules) -> tuple[str, Tenant]:
    """Return the step after an unwrap during which a change was notified."""
    assert unwrap.row is not None
    if _row(tenant, unwrap.place) != unwrap.row:
        begun = Unwrap(unwrap.place, None, outer_unwrapped=False, age=0, replaced=False)
        return "reads the row again, which has changed", tenant._replace(unwrap=begun)
    number, wrap, compromised = unwrap.row
    key = Key(wrap.tenant, number, compromised)
    return "reads the row again, which is the same", _unwrapped(tenant, unwrap, key, rules)


def _row(tenant: Tenant, place: int) -> tuple[int, Wrap, bool] | None:
    for number, version in enumerate(tenant.versions, start=1):
        wanted = version.state == ACTIVE if place == NEWEST else number == place and version.state in OPENING
        if wanted and version.wrap is not None and version.wrap.root in tenant.credentials:
            return number, version.wrap, version.state == COMPROMISED
    return None


def _fail(tenant: Tenant, unwrap: Unwrap) -> Tenant:
    waited = tenant.asking is not None and tenant.asking.waits and tenant.asking.place == unwrap.place
    return tenant._replace(unwrap=None, asking=None if waited else tenant.asking)


def _unwrapped(tenant: Tenant, unwrap: Unwrap, key: Key, rules: Rules) -> Tenant:
    asking, cached = tenant.asking, tenant.cached
    if asking is not None and asking.waits and asking.place == unwrap.place:
        # After a change the request takes the key from the cache, once it is there.
        asking = asking._replace(waits=False, key=None if unwrap.unwrapped else key)
    if not unwrap.replaced or unwrap.unwrapped:
        age = unwrap.age if rules.counts_from_the_beginning else 0
        places = {unwrap.place, key.version}
        cached = tuple(
            sorted([one for one in cached if one.place not in places] + [CachedKey(p, key, age) for p in places])
        )
    return tenant._replace(asking=asking, cached=cached, unwrap=None, disabled_ignored=False)


def _answers(tenant: Tenant, asking: Request, rules: Rules) -> Iterator[tuple[str, Tenant]]:
    """The final check of the caller and the response, between which nothing suspends."""
    key, done = asking.key, tenant._replace(asking=None)
    if rules.checks_caller_again and not fresh(tenant, rules):
        return  # refreshes the caller first
    if rules.checks_caller_again and tenant.seen is not None and not allows(tenant.seen[0], asking.place):
        yield "rejects, because the tenant is closed", done
    elif key is not None and key.compromised and asking.place != NEWEST and rules.refuses_compromised:
        yield "rejects, because the version is compromised", done
    else:
        yield "answers", done


def ticks(world: World, rules: Rules) -> World:
    """Return the world a tick later; calls that exceeded their time-outs have ended."""
    return world._replace(tenants=tuple(_advance(tenant, rules) for tenant in world.tenants))


def _advance(tenant: Tenant, rules: Rules) -> Tenant:
    asking, unwrap = tenant.asking, tenant.unwrap
    cached = tuple(one._replace(age=min(one.age + 1, T)) for one in tenant.cached)
    refused = tenant.holder(tenant.root) not in {UP, UNREACHABLE} or tenant.destroyed
    closed = tenant.life.lock_state.state not in DECRYPTS
    hangs = unwrap is not None and unwrap.age >= D
    # A request that waits for a call that timed out gets its error.
    late = asking is None or asking.age >= D or (hangs and asking.waits)
    most = T + D
    return tenant._replace(
        health=(UNREACHABLE, min(tenant.health[1] + 1, GRACE + 1))
        if tenant.health[0] == UNREACHABLE
        else tenant.health,
        closed_for=min(tenant.closed_for + 1, most) if closed else 0,
        disabled_for=min(tenant.disabled_for + 1, most) if refused else 0,
        seen=tenant.seen and (tenant.seen[0], min(tenant.seen[1] + 1, T)),
        cached=tuple(one for one in cached if one.age < T) if rules.bounds_keys else cached,
        asking=None if asking is None or late else asking._replace(age=asking.age + 1),
        unwrap=None if unwrap is None or hangs else unwrap._replace(age=unwrap.age + 1),
    )
