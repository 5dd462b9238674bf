"""States of a tenant and the transitions between them, as one table.

`TRANSITIONS` lists every transition; any other raises `InvalidTransition` and changes nothing. Code changes a state
only through `transition`. The diagram in ARCHITECTURE.md is generated from this table (`make docs`).
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
    LEAVING = "offboarding"
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
    LEAVE = "start_offboarding"
    RESTORE = "restore"
    OFFBOARD = "complete_offboarding"


MEANING: Mapping[State, str] = MappingProxyType(
    {
        State.REQUESTED: "the marketplace event is stored; provisioning has not started",
        State.PROVISIONING: "keys, tenant CA and route are created, then the isolation checks run",
        State.FAILED: "provisioning failed; an operator must fix the cause and retry, or offboard the tenant",
        State.ACTIVE: "all operations are allowed",
        State.SUSPENDED: "decryption only; encryption is rejected",
        State.LOCKED: "all cryptographic operations are rejected: manual lock, root key unavailable, or failed "
        "isolation check",
        State.LEAVING: "grace period of the offboarding: all operations are rejected, nothing is destroyed, "
        "the tenant can be restored",
        State.OFFBOARDED: "the keys are destroyed and the id is never reused",
    }
)

ENCRYPTS = frozenset({State.ACTIVE})
"""The states in which services may encrypt and create keys."""
DECRYPTS = frozenset({State.ACTIVE, State.SUSPENDED})
"""The states in which services may decrypt and get keys; every other state rejects all operations."""

_LEAVABLE = (State.FAILED, State.ACTIVE, State.SUSPENDED, State.LOCKED)

# A value with several states undoes an earlier transition: the caller names the state to return to.
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
        **{(state, Transition.LEAVE): (State.LEAVING,) for state in _LEAVABLE},
        (State.LEAVING, Transition.RESTORE): _LEAVABLE,
        (State.LEAVING, Transition.OFFBOARD): (State.OFFBOARDED,),
    }
)


def transitions_from(state: State) -> tuple[Transition, ...]:
    """Return the transitions that `state` allows, in the order of the table."""
    return tuple(move for (origin, move) in TRANSITIONS if origin is state)


def transition(state: State, move: Transition, back_to: State | None = None) -> State:
    """Return the state after `move`.

    Args:
        state: the current state.
        move: the requested transition.
        back_to: for a transition that undoes another (unlock, restore), the state to return to.

    Raises:
        InvalidTransition: the table does not list the transition, or `back_to` is not one of its target states.
    """
    targets = TRANSITIONS.get((state, move), ())
    if len(targets) == 1 and back_to is None:
        return targets[0]
    if back_to is not None and back_to in targets:
        return back_to
    raise InvalidTransition(state, move, transitions_from(state))
