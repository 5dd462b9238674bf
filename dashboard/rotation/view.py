"""What is said of versions of keys: since when, until when, what is left under them, and how a rotation goes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from core import names as ids
from core.keys.rotation import LONGEST, MEANING, KeyState, RotationPhase, RotationScope
from core.services import ServiceState
from core.tenants.lifecycle import DECRYPTS
from core.tenants.policy import TenantPolicy
from dashboard.components import formatting as refusals
from dashboard.components.formatting import code, count, moment
from dashboard.components.tenant_status import Severity, TenantStatusView, sentence
from dashboard.root_keys.view import Progress
from database.keys import KeyRow, KeyVersionRow, VersionUseRow
from database.rotation import RotationRequest, RotationRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_RUNNING = "running"
_NEVER = "never so far"
_STATES: Mapping[KeyState, str] = MappingProxyType(
    {
        KeyState.PREPARED: "prepared, nobody uses it yet",
        KeyState.ACTIVE: "active, it encrypts",
        KeyState.DEACTIVATED: "deactivated, it decrypts only",
        KeyState.COMPROMISED: "compromised, it opens nothing a service brings",
        KeyState.DESTROYED: "destroyed",
    }
)


EVERYTHING = RotationRequest(tenant_key=True, services=RotationScope.ALL)
TENANT_KEY = RotationRequest(tenant_key=True, services=RotationScope.NONE)


def of_service(service: str) -> RotationRequest:
    """Return the rotation of one service's key."""
    return RotationRequest(tenant_key=False, services=RotationScope.ONE, service=service)


def compromised(wanted: RotationRequest) -> RotationRequest:
    """Return the same rotation for keys that somebody else may know."""
    return replace(wanted, compromised=True)


@dataclass(frozen=True, slots=True)
class Old:
    """A version that is not destroyed. `why_not` says why it cannot be destroyed now; empty where it can."""

    service: str
    version: int
    words: str
    why_not: str


def tenant_key(key: KeyRow, policy: TenantPolicy, now: datetime) -> tuple[str, ...]:
    """Return what there is to say of L2: which version since when, what older ones do, and when it is due."""
    older = (
        f"Versions before {key.oldest} open nothing any more."
        if key.oldest == key.version and key.version > 1
        else f"Versions from {key.oldest} on still open what they wrapped."
        if key.version > 1
        else ""
    )
    said = (
        f"Version {key.version} since {moment(key.rotated_at, now)}.",
        older,
        _due(policy.tenant_key_days, key.rotated_at + policy.tenant_key_age, now),
    )
    return tuple(words for words in said if words)


def versions(
    service: ServiceRow | None,
    keys: Sequence[KeyVersionRow],
    uses: Iterable[VersionUseRow],
    policy: TenantPolicy,
    now: datetime,
) -> tuple[str, ...]:
    """Return a line for each version of one service's key, the newest first; those that are destroyed share one."""
    left = {use.version: use.objects for use in uses}
    lines = [
        _version(service, key, left.get(key.version, 0), policy, now)
        for key in sorted(keys, key=lambda key: -key.version)
        if key.state is not KeyState.DESTROYED
    ]
    gone = [key for key in keys if key.state is KeyState.DESTROYED]
    if gone:
        last = max((key.destroyed_at for key in gone if key.destroyed_at is not None), default=None)
        lines.append(
            f"{count(len(gone), 'older version')} destroyed, the last {moment(last, now, 'at a time unknown')}"
        )
    return tuple(lines)


def _version(service: ServiceRow | None, key: KeyVersionRow, left: int, policy: TenantPolicy, now: datetime) -> str:
    since = key.created_at
    if key.state is KeyState.ACTIVE:
        since = key.activated_at or key.created_at
    elif key.state is not KeyState.PREPARED:
        since = key.deactivated_at or key.created_at
    words = [
        f"**Version {key.version}**: {_STATES[key.state]}, since {moment(since, now)}.",
        f"Last opened {moment(key.last_opened_at, now, _NEVER)}.",
    ]
    if left:
        words.append(f"{count(left, 'KMIP object lies', 'KMIP objects lie')} under it.")
    if key.state is KeyState.ACTIVE:
        connected = service is not None and service.state is not ServiceState.DISCONNECTED
        words.append(
            _due(policy.service_key_days, since + policy.service_key_age, now)
            if connected
            else "It is not due while its service is disconnected."
        )
        words.append(f"Wrapped by `{key.l2_key}` version {key.l2_version} and {code(key.root_key)}.")
    return " ".join(words)


def _due(days: int, due: datetime, now: datetime) -> str:
    if due <= now:
        return f"Your policy ({count(days, 'day')}) wants it rotated now; that happens by itself within the hour."
    return f"Due {moment(due, now)}, by your policy of {count(days, 'day')}."


def old(keys: Iterable[KeyVersionRow], uses: Iterable[VersionUseRow], service: str, now: datetime) -> tuple[Old, ...]:
    """Return the versions of a service's key that are there, the oldest first, and why each cannot be destroyed."""
    left = {use.version: use.objects for use in uses if use.service == service}
    there = (key for key in keys if key.service == service and key.state is not KeyState.DESTROYED)
    return tuple(
        Old(
            service,
            key.version,
            f"Version {key.version}: {_STATES[key.state]}; last opened {moment(key.last_opened_at, now, _NEVER)}",
            _why_kept(key, left.get(key.version, 0)),
        )
        for key in sorted(there, key=lambda key: key.version)
    )


def _why_kept(key: KeyVersionRow, left: int) -> str:
    if key.state is KeyState.ACTIVE:
        return "It is active: your service encrypts with it. Rotate the service first."
    if key.state is KeyState.PREPARED:
        return "A rotation is preparing it; it becomes active or is destroyed by itself."
    if left:
        return (
            f"{count(left, 'KMIP object lies', 'KMIP objects lie')} under it. They are sealed anew under the active "
            "version by themselves; try again then."
        )
    return ""


def running(newest: RotationRow | None) -> bool:
    """Return whether a rotation runs."""
    return newest is not None and newest.state == _RUNNING


def progress(newest: RotationRow | None) -> Progress | None:
    """Return how far the newest rotation is; None when none is running."""
    if newest is None or newest.state != _RUNNING:
        return None
    stages = list(RotationPhase)
    part = min(newest.done / newest.total, 1.0) if newest.total else 0.0
    words = sentence(MEANING[newest.stage]).removesuffix(".")
    if newest.total:
        words = f"{words}: {newest.done:,} of {newest.total:,}"
    return Progress((stages.index(newest.stage) + part) / len(stages), words)


def whose(wanted: RotationRequest) -> str:
    """Return whose keys a rotation is of: `the tenant key and every service key`."""
    own = {
        RotationScope.ALL: "every service key",
        RotationScope.DUE: "the service keys that were due",
        RotationScope.ONE: f"the key of {wanted.service}",
    }.get(wanted.services, "")
    version = wanted.root_key_version
    followed = "" if version is None else f"what lay under versions of the root key before {version}"
    parts = [part for part in ("the tenant key" if wanted.tenant_key else "", own, followed) if part]
    return " and ".join(parts) or "what an earlier rotation left"


def ended(rotations: Sequence[RotationRow], now: datetime) -> TenantStatusView | None:
    """Return how the newest rotation that has ended went; None when there was none, or another one runs."""
    if not rotations or rotations[0].state == _RUNNING:
        return None
    row = rotations[0]
    by_policy = row.wanted.tenant_key or row.wanted.services is not RotationScope.NONE
    itself = "as your policy wants" if by_policy else "as what is new or left asks for"
    why = f"by itself, {itself}" if row.wanted.scheduled else "asked for by a person"
    what = f"{sentence(whose(row.wanted)).removesuffix('.')}, {moment(row.finished_at, now)}, {why}."
    if row.state == "done":
        end = " The versions before count as compromised." if row.wanted.compromised else ""
        return TenantStatusView("Done", "The last rotation is done", Severity.GOOD, f"{what}{end}", "")
    problem = row.problem or "an unknown reason"
    told, hint = in_words(problem)
    return TenantStatusView(
        "Failed",
        "The last rotation did not get to its end",
        Severity.WARNING,
        f"{what} It stopped while {MEANING[row.stage]} ({code(problem)}). {told}",
        f"{hint} Every key that worked works. Once this is mended, ask again"
        + ("; it is tried again by itself every hour." if row.wanted.scheduled else "."),
    )


def notice(newest: RotationRow | None, tenant: TenantRow, now: datetime) -> tuple[TenantStatusView, ...]:
    """Return what is said above every page of a rotation that the schedule began and nobody was there to see fail.

    And of one that runs for longer than any should, whoever asked for it. Empty where all is well.
    """
    if newest is None or tenant.state not in DECRYPTS:
        return ()
    if newest.state == "failed" and newest.wanted.scheduled:
        problem = newest.problem or "an unknown reason"
        told, hint = in_words(problem)
        return (
            TenantStatusView(
                "Keys",
                "Your keys were not rotated as your policy wants",
                Severity.WARNING,
                f"It stopped {moment(newest.finished_at, now)} while {MEANING[newest.stage]} ({code(problem)}). {told}",
                f"{hint} Every key that worked works, and while a key is due it is tried again every hour. The page "
                "Keys shows how far it got.",
            ),
        )
    if newest.state == _RUNNING and now - newest.started_at > LONGEST:
        return (
            TenantStatusView(
                "Keys",
                "A rotation of your keys does not come to its end",
                Severity.WARNING,
                f"It began {moment(newest.started_at, now)}, and {MEANING[newest.stage]}.",
                "Every key works meanwhile. Our operators have been alerted; the page Keys shows how far it is.",
            ),
        )
    return ()


def in_words(problem: str) -> tuple[str, str]:
    """Return message and hint of what stopped a rotation, as sentences."""
    known = {kind.code: kind for kind in refusals.family(OpenKcmError) if hasattr(kind, "code")}
    return refusals.in_words(problem, known.get(problem))


def why_not(tenant: TenantRow, newest: RotationRow | None) -> str:
    """Return why no key can be rotated or destroyed now; empty when it can."""
    if running(newest):
        return "A rotation runs. The next one can be asked for when it has ended."
    if tenant.state not in DECRYPTS:
        return f"Keys cannot be rotated while the tenant is {tenant.state}."
    return ""


def happens(
    wanted: RotationRequest, keys: Iterable[KeyVersionRow], l2: KeyRow | None, now: datetime
) -> tuple[str, ...]:
    """Return each version of a key that a rotation concerns, with what becomes of it: its dry run."""
    concerned = {KeyState.ACTIVE} | ({KeyState.DEACTIVATED} if wanted.compromised else set())
    end = (
        "becomes compromised: it opens nothing your services bring, and is destroyed once no object lies under it"
        if wanted.compromised
        else "decrypts only"
    )
    lines = []
    if wanted.tenant_key and l2 is not None:
        gone, also = (
            ("deleted for good", ", also for backups of the database") if wanted.compromised else ("retired", "")
        )
        lines.append(f"{code(l2.name)} version {l2.version}: {gone} once nothing lies under it{also}")
    lines += [
        f"**{key.service}** version {key.version}: {end}; last opened {moment(key.last_opened_at, now, _NEVER)}"
        for key in sorted(keys, key=lambda key: (key.service, -key.version))
        if key.state in concerned and (wanted.services is RotationScope.ALL or key.service == wanted.service)
    ]
    return tuple(lines)


def l2_of(tenant_id: str, keys: Iterable[KeyRow]) -> KeyRow | None:
    """Return the tenant key among the keys on record."""
    return next((key for key in keys if key.name == ids.l2_key(tenant_id)), None)
