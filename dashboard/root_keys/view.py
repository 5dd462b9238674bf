"""Texts about a root key: place, health, since when, the effect on services, and its changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from core.errors.keys import CustomerKeyError
from core.keys.root_keys import AwsKmsKeyRef, OpenBaoKeyRef, Pkcs11KeyRef, RootKeyMode
from core.names import root_key as root_key_name
from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import HEALTHY, OUT_OF_REACH, LockReason, may_change_root_key
from core.tenants.status import Status, Subject, Verdict
from dashboard.components import formatting as refusals
from dashboard.components.formatting import count, family, moment, span
from dashboard.components.key_map import mode
from dashboard.components.tenant_status import Severity
from database.root_keys import CustomerRootKeyRow, RootKeyChangeRow, RootKeyVersionsRow
from database.tenants import TenantRow

NO_FALLBACK = (
    "There is no fallback: without this root key nothing can be decrypted, not even with a key of the platform."
)


PROBLEMS: Mapping[str, type[CustomerKeyError]] = MappingProxyType(
    {kind.code: kind for kind in family(CustomerKeyError)}
)
"""Every failure of a root key, by its code."""


WITHDRAWAL: Mapping[str, str] = MappingProxyType(
    {
        RootKeyMode.PLATFORM: (
            "The platform holds this key, so you have no kill switch that is independent of the platform."
        ),
        RootKeyMode.AWS_KMS: (
            "Disabling the key in your AWS account locks the tenant within seconds: nothing is decrypted without it."
        ),
        RootKeyMode.PKCS11: (
            "Disabling the key in your HSM locks the tenant within seconds: nothing is decrypted without it."
        ),
        RootKeyMode.OPENBAO: (
            "Disabling the key in your key server locks the tenant within seconds: nothing is decrypted without it."
        ),
    }
)
"""What a withdrawal of the root key does, by provider."""


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a root key. `title` and `advice` are sentences; `meanwhile` is the effect on services."""

    tone: Severity
    title: str
    advice: str
    since: str
    meanwhile: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A running change. `share` is between 0 and 1."""

    share: float
    words: str


def where(tenant: TenantRow, key: CustomerRootKeyRow | None) -> tuple[str, str]:
    """Return the name of the root key, and where root key and tenant key are held."""
    rest = (
        f"Tenant key: key server of the platform in {tenant.region}. Service keys: stored there only wrapped by both."
    )
    if key is None:
        return root_key_name(tenant.region), f"Root key: key server of the platform in {tenant.region}. {rest}"
    match key.place:
        case AwsKmsKeyRef(key_arn=arn):
            _, _, _, region, account, *_ = arn.split(":")
            return arn, f"Root key: AWS KMS in {region}, your account {account}. {rest}"
        case Pkcs11KeyRef():
            return key.name, f"Root key: your HSM. {rest}"
        case OpenBaoKeyRef(address=address, mount=mount, key=name):
            return f"{address} {mount}/{name}", f"Root key: your key server. {rest}"
    return key.name, rest


def in_words(code: str) -> tuple[str, str]:
    """Return message and hint of a code as sentences; an unknown code is named."""
    return refusals.in_words(code, PROBLEMS.get(code))


def health(tenant: TenantRow, key: CustomerRootKeyRow | None, grace_seconds: float, now: datetime) -> Health | None:
    """Return the health of the customer's root key; None if the platform holds it."""
    if key is None:
        return None
    if key.health == HEALTHY:
        return Health(Severity.GOOD, "Healthy.", "", f"Since {moment(key.health_since, now)}.", "")
    title, advice = in_words(key.health)
    since = f"Since {moment(key.health_since, now)}."
    if LockReason.ROOT_KEY in tenant.locks:
        return Health(
            Severity.BAD, title, advice, since, f"The tenant is locked until the root key works again. {NO_FALLBACK}"
        )
    if tenant.state not in DECRYPTS:
        return Health(
            Severity.BAD, title, advice, since, f"Nothing can be decrypted in this tenant state. {NO_FALLBACK}"
        )
    if key.health in OUT_OF_REACH:
        return Health(Severity.WARNING, title, advice, since, f"{_grace(key, grace_seconds, now)} {NO_FALLBACK}")
    return Health(
        Severity.BAD,
        title,
        advice,
        since,
        "This is a decision of the key holder and not an outage, so the tenant is being locked immediately. "
        f"{NO_FALLBACK}",
    )


def measured(how: Health, found: Verdict) -> Health:
    """Return the health as it was measured now: a recorded health that nothing checks is unknown, and never good."""
    one = found.of(Subject.ROOT_KEY)
    if how.tone is not Severity.GOOD:
        return how
    if one.status is Status.OPERATIONAL:
        return replace(how, title="Healthy, checked continuously.")
    return Health(Severity.WORKING, f"{one.words}.", one.detail, f"Last known as healthy. {how.since}", "")


def _grace(key: CustomerRootKeyRow, grace_seconds: float, now: datetime) -> str:
    left = grace_seconds - (now - key.health_since).total_seconds()
    when = f"in {span(left)}" if left > 0 else "now"
    return (
        "Services use cached service keys for a minute at most; no other key can be unwrapped. If the root key "
        f"stays unreachable, the tenant is locked {when} ({span(grace_seconds)} after the outage began)."
    )


def progress(change: RootKeyChangeRow | None) -> Progress | None:
    """Return the progress of the newest change; None when none is running."""
    if change is None or change.state != "running":
        return None
    if not change.total:
        return Progress(0.0, "Checking the new root key; nothing is changed yet.")
    if change.wrapped >= change.total:
        return Progress(1.0, "All service keys are re-wrapped; switching.")
    return Progress(
        change.wrapped / change.total,
        f"{change.wrapped:,} of {count(change.total, 'key version is', 'key versions are')} wrapped",
    )


def last_change(changes: Sequence[RootKeyChangeRow], now: datetime) -> str:
    """Return the result of the newest completed change."""
    ended = next((change for change in changes if change.finished_at is not None), None)
    if ended is None:
        return "Never changed."
    when = moment(ended.finished_at, now)
    if ended.state == "done":
        return (
            f"Last changed {when}: from {mode(ended.from_mode)} to {mode(ended.to_mode)}, "
            f"{count(ended.total, 'version')} of service keys re-wrapped."
        )
    problem = ended.problem or "an unknown reason"
    why = in_words(problem)[0]
    return f"The last change, to {mode(ended.to_mode)}, failed {when} without effect. {why}"


def versions(known: RootKeyVersionsRow | None) -> str:
    """Return the root key version in use and the number of older wraps; empty without version numbers."""
    if known is None:
        return ""
    if not known.older:
        return f"Version {known.newest} is in use. No wrap uses an older version."
    wraps = count(known.older, "wrap uses", "wraps use")
    return (
        f"Version {known.newest} is in use. {wraps} an older version. The platform re-wraps automatically within "
        "about an hour. Do not disable an older version before that."
    )


def why_no_change(tenant: TenantRow, change: RootKeyChangeRow | None) -> str:
    """Return why the root key cannot be changed now; empty when it can."""
    if change is not None and change.state == "running":
        return "A change is running. Try again after it has ended."
    if may_change_root_key(tenant.state, tenant.locks):
        return ""
    if tenant.state is State.LOCKED:
        return "Not available while the tenant is locked by an administrator. Unlock the tenant first."
    return f"Not available while the tenant is {tenant.state}."


def only_credentials(tenant: TenantRow) -> str:
    """Return the limits of a change while the root key itself locks the tenant; empty while it works."""
    if LockReason.ROOT_KEY not in tenant.locks:
        return ""
    return (
        "While the root key does not work, a change can only replace its credentials. To change to another key, "
        "this one must work first, because it is required to unwrap the service keys."
    )


def hint_parts(hint: str) -> tuple[str, str]:
    """Return a hint as text and as code to paste (JSON or a policy in HCL), either of them empty."""
    starts = [place for mark in ('[{"', '{"', 'path "') if (place := hint.find(mark)) >= 0]
    if not starts:
        return hint, ""
    cut = min(starts)
    return hint[:cut].strip(), hint[cut:].replace(" } path ", " }\npath ").strip()
