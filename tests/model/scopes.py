"""The searches: which part of what may happen each takes together. Everything at once is more than any search ends."""

from types import MappingProxyType

from tests.model.state import AWAY, GONE, HALF, PLATFORM, UP, Scope

SHORT = MappingProxyType(
    {
        "standing": Scope(people=True, holders=(UP, AWAY, GONE)),
        "kill switch": Scope(people=True, serves=True, time=False, links=True),
        "root key taken away": Scope(holders=(UP, GONE), serves=True),
        "root key changed, tenant key rotated": Scope(
            holders=(UP, GONE, HALF),
            changes=1,
            rotations=1,
            versions=2,
            compromises=True,
            begins_with=PLATFORM,
            time=False,
        ),
        "two changes, a rotation": Scope(changes=2, rotations=1, versions=2, begins_with=PLATFORM, time=False),
        "two rotations, a change": Scope(changes=1, rotations=2, versions=2, begins_with=PLATFORM, time=False),
        "a rotation, with a worker that was given up": Scope(rotations=1, versions=2, workers=2, time=False),
        "served while keys rotate": Scope(
            rotations=1, versions=2, serves=True, encrypts=True, compromises=True, time=False
        ),
        "served while the root key changes": Scope(
            holders=(UP, GONE), changes=1, serves=True, time=False, begins_with=PLATFORM
        ),
        "strangers": Scope(serves=True, both_move=True, thief=True, time=False),
    }
)
"""For every run of the tests."""

LONG = MappingProxyType(
    {
        "standing, served": Scope(people=True, serves=True, encrypts=True),
        "standing, served, everything fails": Scope(people=True, serves=True, links=True),
        "root key taken away, everything fails": Scope(holders=(UP, AWAY, GONE), links=True, serves=True),
        "two changes, two rotations": Scope(
            holders=(UP, HALF), changes=2, rotations=2, versions=2, begins_with=PLATFORM, time=False
        ),
        "three versions": Scope(rotations=2, changes=1, versions=3, compromises=True, begins_with=PLATFORM, time=False),
        "served while keys rotate, in time": Scope(rotations=1, versions=2, serves=True, compromises=True),
        "served while the root key changes, in time": Scope(
            holders=(UP, GONE), changes=1, serves=True, begins_with=PLATFORM, links=True
        ),
        "strangers, in time": Scope(serves=True, both_move=True, thief=True),
    }
)
"""For `--long` (make chaos)."""
