"""What there is: of each tenant what is on record, at the key servers, and in the crypto service's memory.

Everything is a value. Numbers that grow (ages) stop growing where nothing depends on them any more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from core.keys.rotation import OPENING as OPENING_STATES
from core.keys.rotation import KeyState
from core.tenants import locks
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason, LockState

T = 2
"""Ticks for which the crypto service believes what it remembers: `crypto_cache_seconds`."""
D = 1
"""Ticks that a call may hang before its time-outs end it."""
GRACE = 1
"""Ticks for which a root key may be out of reach before its tenant is locked."""

PLATFORM, CUSTOMER, OTHER = "platform's key", "customer's key", "customer's other key"
"""Root keys (L1)."""
UP, AWAY, GONE, HALF = "usable", "out of reach", "taken away", "wraps and does not open"
"""What the holder of a root key lets us do."""
WELL, DEAF, DOWN = "well", "feed lost", "database down"

PREPARED, ACTIVE, DEACTIVATED = KeyState.PREPARED.value, KeyState.ACTIVE.value, KeyState.DEACTIVATED.value
COMPROMISED, DESTROYED = KeyState.COMPROMISED.value, KeyState.DESTROYED.value
OPENING = frozenset(state.value for state in OPENING_STATES)


class Life(NamedTuple):
    """A tenant's standing; `returns_to` while it is leaving, `destroying` behind the point of no return."""

    standing: LockState
    returns_to: State | None = None
    destroying: bool = False


class Wrap(NamedTuple):
    """A service key under both layers. `good` is whether the root key opens what it wrapped."""

    tenant: str
    root: str
    l2: int
    good: bool = True


class Version(NamedTuple):
    """A version of the service key (L3): its wrap in force, and the one that waits beside it."""

    state: str
    wrap: Wrap | None
    staged: Wrap | None = None


class L2(NamedTuple):
    """The tenant key: the newest and the oldest version that opens, at the key server and on record."""

    newest: int = 1
    oldest: int = 1
    recorded: int = 1
    recorded_oldest: int = 1


class Work(NamedTuple):
    """What a worker has read and made and not committed; it may come back long after it was given up as lost."""

    number: int
    version: int
    read: Wrap | None
    made: Wrap


class Key(NamedTuple):
    """An opened service key: whose it is, and what its row said."""

    tenant: str
    version: int
    compromised: bool


class Kept(NamedTuple):
    """A key in memory, found under `place`: a version, or 0 for the one that encrypts."""

    place: int
    key: Key
    age: int


class Opening(NamedTuple):
    """A key being opened; `row` is what was read, `half` whether the root key has done its part.

    `replaced`: a change was heard of since it began.
    """

    place: int
    row: tuple[int, Wrap, bool] | None
    half: bool
    age: int
    replaced: bool


class Asking(NamedTuple):
    """A request under way; `key` once it has it, `old` once a change was heard of since it began."""

    place: int
    waits: bool
    key: Key | None
    age: int
    old: bool


class Tenant(NamedTuple):
    name: str
    life: Life
    root: str
    holders: tuple[tuple[str, str], ...]
    credentials: frozenset[str]
    health: tuple[str, int] = (UP, 0)
    changes: int = 0
    changing_to: str | None = None
    l2: L2 = L2()
    rotations: int = 0
    rotating_from: int = 0
    for_compromised: bool = False
    versions: tuple[Version, ...] = ()
    sealed: int = 1
    changing: Work | None = None
    rotating: tuple[Work, ...] = ()
    destroyed: bool = False
    tampered: bool = False
    # What time has passed over, for the invariants alone.
    closed_for: int = 0
    gone_for: int = 0
    # The crypto service's memory.
    seen: tuple[State, int] | None = None
    unheard: bool = False
    kept: tuple[Kept, ...] = ()
    opening: Opening | None = None
    asking: Asking | None = None
    told_gone: bool = False

    def holder(self, root: str) -> str:
        return dict(self.holders)[root]


class World(NamedTuple):
    """Two tenants and what their crypto service is connected to."""

    tenants: tuple[Tenant, Tenant]
    link: str = WELL


@dataclass(frozen=True)
class Scope:
    """What may happen in one search, and how often: the bounds within which it shows anything."""

    people: bool = False
    """Tenants are suspended, locked, leave, come back and are destroyed."""
    holders: tuple[str, ...] = (UP,)
    """What may become of a customer's root key."""
    links: bool = False
    serves: bool = False
    """The crypto service is asked to decrypt."""
    encrypts: bool = False
    """It is asked to encrypt as well."""
    time: bool = True
    changes: int = 0
    rotations: int = 0
    compromises: bool = False
    versions: int = 1
    workers: int = 1
    """How many attempts of a rotation are at work: all but one were given up as lost."""
    roots: tuple[str, ...] = (PLATFORM, CUSTOMER)
    begins_with: str = CUSTOMER
    both_move: bool = False
    thief: bool = False


@dataclass(frozen=True)
class Rules:
    """What the product decides. Functions are the product's own; each `bool` is a guard that a mutant leaves out."""

    hold: Callable[[LockState, LockReason], LockState] = locks.add_lock
    release: Callable[[LockState, LockReason], LockState] = locks.remove_lock
    closes: Callable[[str, float, float], bool] = locks.requires_lock
    may_change_root_key: Callable[..., bool] = locks.may_change_root_key
    restores_before_destruction: bool = True
    forgets_when_told: bool = True
    forgets_when_reconnected: bool = True
    forgets_openings: bool = True
    joins_no_old_opening: bool = True
    bounds_keys: bool = True
    bounds_callers: bool = True
    counts_from_the_beginning: bool = True
    looks_again: bool = True
    empties_when_taken_away: bool = True
    refuses_compromised: bool = True
    keys_by_tenant: bool = True
    tenant_by_certificate: bool = True
    binds_context: bool = True
    l2_of_its_own: bool = True
    proves_wraps: bool = True
    keeps_old_wraps: bool = True
    switches_whole: bool = True
    looks_before_switching: bool = True
    replaces_only_what_it_read: bool = True
    refuses_ended: bool = True
    refuses_other_root: bool = True
    refuses_retired: bool = True
    retires_only_empty: bool = True
    records_retirement_first: bool = True
    destroys_only_unused: bool = True
    clears_abandoned: bool = True


def begin(scope: Scope) -> World:
    """Return two active tenants with one service each, and a tenant key of their own."""

    def tenant(name: str) -> Tenant:
        wrap = Wrap(name, scope.begins_with, 1)
        return Tenant(
            name,
            Life(LockState(State.ACTIVE)),
            scope.begins_with,
            tuple((root, UP) for root in scope.roots),
            frozenset({PLATFORM, scope.begins_with}),
            versions=(Version(ACTIVE, wrap),),
        )

    return World((tenant("acme"), tenant("beta")))
