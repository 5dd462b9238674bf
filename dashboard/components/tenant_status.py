"""What a tenant's state means to the customer and what they can do about it, in one table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from core.tenants.lifecycle import MEANING, State
from core.tenants.locks import LockReason


class Severity(StrEnum):
    """How urgent something is; a page shows it by an icon and words, never by colour alone."""

    GOOD = "good"
    WORKING = "working"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class TenantStatusView:
    name: str
    title: str
    tone: Severity
    meaning: str
    advice: str


UNDER_WAY = frozenset({State.REQUESTED, State.PROVISIONING})
"""The states that end by themselves; a page that shows one of them follows it."""

_TONE: Mapping[State, Severity] = MappingProxyType(
    {
        State.REQUESTED: Severity.WORKING,
        State.PROVISIONING: Severity.WORKING,
        State.FAILED: Severity.BAD,
        State.ACTIVE: Severity.GOOD,
        State.SUSPENDED: Severity.WARNING,
        State.LOCKED: Severity.BAD,
        State.LEAVING: Severity.WARNING,
        State.OFFBOARDED: Severity.BAD,
    }
)

_TITLE: Mapping[State, str] = MappingProxyType(
    {
        State.REQUESTED: "Your tenant is about to be set up",
        State.PROVISIONING: "Your tenant is being set up",
        State.FAILED: "Your tenant could not be set up",
        State.ACTIVE: "Your tenant is active",
        State.SUSPENDED: "Your tenant is suspended",
        State.LOCKED: "Your tenant is locked",
        State.LEAVING: "Your tenant is leaving",
        State.OFFBOARDED: "Your tenant has left",
    }
)

_ADVICE: Mapping[State, str] = MappingProxyType(
    {
        State.REQUESTED: "You need not do anything: provisioning starts by itself and this page follows it.",
        State.PROVISIONING: "You need not do anything: this page follows each step until your tenant is ready.",
        State.FAILED: (
            "Nothing of yours was encrypted, no service can connect, and the keys that were made are disabled, not "
            "lost. Enable OpenKCM in the marketplace once more to try again; if it fails again, your platform's "
            "operator sees the reason."
        ),
        State.ACTIVE: "",
        State.SUSPENDED: (
            "Your services go on reading what is encrypted. Writing new data fails until the tenant is resumed. "
            "Nothing is lost, and the audit stream says who suspended it."
        ),
        State.LOCKED: (
            "No service can read or write encrypted data. Nothing is destroyed: everything opens as before once the "
            "tenant is unlocked. The audit stream says what happened."
        ),
        State.LEAVING: (
            "No service can read or write encrypted data. Until the grace period ends all of it can be restored; "
            "after that the keys are destroyed and what they encrypted can never be read again."
        ),
        State.OFFBOARDED: "This is final: what these keys encrypted can never be read again.",
    }
)


_SWITCH, _ROOT_KEY = frozenset({LockReason.SWITCH}), frozenset({LockReason.ROOT_KEY})
_LOCKED: Mapping[frozenset[LockReason], tuple[str, str]] = MappingProxyType(
    {
        _SWITCH: (
            "nothing works: somebody pulled the kill switch here",
            "Your tenant opens when a key administrator unlocks it on the page Keys, and in no other way.",
        ),
        _ROOT_KEY: (
            "nothing works: the root key does not do its part where you hold it",
            (
                "Your tenant opens by itself, within seconds, when the root key works again; nobody can open it here "
                "before. "
                "There is no fallback to a key of the platform."
            ),
        ),
        _SWITCH | _ROOT_KEY: (
            "nothing works: somebody pulled the kill switch here, and the root key does not do its part either",
            (
                "Both have to go: a key administrator unlocks it on the page Keys, and the root key works again where "
                "you hold it. There is no fallback to a key of the platform."
            ),
        ),
    }
)
"""Why a tenant is locked and exactly what unlocks it (core/tenants/locks.py)."""


_BREACH_MEANS = "nothing works: an attack of ours on the walls around your tenant was not refused, so we locked it"
_BREACH_OPENS = (
    "Your platform's operators have been alerted. They open it again once they have mended the wall and a later "
    "examination found every wall standing; nobody can open it here. Which attack it was stands on the page Overview, "
    "under Tenant isolation."
)


def _locked(reasons: frozenset[LockReason]) -> tuple[str, str]:
    """Return what a tenant's locks mean and what opens it; a wall that fell is said before anything else."""
    if LockReason.BREACH not in reasons:
        return _LOCKED[reasons]
    others = reasons - {LockReason.BREACH}
    if not others:
        return _BREACH_MEANS, _BREACH_OPENS
    return _BREACH_MEANS, f"{_BREACH_OPENS} And for itself: {sentence(_LOCKED[others][0])} {_LOCKED[others][1]}"


def standing(state: State, locks: Iterable[LockReason] = ()) -> TenantStatusView:
    """Return what to tell the customer about a tenant's state, and of a locked one by what it is locked."""
    meaning, advice = MEANING[state], _ADVICE[state]
    reasons = frozenset(locks)
    if state is State.LOCKED and reasons:
        meaning, opens = _locked(reasons)
        advice = f"{opens} Nothing is destroyed."
    return TenantStatusView(state.capitalize(), _TITLE[state], _TONE[state], sentence(meaning), advice)


def sentence(text: str) -> str:
    """Return a text of ours, which has no capital and no full stop, as a sentence."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}" if text else ""
