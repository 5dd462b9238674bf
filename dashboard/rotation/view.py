"""Texts about key versions and rotations: state, since when, when due, protected objects, and progress."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from core import names as ids
from core.keys.rotation import LONGEST, MEANING, KeyState, RotationPhase, RotationScope
from core.tenants.lifecycle import DECRYPTS
from core.tenants.policy import TenantPolicy
from dashboard.components import formatting as refusals
from dashboard.components.formatting import code, count, moment
from dashboard.components.tenant_status import Severity, TenantStatusView, sentence
from dashboard.root_keys.view import Progress
from database.keys import KeyRow, KeyVersionRow, VersionUseRow
from database.rotation import RotationRequest, RotationRow
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_RUNNING = "running"
_NEVER = "never"
STATE_NAMES: Mapping[KeyState, str] = MappingProxyType(
    {
        KeyState.PREPARED: "Not in use yet",
        KeyState.ACTIVE: "Encrypt + decrypt",
        KeyState.DEACTIVATED: "Decrypt only",
        KeyState.COMPROMISED: "Compromised",
        KeyState.DESTROYED: "Destroyed",
    }
)


_OLD = frozenset({KeyState.DEACTIVATED, KeyState.COMPROMISED})
EVERYTHING = RotationRequest(tenant_key=True, services=RotationScope.ALL)
TENANT_KEY = RotationRequest(tenant_key=True, services=RotationScope.NONE)


def of_service(service: str) -> RotationRequest:
    """Return the rotation of one service's key."""
    return RotationRequest(tenant_key=False, services=RotationScope.ONE, service=service)


def compromised(wanted: RotationRequest) -> RotationRequest:
    """Return the same rotation for compromised keys."""
    return wanted._replace(compromised=True)


@dataclass(frozen=True, slots=True)
class Old:
    """A version that is not destroyed. `why_not` is why it cannot be destroyed now; empty when it can."""

    service: str
    version: int
    words: str
    why_not: str


@dataclass(frozen=True, slots=True)
class TenantKey:
    """The tenant key as texts; `share` of its cryptoperiod has passed."""

    version: str
    older: str
    due: str
    share: float


def tenant_key(key: KeyRow, policy: TenantPolicy, now: datetime) -> TenantKey:
    """Return the texts about the tenant key: its version, the older versions, and the next rotation."""
    older = (
        f"Versions before {key.oldest} are retired."
        if key.oldest == key.version and key.version > 1
        else f"Versions from {key.oldest} on can still unwrap."
        if key.version > 1
        else ""
    )
    return TenantKey(
        f"Version {key.version} since {moment(key.rotated_at, now)}.",
        older,
        _due(policy.tenant_key_days, key.rotated_at + policy.tenant_key_age, now),
        min(max((now - key.rotated_at) / policy.tenant_key_age, 0.0), 1.0),
    )


def _due(days: int, due: datetime, now: datetime) -> str:
    if due <= now:
        return f"Rotation due now by your policy ({count(days, 'day')}); it runs automatically within the hour."
    return f"Rotation due {moment(due, now)} by your policy ({count(days, 'day')})."


def old(keys: Iterable[KeyVersionRow], uses: Iterable[VersionUseRow], service: str, now: datetime) -> tuple[Old, ...]:
    """Return the versions of a service's key that no longer encrypt, the oldest first, and why each must be kept.

    Active and prepared versions are omitted: they are in use. So are destroyed ones.
    """
    left = {use.version: use.objects for use in uses if use.service == service}
    there = (key for key in keys if key.service == service and key.state in _OLD)
    return tuple(
        Old(
            service,
            key.version,
            f"Version {key.version}: {STATE_NAMES[key.state]}; "
            f"last unwrapped {moment(key.last_opened_at, now, _NEVER)}",
            _why_kept(left.get(key.version, 0)),
        )
        for key in sorted(there, key=lambda key: key.version)
    )


def _why_kept(left: int) -> str:
    if not left:
        return ""
    return (
        f"It protects {count(left, 'KMIP object')}, which are re-encrypted with the active version "
        "automatically. Try again afterwards."
    )


def running(newest: RotationRow | None) -> bool:
    """Return whether a rotation is running."""
    return newest is not None and newest.state == _RUNNING


def progress(newest: RotationRow | None) -> Progress | None:
    """Return the progress of the newest rotation; None when none is running."""
    if newest is None or newest.state != _RUNNING:
        return None
    stages = list(RotationPhase)
    part = min(newest.done / newest.total, 1.0) if newest.total else 0.0
    words = sentence(MEANING[newest.stage]).removesuffix(".")
    if newest.total:
        words = f"{words}: {newest.done:,} of {newest.total:,}"
    return Progress((stages.index(newest.stage) + part) / len(stages), words)


def whose(wanted: RotationRequest) -> str:
    """Return the keys of a rotation: `the tenant key and every service key`."""
    own = {
        RotationScope.ALL: "every service key",
        RotationScope.DUE: "the due service keys",
        RotationScope.ONE: f"the key of {wanted.service}",
    }.get(wanted.services, "")
    version = wanted.root_key_version
    rewrapped = "" if version is None else f"wraps of root key versions before {version}"
    parts = [part for part in ("the tenant key" if wanted.tenant_key else "", own, rewrapped) if part]
    return " and ".join(parts) or "the remainder of an earlier rotation"


def ended(rotations: Sequence[RotationRow], now: datetime) -> TenantStatusView | None:
    """Return the result of the newest rotation; None without one, or while another one runs."""
    if not rotations or rotations[0].state == _RUNNING:
        return None
    row = rotations[0]
    by_policy = row.wanted.tenant_key or row.wanted.services is not RotationScope.NONE
    reason = "by your policy" if by_policy else "as a follow-up"
    why = f"automatic, {reason}" if row.wanted.scheduled else "requested by a user"
    what = f"{sentence(whose(row.wanted)).removesuffix('.')}, {moment(row.finished_at, now)}, {why}."
    if row.state == "done":
        end = " The former versions are compromised." if row.wanted.compromised else ""
        return TenantStatusView("Done", "Last rotation completed", Severity.GOOD, f"{what}{end}", "")
    problem = row.problem or "an unknown reason"
    message, hint = in_words(problem)
    return TenantStatusView(
        "Failed",
        "Last rotation failed",
        Severity.WARNING,
        f"{what} It failed in the step: {MEANING[row.stage]} ({code(problem)}). {message}",
        f"{hint} All keys still work. Fix the cause, then retry"
        + ("; it is also retried automatically every hour." if row.wanted.scheduled else "."),
    )


def notice(newest: RotationRow | None, tenant: TenantRow, now: datetime) -> tuple[TenantStatusView, ...]:
    """Return the notice above every page: a failed scheduled rotation, or one that runs too long. Empty otherwise."""
    if newest is None or tenant.state not in DECRYPTS:
        return ()
    if newest.state == "failed" and newest.wanted.scheduled:
        problem = newest.problem or "an unknown reason"
        message, hint = in_words(problem)
        return (
            TenantStatusView(
                "Keys",
                "Scheduled key rotation failed",
                Severity.WARNING,
                f"It failed {moment(newest.finished_at, now)} in the step: {MEANING[newest.stage]} "
                f"({code(problem)}). {message}",
                f"{hint} All keys still work. The rotation is retried every hour while a key is due. The page Keys "
                "shows its progress.",
            ),
        )
    if newest.state == _RUNNING and now - newest.started_at > LONGEST:
        return (
            TenantStatusView(
                "Keys",
                "Key rotation is delayed",
                Severity.WARNING,
                f"Started {moment(newest.started_at, now)}. Current step: {MEANING[newest.stage]}.",
                "All keys work. The operators have been alerted; the page Keys shows the progress.",
            ),
        )
    return ()


def in_words(problem: str) -> tuple[str, str]:
    """Return message and hint of the error of a rotation, as sentences."""
    known = {kind.code: kind for kind in refusals.family(OpenKcmError) if hasattr(kind, "code")}
    return refusals.in_words(problem, known.get(problem))


def why_not(tenant: TenantRow, newest: RotationRow | None) -> str:
    """Return why no key can be rotated or destroyed now; empty when it can."""
    if running(newest):
        return "A rotation is running. Try again after it has ended."
    if tenant.state not in DECRYPTS:
        return f"Not available while the tenant is {tenant.state}."
    return ""


def happens(
    wanted: RotationRequest, keys: Iterable[KeyVersionRow], l2: KeyRow | None, now: datetime
) -> tuple[str, ...]:
    """Return the effect of a rotation on each key version: its dry run."""
    concerned = {KeyState.ACTIVE} | ({KeyState.DEACTIVATED} if wanted.compromised else set())
    end = (
        "becomes compromised: decryption requests are rejected, and it is destroyed once it protects no object"
        if wanted.compromised
        else "decrypts only"
    )
    lines = []
    if wanted.tenant_key and l2 is not None:
        gone, also = ("deleted permanently", ", also for database backups") if wanted.compromised else ("retired", "")
        lines.append(f"{code(l2.name)} version {l2.version}: {gone} once it wraps no key{also}")
    lines += [
        f"**{key.service}** version {key.version}: {end}; last unwrapped {moment(key.last_opened_at, now, _NEVER)}"
        for key in sorted(keys, key=lambda key: (key.service, -key.version))
        if key.state in concerned and (wanted.services is RotationScope.ALL or key.service == wanted.service)
    ]
    return tuple(lines)


def l2_of(tenant_id: str, keys: Iterable[KeyRow]) -> KeyRow | None:
    """Return the tenant key among the stored keys."""
    return next((key for key in keys if key.name == ids.l2_key(tenant_id)), None)
