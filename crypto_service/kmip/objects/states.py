"""Key states (KMIP 1.4, section 3.22): transitions, and the operations that each state permits.

Every check of a key state is here. The dates of a key change its state without any request, so a stored state is only
the state at the last change: `state_at` returns the current one.
"""

from collections.abc import Mapping
from types import MappingProxyType

from core.errors.keys import KeyNotUsable
from crypto_service.kmip.codec.enums import RevocationReasonCode, State

STATELESS = 0
"""The stored state of objects without a state (templates and opaque objects) until they are destroyed."""
GONE = frozenset({State.DESTROYED, State.DESTROYED_COMPROMISED})
UNUSED = frozenset({State.PRE_ACTIVE, State.ACTIVE})
"""The states in which a key may be used, now or later."""
_REVOKED = frozenset({State.DEACTIVATED, State.COMPROMISED})
COMPROMISES = frozenset({RevocationReasonCode.KEY_COMPROMISE, RevocationReasonCode.CA_COMPROMISE})

DESTROYED_FROM: Mapping[int, int] = MappingProxyType(
    {
        STATELESS: State.DESTROYED,
        State.PRE_ACTIVE: State.DESTROYED,
        State.DEACTIVATED: State.DESTROYED,
        State.COMPROMISED: State.DESTROYED_COMPROMISED,
    }
)
"""State → state after destruction; an active key must be revoked first."""

_WORDS: Mapping[int, str] = MappingProxyType({state: state.name.lower().replace("_", "-") for state in State})


def state_at(stored: int, activation: int | None, deactivation: int | None, now: float) -> int:
    """Return the state at `now` of a key whose state was `stored` at its last change."""
    if stored == State.PRE_ACTIVE and activation is not None and activation <= now:
        stored = State.ACTIVE
    if stored == State.ACTIVE and deactivation is not None and deactivation <= now:
        stored = State.DEACTIVATED
    return stored


def require_gettable(state: int, *, revoked_keys_readable: bool) -> None:
    """Raise KeyNotUsable unless a client may get the material.

    A pre-active key is permitted, as in the specification: clients of tape libraries and storage arrays never activate
    their keys. The specification also permits a deactivated or compromised key. Here, only the tenant's policy does: a
    client that gets its key for each use must stop when the key is revoked.
    """
    permitted = state in (STATELESS, State.PRE_ACTIVE, State.ACTIVE)
    if not permitted and not (revoked_keys_readable and state in _REVOKED):
        raise KeyNotUsable(name_of(state))


def require_active(state: int) -> None:
    """Raise KeyNotUsable unless the server may encrypt, decrypt or authenticate with the key."""
    if state != State.ACTIVE:
        raise KeyNotUsable(name_of(state))


def after_revocation(state: int, code: int) -> int:
    """Return the state after a revocation; raise KeyNotUsable where none is defined.

    A pre-active key is deactivated, too, as the Revoke operation (KMIP 1.4, section 4.20) says for every object,
    although the state diagram has no such transition: backup products revoke keys that they never activated.
    """
    if code in COMPROMISES and state in (State.PRE_ACTIVE, State.ACTIVE, State.DEACTIVATED, State.COMPROMISED):
        return State.COMPROMISED
    if code not in COMPROMISES and state in (State.PRE_ACTIVE, State.ACTIVE, State.DEACTIVATED):
        return State.DEACTIVATED
    raise KeyNotUsable(name_of(state))


def after_destruction(state: int) -> int:
    """Return the state after destruction; raise KeyNotUsable for an active key."""
    after = DESTROYED_FROM.get(state)
    if after is None:
        raise KeyNotUsable(name_of(state))
    return after


def name_of(state: int) -> str:
    """Return the readable name of a state."""
    return _WORDS.get(state, "without state")
