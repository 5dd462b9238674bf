"""The complete model: the possible steps of two tenants within a scope, by the product's rules or a mutant's."""

from collections.abc import Callable, Iterator

from tests.model.explorer import Found, explore
from tests.model.invariants import breach
from tests.model.operations import change_root_key, rotate
from tests.model.people import acts, links, watch
from tests.model.service import serves, ticks
from tests.model.state import Rules, Scope, World, begin
from tests.model.unknown_tenants import attacks


def successors(scope: Scope, rules: Rules) -> Callable[[World], Iterator[tuple[str, World]]]:
    parts = [acts, watch]
    parts += [change_root_key] if scope.changes else []
    parts += [rotate] if scope.rotations else []
    parts += [serves] if scope.serves else []

    def steps(world: World) -> Iterator[tuple[str, World]]:
        mine, theirs = world.tenants
        for part in parts:
            for words, after in part(mine, world, rules, scope):
                yield f"{mine.name}: {words}", World((after, theirs), world.link)
            if scope.both_move:
                for words, after in part(theirs, world, rules, scope):
                    yield f"{theirs.name}: {words}", World((mine, after), world.link)
        if scope.attacker:
            yield from attacks(world, rules)
        if scope.links:
            yield from links(world, rules)
        if scope.time:
            yield "a tick passes", ticks(world, rules)

    return steps


def search(scope: Scope, rules: Rules | None = None, most: int = 2_000_000) -> Found[World]:
    """Visit every state within a scope."""
    return explore(begin(scope), successors(scope, rules or Rules()), breach, most)
