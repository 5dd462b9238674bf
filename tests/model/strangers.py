"""What a tenant tries, or a thief who can write rows, to have a service key opened for somebody else."""

from collections.abc import Iterator

from tests.model.state import DOWN, Kept, Rules, World


def strangers(world: World, rules: Rules) -> Iterator[tuple[str, World]]:
    """Rows are put in each other's place; and what a guard would have kept apart, a mutant mixes."""
    mine, theirs = world.tenants
    if world.link != DOWN and not theirs.tampered and mine.versions[0].wrap is not None:
        copied = theirs.versions[0]._replace(wrap=mine.versions[0].wrap)
        moved = theirs._replace(versions=(copied, *theirs.versions[1:]), tampered=True, unheard=True)
        yield "a thief puts the row of acme's key in the place of beta's", world._replace(tenants=(mine, moved))
    asking = theirs.asking
    if asking is None or asking.key is not None or asking.waits:
        return
    if not rules.keys_by_tenant:
        for kept in mine.kept:
            if kept.place == asking.place:
                has = theirs._replace(asking=asking._replace(key=kept.key))
                yield "beta: takes the key from memory, which is acme's", world._replace(tenants=(mine, has))
    if not rules.tenant_by_certificate:
        for kept in mine.kept:
            if kept.place == asking.place:
                has = theirs._replace(kept=(Kept(kept.place, kept.key, kept.age),))
                yield "beta: says that it is acme", world._replace(tenants=(mine, has))
