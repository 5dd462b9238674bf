"""Reasons for which a tenant is locked, and how each is released; no reason releases another.

A working root key does not release a manual lock, and an administrator who unlocks does not release the lock of an
unavailable root key. An operator releases the lock of an isolation breach with a dedicated command, after a later
assessment passed every check. The tenant returns to its former state when the last reason is released.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from core.errors.keys import CustomerKeyError
from core.tenants.lifecycle import DECRYPTS, State, Transition, transition


class LockReason(StrEnum):
    MANUAL = "manual"
    """A user locked the tenant."""
    ROOT_KEY = "root-key"
    """The customer's root key was disabled or deleted, or was unreachable for longer than the grace period."""
    BREACH = "isolation-breach"
    """The newest isolation assessment found a breach of the tenant's boundary, so the platform locked it."""


@dataclass(frozen=True, slots=True)
class LockState:
    """A tenant's state and lock reasons; `unlocks_to` is its state before the lock, None while it is not locked."""

    state: State
    locks: frozenset[LockReason] = frozenset()
    unlocks_to: State | None = None


def add_lock(current: LockState, reason: LockReason) -> LockState:
    """Return the lock state with `reason` added; raises InvalidTransition if the state cannot be locked."""
    if current.state is State.LOCKED:
        return replace(current, locks=current.locks | {reason})
    return LockState(transition(current.state, Transition.LOCK), frozenset({reason}), current.state)


def remove_lock(current: LockState, reason: LockReason) -> LockState:
    """Return the lock state without `reason`; unchanged if only other reasons lock the tenant.

    Raises:
        InvalidTransition: the tenant is not locked.
    """
    if current.state is not State.LOCKED:
        return LockState(transition(current.state, Transition.UNLOCK, State.ACTIVE))
    remaining = current.locks - {reason}
    if remaining or (current.locks and reason not in current.locks):
        return replace(current, locks=remaining)
    return LockState(transition(State.LOCKED, Transition.UNLOCK, current.unlocks_to or State.ACTIVE))


def may_change_root_key(state: State, locks: Collection[LockReason]) -> bool:
    """Return whether the root key may be changed.

    A tenant that only the root key locks may change it too: to the same key, with working credentials. A change to
    another key then ends without effect, because the former key cannot unwrap the service keys.
    """
    return state in DECRYPTS or (state is State.LOCKED and set(locks) == {LockReason.ROOT_KEY})


DENIED = frozenset({State.LOCKED, State.LEAVING, State.OFFBOARDED})
"""The states that the worker records at the key server, so that an older database cannot undo them."""


@dataclass(frozen=True, slots=True)
class LockRecord:
    """The lock of a tenant as the key server has it.

    `seq` and `chain_hash` (hex) are the end of the tenant's audit stream at that time. A database with that record is
    not older than the lock.
    """

    state: State
    locks: frozenset[LockReason] = frozenset()
    seq: int = 0
    chain_hash: str = ""


HEALTHY = "ok"
"""The recorded health of a working root key; otherwise the health is the code of its `CustomerKeyError`."""


def requires_lock(health: str, seconds: float, grace: float) -> bool:
    """Return whether a root key that has been in `health` for `seconds` locks its tenant.

    A root key that the customer disabled or deleted locks at once. An unreachable root key does not express the
    customer's will, so it locks only after more than `grace` seconds.
    """
    if health == HEALTHY:
        return False
    return health not in OUT_OF_REACH or seconds > grace


def _codes(kind: type[CustomerKeyError]) -> frozenset[str]:
    own = {kind.code} if kind.retryable else set()
    return frozenset(own).union(*(_codes(subclass) for subclass in kind.__subclasses__()))


OUT_OF_REACH = frozenset().union(*(_codes(kind) for kind in CustomerKeyError.__subclasses__()))
"""The codes of failures that are not the customer's decision."""
