"""The model without one guard: the invariant that breaks, and the search that shows it."""

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


def _release_for_any_reason(lock_state: LockState, _reason: LockReason) -> LockState:
    """Unlock for any reason."""
    return LockState(transition(lock_state.state, Transition.UNLOCK, lock_state.unlocks_to or State.ACTIVE))


def _hold_once(lock_state: LockState, reason: LockReason) -> LockState:
    """Do not record a second reason."""
    if lock_state.state is State.LOCKED:
        return replace(lock_state, locks=frozenset({reason}))
    return LockState(transition(lock_state.state, Transition.LOCK), frozenset({reason}), lock_state.state)


def _release_with_reasons(lock_state: LockState, _reason: LockReason) -> LockState:
    """Unlock and keep the reasons."""
    if lock_state.state is not State.LOCKED:
        raise InvalidTransition(lock_state.state, Transition.UNLOCK, ())
    return replace(lock_state, state=lock_state.unlocks_to or State.ACTIVE)


_LOCKED, _DISABLED, _KEYS = "manual lock", "root key disabled", "root key changed, tenant key rotated"
_ABANDONED = "a rotation, with an abandoned worker"

MUTANTS = MappingProxyType(
    {
        "the end of any reason unlocks": Mutant(Rules(release=_release_for_any_reason), "tenant status", must.LOCKS),
        "a second lock replaces the first": Mutant(Rules(hold=_hold_once), "tenant status", must.LOCKS),
        "an unlocked tenant keeps its locks": Mutant(Rules(release=_release_with_reasons), "tenant status", must.LOCKS),
        "restored after the point of no return": Mutant(
            Rules(restores_before_destruction=False), "tenant status", must.DESTRUCTION
        ),
        "a notification drops nothing": Mutant(Rules(forgets_when_notified=False), _LOCKED, must.AFTER_NOTIFICATION),
        "a restored feed drops nothing": Mutant(
            Rules(forgets_when_reconnected=False), _LOCKED, must.AFTER_NOTIFICATION
        ),
        "the caller is not checked again": Mutant(Rules(checks_caller_again=False), _LOCKED, must.AFTER_NOTIFICATION),
        "an unwrap from before the notification is cached": Mutant(
            Rules(forgets_unwraps=False), "served while keys rotate", must.AFTER_NOTIFICATION
        ),
        "a request uses a key from before the notification": Mutant(
            Rules(reads_keys_again=False), "served while keys rotate", must.AFTER_NOTIFICATION
        ),
        "a compromised version decrypts": Mutant(
            Rules(refuses_compromised=False), "served while keys rotate", must.AFTER_NOTIFICATION
        ),
        "keys are cached without limit": Mutant(Rules(bounds_keys=False), _DISABLED, must.AFTER_REVOKE),
        "a key's age begins after the unwrap": Mutant(
            Rules(counts_from_the_beginning=False), _DISABLED, must.AFTER_REVOKE
        ),
        "callers are cached without limit": Mutant(
            Rules(bounds_callers=False), "tenant status, served, everything fails", must.AFTER_REVOKE
        ),
        "a disabled root key leaves keys cached": Mutant(
            Rules(empties_when_disabled=False), _DISABLED, must.DROPPED_WHEN_DISABLED
        ),
        "cached keys are found by service alone": Mutant(Rules(keys_by_tenant=False), "attacks", must.CROSS_TENANT),
        "the request names its tenant": Mutant(Rules(tenant_by_certificate=False), "attacks", must.CROSS_TENANT),
        "no context, and one tenant key for all": Mutant(
            Rules(binds_context=False, l2_per_tenant=False), "attacks", must.CROSS_TENANT
        ),
        "a new wrap is not verified before it is stored": Mutant(Rules(verifies_wraps=False), _KEYS, must.WORKING_WRAP),
        "the new wrap replaces the old one immediately": Mutant(Rules(keeps_old_wraps=False), _KEYS, must.WORKING_WRAP),
        "the root key switches before every key is wrapped": Mutant(
            Rules(switches_whole=False), _KEYS, must.WORKING_WRAP
        ),
        "the root key switches without a final check": Mutant(
            Rules(checks_before_switching=False), _KEYS, must.WORKING_WRAP
        ),
        "a wrap is replaced that changed after the read": Mutant(
            Rules(replaces_only_what_it_read=False), _KEYS, must.WORKING_WRAP
        ),
        "a worker commits after its operation ended": Mutant(Rules(refuses_ended=False), _KEYS, must.NO_LEFTOVERS),
        "a key made under the former root key is admitted": Mutant(
            Rules(refuses_other_root=False), _KEYS, must.WORKING_WRAP
        ),
        "a key made under a retired tenant key is admitted": Mutant(
            Rules(refuses_retired=False), _ABANDONED, must.WORKING_WRAP
        ),
        "a tenant key version in use is retired": Mutant(Rules(retires_only_empty=False), _KEYS, must.WORKING_WRAP),
        "the key server retires before it is recorded": Mutant(
            Rules(records_retirement_first=False), _ABANDONED, must.WORKING_WRAP
        ),
        "a service key version in use is destroyed": Mutant(Rules(destroys_only_unused=False), _KEYS, must.SEALED),
        "an abandoned change leaves its wraps": Mutant(Rules(clears_abandoned=False), _KEYS, must.NO_LEFTOVERS),
    }
)
