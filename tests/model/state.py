"""The state: for each tenant the recorded data, the state of the key servers, and the crypto service's caches.

Everything is a value. Ages stop growing where nothing depends on them any more.
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
"""Ticks of the crypto service's cache time: `crypto_key_cache_seconds`."""
D = 1
"""Ticks that a call may take before its time-outs end it."""
GRACE = 1
"""Ticks for which a root key may be unreachable before its tenant is locked."""

PLATFORM, CUSTOMER, OTHER = "platform's key", "customer's key", "customer's other key"
"""Root keys (L1)."""
UP, UNREACHABLE, DISABLED, WRAP_ONLY = "usable", "unreachable", "disabled", "able only to wrap"
"""The behaviour of a root key's holder."""
CONNECTED, FEED_LOST, DOWN = "well", "feed lost", "database down"

PREPARED, ACTIVE, DEACTIVATED = KeyState.PREPARED.value, KeyState.ACTIVE.value, KeyState.DEACTIVATED.value
COMPROMISED, DESTROYED = KeyState.COMPROMISED.value, KeyState.DESTROYED.value
OPENING = frozenset(state.value for state in OPENING_STATES)


class Life(NamedTuple):
    """A tenant's state; `returns_to` while it is offboarding, `destroying` after the point of no return."""

    lock_state: LockState
    returns_to: State | None = None
    destroying: bool = False


class Wrap(NamedTuple):
    """A service key wrapped twice. `valid` is whether the root key can unwrap what it wrapped."""

    tenant: str
    root: str
    l2: int
    valid: bool = True


class Version(NamedTuple):
    """A version of the service key (L3): its wrap in force, and a staged one."""

    state: str
    wrap: Wrap | None
    staged: Wrap | None = None


class L2(NamedTuple):
    """The tenant key: the newest and the oldest version that decrypts, at the key server and as recorded."""

    newest: int = 1
    oldest: int = 1
    recorded: int = 1
    recorded_oldest: int = 1


class Work(NamedTuple):
    """What a worker has read and wrapped but not committed; it may complete long after it was abandoned."""

    number: int
    version: int
    read: Wrap | None
    made: Wrap


class Key(NamedTuple):
    """An unwrapped service key: its tenant, and data of its row."""

    tenant: str
    version: int
    compromised: bool


class CachedKey(NamedTuple):
    """A cached key in the slot `place`: a version, or 0 for the one that encrypts."""

    place: int
    key: Key
    age: int


class Unwrap(NamedTuple):
    """An unwrap in progress; `row` is what was read, `outer_unwrapped` whether the outer layer is unwrapped.

    `replaced`: a change was notified since it began. `unwrapped`: its key is unwrapped, and the row is read again.
    """

    place: int
    row: tuple[int, Wrap, bool] | None
    outer_unwrapped: bool
    age: int
    replaced: bool
    unwrapped: bool = False


class Request(NamedTuple):
    """A request in progress; `key` once it has one."""

    place: int
    waits: bool
    key: Key | None
    age: int


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
    # Durations, only for the invariants.
    closed_for: int = 0
    disabled_for: int = 0
    # The crypto service's caches.
    seen: tuple[State, int] | None = None
    unnotified: bool = False
    cached: tuple[CachedKey, ...] = ()
    unwrap: Unwrap | None = None
    asking: Request | None = None
    disabled_ignored: bool = False

    def holder(self, root: str) -> str:
        return dict(self.holders)[root]


class World(NamedTuple):
    """Two tenants, and the connection of their crypto service to the database."""

    tenants: tuple[Tenant, Tenant]
    link: str = CONNECTED


@dataclass(frozen=True)
class Scope:
    """The possible steps of one search and their bounds; a search proves nothing beyond them."""

    people: bool = False
    """Tenants are suspended, locked, offboarded, restored and destroyed."""
    holders: tuple[str, ...] = (UP,)
    """The possible behaviours of a customer's root key."""
    links: bool = False
    serves: bool = False
    """Requests to decrypt occur."""
    encrypts: bool = False
    """Requests to encrypt occur too."""
    time: bool = True
    changes: int = 0
    rotations: int = 0
    compromises: bool = False
    versions: int = 1
    workers: int = 1
    """The number of concurrent attempts of a rotation: all but one were abandoned."""
    roots: tuple[str, ...] = (PLATFORM, CUSTOMER)
    begins_with: str = CUSTOMER
    both_move: bool = False
    attacker: bool = False


@dataclass(frozen=True)
class Rules:
    """The product's decisions. Functions are the product's own; each `bool` is a guard that a mutant removes."""

    hold: Callable[[LockState, LockReason], LockState] = locks.add_lock
    release: Callable[[LockState, LockReason], LockState] = locks.remove_lock
    closes: Callable[[str, float, float], bool] = locks.requires_lock
    may_change_root_key: Callable[..., bool] = locks.may_change_root_key
    restores_before_destruction: bool = True
    forgets_when_notified: bool = True
    forgets_when_reconnected: bool = True
    forgets_unwraps: bool = True
    reads_keys_again: bool = True
    bounds_keys: bool = True
    bounds_callers: bool = True
    counts_from_the_beginning: bool = True
    checks_caller_again: bool = True
    empties_when_disabled: bool = True
    refuses_compromised: bool = True
    keys_by_tenant: bool = True
    tenant_by_certificate: bool = True
    binds_context: bool = True
    l2_per_tenant: bool = True
    verifies_wraps: bool = True
    keeps_old_wraps: bool = True
    switches_whole: bool = True
    checks_before_switching: bool = True
    replaces_only_what_it_read: bool = True
    refuses_ended: bool = True
    refuses_other_root: bool = True
    refuses_retired: bool = True
    retires_only_empty: bool = True
    records_retirement_first: bool = True
    destroys_only_unused: bool = True
    clears_abandoned: bool = True


def begin(scope: Scope) -> World:
    """Return two active tenants with one service and a separate tenant key each."""

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
