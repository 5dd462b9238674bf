"""The meaning of each tenant state for the customer and what they can do, in one table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from core.tenants.lifecycle import MEANING, State
from core.tenants.locks import LockReason


class Severity(StrEnum):
    """Urgency; a page shows it by icon and words, never by colour alone."""

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
"""States that end automatically; a page that shows one of them refreshes."""

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
        State.REQUESTED: "Provisioning requested",
        State.PROVISIONING: "Provisioning in progress",
        State.FAILED: "Provisioning failed",
        State.ACTIVE: "Tenant active",
        State.SUSPENDED: "Tenant suspended",
        State.LOCKED: "Tenant locked",
        State.LEAVING: "Offboarding",
        State.OFFBOARDED: "Tenant offboarded",
    }
)

_ADVICE: Mapping[State, str] = MappingProxyType(
    {
        State.REQUESTED: "No action needed. Provisioning starts automatically and this page shows its progress.",
        State.PROVISIONING: "No action needed. This page shows each step until your tenant is ready.",
        State.FAILED: (
            "No data was encrypted and no service can connect. The created keys are disabled, not lost. Enable "
            "OpenKCM in the marketplace again to retry. If it fails again, contact your platform's operator, who "
            "sees the reason."
        ),
        State.ACTIVE: "",
        State.SUSPENDED: (
            "Services can read encrypted data. Writes of new data fail until the tenant is resumed. Nothing is "
            "lost; the audit stream shows who suspended it."
        ),
        State.LOCKED: (
            "No service can read or write encrypted data. Nothing is destroyed, and services work as before once "
            "the tenant is unlocked. The audit stream shows the cause."
        ),
        State.LEAVING: (
            "No service can read or write encrypted data. The tenant can be restored until the grace period ends. "
            "Afterwards its keys are destroyed and the encrypted data can never be decrypted again."
        ),
        State.OFFBOARDED: "This is final. Data encrypted with these keys can never be decrypted again.",
    }
)


_SWITCH, _ROOT_KEY = frozenset({LockReason.MANUAL}), frozenset({LockReason.ROOT_KEY})
_LOCKED: Mapping[frozenset[LockReason], tuple[str, str]] = MappingProxyType(
    {
        _SWITCH: (
            "locked by an administrator",
            "Only a key administrator can unlock the tenant, at the top of any page.",
        ),
        _ROOT_KEY: (
            "locked: your root key is disabled or unreachable",
            (
                "The tenant unlocks automatically within seconds when the root key works again. It cannot be "
                "unlocked here before. There is no fallback to a key of the platform."
            ),
        ),
        _SWITCH | _ROOT_KEY: (
            "locked by an administrator; your root key is also disabled or unreachable",
            (
                "Both are required: a key administrator unlocks the tenant at the top of any page, and the root key "
                "works again. There is no fallback to a key of the platform."
            ),
        ),
    }
)
"""Why a tenant is locked and what unlocks it (core/tenants/locks.py)."""


_BREACH_MEANING = "locked by the platform: a tenant isolation check failed"
_BREACH_ADVICE = (
    "Your platform's operators have been alerted. They unlock the tenant after they have fixed the cause and all "
    "isolation checks have passed again. It cannot be unlocked here. The page Compliance shows the failed check "
    "under Tenant isolation."
)


def _locked(reasons: frozenset[LockReason]) -> tuple[str, str]:
    """Return the meaning of a tenant's locks and what removes them; a failed isolation check comes first."""
    if LockReason.BREACH not in reasons:
        return _LOCKED[reasons]
    others = reasons - {LockReason.BREACH}
    if not others:
        return _BREACH_MEANING, _BREACH_ADVICE
    return _BREACH_MEANING, f"{_BREACH_ADVICE} In addition: {sentence(_LOCKED[others][0])} {_LOCKED[others][1]}"


def standing(state: State, locks: Iterable[LockReason] = ()) -> TenantStatusView:
    """Return the status of a tenant for its customer, with the locks of a locked one."""
    meaning, advice = MEANING[state], _ADVICE[state]
    reasons = frozenset(locks)
    if state is State.LOCKED and reasons:
        meaning, unlock = _locked(reasons)
        advice = f"{unlock} Nothing is destroyed."
    return TenantStatusView(state.capitalize(), _TITLE[state], _TONE[state], sentence(meaning), advice)


def sentence(text: str) -> str:
    """Return a text without capital and full stop as a sentence."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}" if text else ""
