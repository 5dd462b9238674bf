"""The model with one guard left out: what it must break, and where that shows."""

from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from core.errors.tenants import InvalidTransition
from core.tenants.lifecycle import State, Transition, transition
from core.tenants.locks import LockReason, LockState
from tests.model import invariants as must
from tests.model.state import Rules


class Mutant(NamedTuple):
    rules: Rules
    scope: str
    breaks: str


def _released_by_anybody(standing: LockState, _reason: LockReason) -> LockState:
    """The lock goes with the first reason that goes."""
    return LockState(transition(standing.state, Transition.UNLOCK, standing.unlocks_to or State.ACTIVE))


def _held_once(standing: LockState, reason: LockReason) -> LockState:
    """A second reason is not written down."""
    if standing.state is State.LOCKED:
        return replace(standing, locks=frozenset({reason}))
    return LockState(transition(standing.state, Transition.LOCK), frozenset({reason}), standing.state)


def _released_with_reasons(standing: LockState, _reason: LockReason) -> LockState:
    """It opens and keeps what locked it."""
    if standing.state is not State.LOCKED:
        raise InvalidTransition(standing.state, Transition.UNLOCK, ())
    return replace(standing, state=standing.unlocks_to or State.ACTIVE)


_SERVED, _TAKEN, _KEYS = "kill switch", "root key taken away", "root key changed, tenant key rotated"
_LOST = "a rotation, with a worker that was given up"

MUTANTS = MappingProxyType(
    {
        "any reason that goes unlocks": Mutant(Rules(release=_released_by_anybody), "standing", must.LOCKS),
        "a second lock replaces the first": Mutant(Rules(hold=_held_once), "standing", must.LOCKS),
        "an unlocked tenant keeps its locks": Mutant(Rules(release=_released_with_reasons), "standing", must.LOCKS),
        "restored behind the point of no return": Mutant(
            Rules(restores_before_destruction=False), "standing", must.DESTRUCTION
        ),
        "word of a change drops nothing": Mutant(Rules(forgets_when_told=False), _SERVED, must.AFTER_WORD),
        "a feed that comes back drops nothing": Mutant(Rules(forgets_when_reconnected=False), _SERVED, must.AFTER_WORD),
        "the caller is not looked at again": Mutant(Rules(looks_again=False), _SERVED, must.AFTER_WORD),
        "an opening from before the word is kept": Mutant(
            Rules(forgets_openings=False), "served while keys rotate", must.AFTER_WORD
        ),
        "a request joins an opening from before the word": Mutant(
            Rules(joins_no_old_opening=False), "served while keys rotate", must.AFTER_WORD
        ),
        "a compromised version opens": Mutant(
            Rules(refuses_compromised=False), "served while keys rotate", must.AFTER_WORD
        ),
        "keys are kept without end": Mutant(Rules(bounds_keys=False), _TAKEN, must.AFTER_REVOKE),
        "a key's age begins when it is open": Mutant(Rules(counts_from_the_beginning=False), _TAKEN, must.AFTER_REVOKE),
        "callers are believed without end": Mutant(
            Rules(bounds_callers=False), "standing, served, everything fails", must.AFTER_REVOKE
        ),
        "a refusing root key leaves open what is open": Mutant(
            Rules(empties_when_taken_away=False), _TAKEN, must.TAKEN_AWAY
        ),
        "keys in memory are found by service alone": Mutant(
            Rules(keys_by_tenant=False), "strangers", must.CROSS_TENANT
        ),
        "the request says whose it is": Mutant(Rules(tenant_by_certificate=False), "strangers", must.CROSS_TENANT),
        "no context, and one tenant key for all": Mutant(
            Rules(binds_context=False, l2_of_its_own=False), "strangers", must.CROSS_TENANT
        ),
        "a new wrap is not opened before it is kept": Mutant(Rules(proves_wraps=False), _KEYS, must.WORKING_WRAP),
        "the new wrap replaces the old one at once": Mutant(Rules(keeps_old_wraps=False), _KEYS, must.WORKING_WRAP),
        "it switches before every key is wrapped": Mutant(Rules(switches_whole=False), _KEYS, must.WORKING_WRAP),
        "it switches without a last look": Mutant(Rules(looks_before_switching=False), _KEYS, must.WORKING_WRAP),
        "a wrap is replaced that is not the one read": Mutant(
            Rules(replaces_only_what_it_read=False), _KEYS, must.WORKING_WRAP
        ),
        "who comes too late still commits": Mutant(Rules(refuses_ended=False), _KEYS, must.HALF_DONE),
        "a key made under the former root key is admitted": Mutant(
            Rules(refuses_other_root=False), _KEYS, must.WORKING_WRAP
        ),
        "a key made under a retired tenant key is admitted": Mutant(
            Rules(refuses_retired=False), _LOST, must.WORKING_WRAP
        ),
        "a tenant key is retired under which something lies": Mutant(
            Rules(retires_only_empty=False), _KEYS, must.WORKING_WRAP
        ),
        "the server retires before it is on record": Mutant(
            Rules(records_retirement_first=False), _LOST, must.WORKING_WRAP
        ),
        "a version is destroyed under which something is sealed": Mutant(
            Rules(destroys_only_unused=False), _KEYS, must.SEALED
        ),
        "a change that is given up leaves its wraps": Mutant(Rules(clears_abandoned=False), _KEYS, must.HALF_DONE),
    }
)
