"""Why a tenant is locked, and what unlocks it: by each reason that is gone, and by no other.

A switch that a person pulled is not undone because the root key works, and a root key that is gone is not made good by
a person who unlocks. A wall that fell is made good by neither: an operator releases that lock, by an act of its own,
once a later examination found every wall standing. The tenant opens again, as it was, when the last reason has gone.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from core.errors.keys import CustomerKeyError
from core.tenants.lifecycle import DECRYPTS, State, Transition, transition


class LockReason(StrEnum):
    SWITCH = "switch"
    """Somebody pulled the kill switch on our side."""
    ROOT_KEY = "root-key"
    """The customer's root key was taken away, or was out of reach for longer than the grace."""
    BREACH = "breach"
    """An attack across the tenant's boundary succeeded in its newest examination: the platform locked it."""


@dataclass(frozen=True, slots=True)
class LockState:
    """A tenant's state with what locks it; `unlocks_to` is where it came from and None while it is not locked."""

    state: State
    locks: frozenset[LockReason] = frozenset()
    unlocks_to: State | None = None


def add_lock(standing: LockState, reason: LockReason) -> LockState:
    """Return the standing once `reason` locks it as well; raises InvalidTransition where nothing can be locked."""
    if standing.state is State.LOCKED:
        return replace(standing, locks=standing.locks | {reason})
    return LockState(transition(standing.state, Transition.LOCK), frozenset({reason}), standing.state)


def remove_lock(standing: LockState, reason: LockReason) -> LockState:
    """Return the standing once `reason` is gone; one that never held changes nothing where another holds.

    Raises:
        InvalidTransition: the tenant is not locked, and not by `reason`.
    """
    if standing.state is not State.LOCKED:
        return LockState(transition(standing.state, Transition.UNLOCK, State.ACTIVE))
    left = standing.locks - {reason}
    if left or (standing.locks and reason not in standing.locks):
        return replace(standing, locks=left)
    return LockState(transition(State.LOCKED, Transition.UNLOCK, standing.unlocks_to or State.ACTIVE))


def may_change_root_key(state: State, locks: Collection[LockReason]) -> bool:
    """Return whether the root key may be changed.

    Where the root key alone locks the tenant too: to the same key, with credentials that work again. To another one the
    change ends without effect, for nothing can be opened with the former key.
    """
    return state in DECRYPTS or (state is State.LOCKED and set(locks) == {LockReason.ROOT_KEY})


HEALTHY = "ok"
"""What is on record of a root key that does its part; else the code of the `CustomerKeyError` it answers with."""


def requires_lock(health: str, seconds: float, grace: float) -> bool:
    """Return whether a root key that has been in `health` for `seconds` locks its tenant.

    What the customer took away locks at once. What is only out of reach says nothing of their will: it locks when it
    has lasted longer than `grace`.
    """
    if health == HEALTHY:
        return False
    return health not in OUT_OF_REACH or seconds > grace


def _codes(kind: type[CustomerKeyError]) -> frozenset[str]:
    own = {kind.code} if kind.retryable else set()
    return frozenset(own).union(*(_codes(below) for below in kind.__subclasses__()))


OUT_OF_REACH = frozenset().union(*(_codes(kind) for kind in CustomerKeyError.__subclasses__()))
"""The codes of the failures that are nobody's decision."""
