"""The life of a tenant as one table.

Rules of this file: every state and every way from one to another stands in `TRANSITIONS`; a move that is not listed
raises `InvalidTransition` and changes nothing; nobody assigns a state except through `advance`. The diagram in
ARCHITECTURE.md is generated from this table (`make docs`).
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from core.errors.tenants import InvalidTransition


class State(StrEnum):
    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    FAILED = "failed"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    LOCKED = "locked"
    LEAVING = "leaving"
    OFFBOARDED = "offboarded"


class Transition(StrEnum):
    PROVISION = "provision"
    ACTIVATE = "activate"
    FAIL = "fail"
    RETRY = "retry"
    SUSPEND = "suspend"
    RESUME = "resume"
    LOCK = "lock"
    UNLOCK = "unlock"
    LEAVE = "leave"
    RESTORE = "restore"
    OFFBOARD = "offboard"


MEANING: Mapping[State, str] = MappingProxyType(
    {
        State.REQUESTED: "the marketplace event is stored, nothing is made yet",
        State.PROVISIONING: "keys, authority and route are being made and attacked",
        State.FAILED: "provisioning stopped for a reason a person must look at; it can be retried",
        State.ACTIVE: "everything works",
        State.SUSPENDED: "decrypt only, nothing new is encrypted",
        State.LOCKED: "nothing works: the kill switch was pulled, the root key is gone, or a wall did not hold",
        State.LEAVING: "in the grace period: nothing works, nothing is destroyed, restorable",
        State.OFFBOARDED: "the keys are gone and the id is never used again",
    }
)

ENCRYPTS = frozenset({State.ACTIVE})
"""The states in which services may encrypt and make keys."""
DECRYPTS = frozenset({State.ACTIVE, State.SUSPENDED})
"""The states in which services may decrypt and get keys; in every other one nothing works."""

_LIVE = (State.ACTIVE, State.SUSPENDED, State.LOCKED)

# A value with several states is a way back: the caller names the state it came from.
TRANSITIONS: Mapping[tuple[State, Transition], tuple[State, ...]] = MappingProxyType(
    {
        (State.REQUESTED, Transition.PROVISION): (State.PROVISIONING,),
        (State.PROVISIONING, Transition.ACTIVATE): (State.ACTIVE,),
        (State.PROVISIONING, Transition.FAIL): (State.FAILED,),
        (State.FAILED, Transition.RETRY): (State.PROVISIONING,),
        (State.ACTIVE, Transition.SUSPEND): (State.SUSPENDED,),
        (State.SUSPENDED, Transition.RESUME): (State.ACTIVE,),
        (State.ACTIVE, Transition.LOCK): (State.LOCKED,),
        (State.SUSPENDED, Transition.LOCK): (State.LOCKED,),
        (State.LOCKED, Transition.UNLOCK): (State.ACTIVE, State.SUSPENDED),
        (State.ACTIVE, Transition.LEAVE): (State.LEAVING,),
        (State.SUSPENDED, Transition.LEAVE): (State.LEAVING,),
        (State.LOCKED, Transition.LEAVE): (State.LEAVING,),
        (State.LEAVING, Transition.RESTORE): _LIVE,
        (State.LEAVING, Transition.OFFBOARD): (State.OFFBOARDED,),
    }
)


def transitions_from(state: State) -> tuple[Transition, ...]:
    """Return the moves that are legal in `state`, in the table's order."""
    return tuple(move for (origin, move) in TRANSITIONS if origin is state)


def transition(state: State, move: Transition, back_to: State | None = None) -> State:
    """Return the state after `move`.

    Args:
        state: where the tenant is.
        move: what is asked of it.
        back_to: for the moves that undo another (unlock, restore) the state to return to.

    Raises:
        InvalidTransition: the table does not list the move, or `back_to` is not one of the move's ends.
    """
    ends = TRANSITIONS.get((state, move), ())
    if len(ends) == 1 and back_to is None:
        return ends[0]
    if back_to is not None and back_to in ends:
        return back_to
    raise InvalidTransition(state, move, transitions_from(state))
