"""The life of a key (KMIP 1.4, section 3.22): states, what moves them, and what each allows.

No use of a key decides by itself whether its state allows it; it asks here. The dates of a key move its state without
anybody doing anything, so a stored state is only where the key was when it was last changed: `state_at` says where it
is.
"""

from collections.abc import Mapping
from types import MappingProxyType

from core.errors.keys import KeyNotUsable
from crypto_service.kmip.codec.enums import RevocationReasonCode, State

STATELESS = 0
"""What objects have in place of a state that have none: templates and opaque objects."""
GONE = frozenset({State.DESTROYED, State.DESTROYED_COMPROMISED})
UNUSED = frozenset({State.PRE_ACTIVE, State.ACTIVE})
"""The states from which a key may still be used one day."""
COMPROMISES = frozenset({RevocationReasonCode.KEY_COMPROMISE, RevocationReasonCode.CA_COMPROMISE})

DESTROYED_FROM: Mapping[int, int] = MappingProxyType(
    {
        STATELESS: STATELESS,
        State.PRE_ACTIVE: State.DESTROYED,
        State.DEACTIVATED: State.DESTROYED,
        State.COMPROMISED: State.DESTROYED_COMPROMISED,
    }
)
"""Where destroying leads; an active key must be revoked first."""

_WORDS: Mapping[int, str] = MappingProxyType({state: state.name.lower().replace("_", "-") for state in State})


def state_at(stored: int, activation: int | None, deactivation: int | None, now: float) -> int:
    """Return the state at `now` of a key that was in `stored` when it was last changed."""
    if stored == State.PRE_ACTIVE and activation is not None and activation <= now:
        stored = State.ACTIVE
    if stored == State.ACTIVE and deactivation is not None and deactivation <= now:
        stored = State.DEACTIVATED
    return stored


def require_gettable(state: int) -> None:
    """Raise KeyNotUsable unless a client may have the material.

    A pre-active key may be had: clients of tape libraries and storage arrays never activate theirs, and the
    specification lets them. Once revoked or past its deactivation date it may not, although the specification would
    allow it: a client that gets its key for each use has to stop when the key is revoked (issue 3).
    """
    if state not in (STATELESS, State.PRE_ACTIVE, State.ACTIVE):
        raise KeyNotUsable(word(state))


def require_active(state: int) -> None:
    """Raise KeyNotUsable unless the server may encrypt, decrypt or authenticate with the key."""
    if state != State.ACTIVE:
        raise KeyNotUsable(word(state))


def revoked(state: int, code: int) -> int:
    """Return the state after a revocation; raises KeyNotUsable where there is none."""
    if code in COMPROMISES and state in (State.PRE_ACTIVE, State.ACTIVE, State.DEACTIVATED, State.COMPROMISED):
        return State.COMPROMISED
    if code not in COMPROMISES and state in (State.ACTIVE, State.DEACTIVATED):
        return State.DEACTIVATED
    raise KeyNotUsable(word(state))


def destroyed(state: int) -> int:
    """Return the state after destruction; raises KeyNotUsable for an active key."""
    after = DESTROYED_FROM.get(state)
    if after is None:
        raise KeyNotUsable(word(state))
    return after


def word(state: int) -> str:
    """Return a state's name for a person."""
    return _WORDS.get(state, "without state")
