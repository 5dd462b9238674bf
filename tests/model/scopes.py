"""The searches: each combines a part of the possible steps. A search of all steps at once would not end."""

from types import MappingProxyType

from tests.model.state import DISABLED, PLATFORM, UNREACHABLE, UP, WRAP_ONLY, Scope

SHORT = MappingProxyType(
    {
        "tenant status": Scope(people=True, holders=(UP, UNREACHABLE, DISABLED)),
        "manual lock": Scope(people=True, serves=True, time=False, links=True),
        "root key disabled": Scope(holders=(UP, DISABLED), serves=True),
        "root key changed, tenant key rotated": Scope(
            holders=(UP, DISABLED, WRAP_ONLY),
            changes=1,
            rotations=1,
            versions=2,
            compromises=True,
            begins_with=PLATFORM,
            time=False,
        ),
        "two changes, a rotation": Scope(changes=2, rotations=1, versions=2, begins_with=PLATFORM, time=False),
        "two rotations, a change": Scope(changes=1, rotations=2, versions=2, begins_with=PLATFORM, time=False),
        "a rotation, with an abandoned worker": Scope(rotations=1, versions=2, workers=2, time=False),
        "served while keys rotate": Scope(
            rotations=1, versions=2, serves=True, encrypts=True, compromises=True, time=False
        ),
        "served while the root key changes": Scope(
            holders=(UP, DISABLED), changes=1, serves=True, time=False, begins_with=PLATFORM
        ),
        "attacks": Scope(serves=True, both_move=True, attacker=True, time=False),
    }
)
"""For every test run."""

LONG = MappingProxyType(
    {
        "tenant status, served": Scope(people=True, serves=True, encrypts=True),
        "tenant status, served, everything fails": Scope(people=True, serves=True, links=True),
        "root key disabled, everything fails": Scope(holders=(UP, UNREACHABLE, DISABLED), links=True, serves=True),
        "two changes, two rotations": Scope(
            holders=(UP, WRAP_ONLY), changes=2, rotations=2, versions=2, begins_with=PLATFORM, time=False
        ),
        "three versions": Scope(rotations=2, changes=1, versions=3, compromises=True, begins_with=PLATFORM, time=False),
        "served while keys rotate, in time": Scope(rotations=1, versions=2, serves=True, compromises=True),
        "served while the root key changes, in time": Scope(
            holders=(UP, DISABLED), changes=1, serves=True, begins_with=PLATFORM, links=True
        ),
        "attacks, in time": Scope(serves=True, both_move=True, attacker=True),
    }
)
"""For `--long` (make chaos)."""
