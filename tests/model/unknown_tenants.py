"""Attacks of a tenant, or of an attacker who can write rows, to get a service key of another tenant unwrapped."""

from collections.abc import Iterator

from tests.model.state import DOWN, CachedKey, Rules, World


def attacks(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """Swap rows between tenants; without a guard, a mutant also mixes caches and callers."""
    mine, theirs = world.tenants
    if world.link != DOWN and not theirs.tampered and mine.versions[0].wrap is not None:
        copied = theirs.versions[0]._replace(wrap=mine.versions[0].wrap)
        altered = theirs._replace(versions=(copied, *theirs.versions[1:]), tampered=True, unnotified=True)
        yield "an attacker copies the row of acme's key over beta's", world._replace(tenants=(mine, altered))
    asking = theirs.asking
    if asking is None or asking.key is not None or asking.waits:
        return
    if not rules.keys_by_tenant:
        for cached in mine.cached:
            if cached.place == asking.place:
                has = theirs._replace(asking=asking._replace(key=cached.key))
                yield "beta: takes the key from the cache, which is acme's", world._replace(tenants=(mine, has))
    if not rules.tenant_by_certificate:
        for cached in mine.cached:
            if cached.place == asking.place:
                has = theirs._replace(cached=(CachedKey(cached.place, cached.key, cached.age),))
                yield "beta: claims to be acme", world._replace(tenants=(mine, has))
