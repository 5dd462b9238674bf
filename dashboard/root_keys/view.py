"""What is said of a root key (L1): how it does, since when, what that means until it works again, and its changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from core.errors.keys import CustomerKeyError
from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import HEALTHY, OUT_OF_REACH, LockReason, may_change_root_key
from dashboard.components import formatting as refusals
from dashboard.components.formatting import count, family, moment, span
from dashboard.components.key_hierarchy import mode
from dashboard.components.tenant_status import Severity
from database.root_keys import CustomerRootKeyRow, RootKeyChangeRow, RootKeyVersionsRow
from database.tenants import TenantRow

NO_FALLBACK = "There is no silent fallback: without this root key nothing opens, not even under a key of the platform."


PROBLEMS: Mapping[str, type[CustomerKeyError]] = MappingProxyType(
    {kind.code: kind for kind in family(CustomerKeyError)}
)
"""Every way in which a root key can fail to do its part, by its code."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a root key does. `title` and `advice` are sentences; `meanwhile` is what its failure means for services."""

    tone: Severity
    title: str
    advice: str
    since: str
    meanwhile: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A change that is running. `share` is between 0 and 1."""

    share: float
    words: str


def in_words(code: str) -> tuple[str, str]:
    """Return message and hint of a code as sentences; one that is not known is named."""
    return refusals.in_words(code, PROBLEMS.get(code))


def health(tenant: TenantRow, key: CustomerRootKeyRow | None, grace_seconds: float, now: datetime) -> Health | None:
    """Return how the customer's root key does; None where the platform holds it, which nobody has to watch."""
    if key is None:
        return None
    if key.health == HEALTHY:
        return Health(
            Severity.GOOD, "It answers and opens what it wrapped.", "", f"Since {moment(key.health_since, now)}.", ""
        )
    title, advice = in_words(key.health)
    since = f"Since {moment(key.health_since, now)}."
    if LockReason.ROOT_KEY in tenant.locks:
        return Health(Severity.BAD, title, advice, since, f"The tenant is locked until it works again. {NO_FALLBACK}")
    if tenant.state not in DECRYPTS:
        return Health(Severity.BAD, title, advice, since, f"Nothing opens in this state anyway. {NO_FALLBACK}")
    if key.health in OUT_OF_REACH:
        return Health(Severity.WARNING, title, advice, since, f"{_grace(key, grace_seconds, now)} {NO_FALLBACK}")
    return Health(
        Severity.BAD,
        title,
        advice,
        since,
        f"This is the customer's decision and not an outage, so the tenant is being locked at once. {NO_FALLBACK}",
    )


def _grace(key: CustomerRootKeyRow, grace_seconds: float, now: datetime) -> str:
    left = grace_seconds - (now - key.health_since).total_seconds()
    when = f"in {span(left)}" if left > 0 else "now"
    return (
        "Services go on with the service keys that are open, for a minute at most; no other one opens. Unless it "
        f"answers again, the tenant is locked {when} ({span(grace_seconds)} after it stopped)."
    )


def progress(change: RootKeyChangeRow | None) -> Progress | None:
    """Return how far the newest change is; None when none is running."""
    if change is None or change.state != "running":
        return None
    if not change.total:
        return Progress(0.0, "The new root key is tried first; nothing is changed yet.")
    if change.wrapped >= change.total:
        return Progress(1.0, "Every service key is wrapped; all are switched together now.")
    return Progress(
        change.wrapped / change.total,
        f"{change.wrapped:,} of {count(change.total, 'service key is', 'service keys are')} wrapped",
    )


def last_change(changes: Sequence[RootKeyChangeRow], now: datetime) -> str:
    """Return how the newest change that has ended went."""
    ended = next((change for change in changes if change.finished_at is not None), None)
    if ended is None:
        return "It was never changed."
    when = moment(ended.finished_at, now)
    if ended.state == "done":
        return (
            f"Last changed {when}: from {mode(ended.from_mode)} to {mode(ended.to_mode)}, "
            f"{count(ended.total, 'service key')} wrapped anew."
        )
    problem = ended.problem or "an unknown reason"
    why = in_words(problem)[0]
    return f"The last change, to {mode(ended.to_mode)}, ended without effect {when}. {why}"


def versions(known: RootKeyVersionsRow | None) -> str:
    """Return which version of the root key is in use and what is not under it yet; empty where none are numbered."""
    if known is None:
        return ""
    if not known.older:
        return f"Version {known.newest} is in use, and nothing lies under an older one."
    wraps = count(known.older, "wrap still lies", "wraps still lie")
    return (
        f"Version {known.newest} is in use. {wraps} under an older one. The platform wraps anew by itself, within "
        "about an hour; do not end an older version before that is done."
    )


def why_no_change(tenant: TenantRow, change: RootKeyChangeRow | None) -> str:
    """Return why the root key cannot be changed now; empty when it can."""
    if change is not None and change.state == "running":
        return "It can be changed again when the running change has ended."
    if may_change_root_key(tenant.state, tenant.locks):
        return ""
    if tenant.state is State.LOCKED:
        return "It cannot be changed while somebody's lock is in force. Unlock the tenant first."
    return f"It cannot be changed while the tenant is {tenant.state}."


def only_credentials(tenant: TenantRow) -> str:
    """Return what a change can be for while the root key itself locks the tenant; empty while it works."""
    if LockReason.ROOT_KEY not in tenant.locks:
        return ""
    return (
        "While it does not work, a change can only give new credentials for this same key, where the former ones "
        "ended. To change to another key this one has to work first, because nothing opens without it."
    )


def hint_parts(hint: str) -> tuple[str, str]:
    """Return a hint as words and what is to be pasted somewhere (JSON or a policy's HCL), either of them empty."""
    starts = [place for mark in ('[{"', '{"', 'path "') if (place := hint.find(mark)) >= 0]
    if not starts:
        return hint, ""
    cut = min(starts)
    return hint[:cut].strip(), hint[cut:].replace(" } path ", " }\npath ").strip()
