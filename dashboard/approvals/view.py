"""Texts of approvals: the action, the requester and the reason, the expiry, and what happens on approval."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from core.keys.rotation import RotationScope
from core.tenants.approvals import Action, Approval, ApprovalState, VoteChoice, VoteRejection, is_over, obstacle
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Person
from dashboard.approvals.dry_run import Effect, Facts, effects
from dashboard.components.formatting import code, count, listed, moment, plain
from dashboard.components.key_actions import KeyAction, action_of
from dashboard.components.tenant_status import Severity, TenantStatusView, sentence


@dataclass(frozen=True, slots=True)
class Words:
    """`title` is the action, `short` its name on buttons, `happens` its effect, `why` the reason for two people."""

    title: str
    short: str
    happens: str
    why: str


def _happens(name: KeyAction) -> str:
    return action_of(name).happens


WORDS: Mapping[Action, Words] = MappingProxyType(
    {
        Action.LOCK: Words(
            "Lock tenant (kill switch)",
            "lock",
            _happens(KeyAction.LOCK),
            "One person alone can no longer stop all your services. A lock then requires approval, also in an "
            "emergency. Disabling your own root key at its provider still locks the tenant immediately and needs "
            "no approval.",
        ),
        Action.ROOT_KEY_TO_PLATFORM: Words(
            "Return root key to the platform",
            "root key change",
            "Every service key is re-wrapped with the platform's root key. Your own key is then no longer "
            "required, and disabling it stops nothing.",
            "One person alone can no longer give up your control over the root key.",
        ),
        Action.CHANGE_POLICY: Words(
            "Change policy",
            "policy change",
            "The new policy takes effect immediately.",
            "Always on while any other action requires approval.",
        ),
        Action.OFFBOARD: Words(
            "Offboard tenant and destroy keys",
            "offboarding",
            _happens(KeyAction.OFFBOARD),
            "One person alone can no longer make your data permanently unreadable.",
        ),
        Action.COMPROMISE: Words(
            "Replace compromised keys",
            "key replacement",
            _happens(KeyAction.COMPROMISE),
            "One person alone can no longer make data unreadable by reporting a key as compromised.",
        ),
        Action.RETIRE_KEY_VERSION: Words(
            "Destroy service key version",
            "destruction",
            _happens(KeyAction.RETIRE_VERSION),
            "One person alone can no longer destroy a version that still decrypts data.",
        ),
    }
)

_ENDS: Mapping[ApprovalState, str] = MappingProxyType(
    {
        ApprovalState.APPROVED: "approved, in progress",
        ApprovalState.REFUSED: "declined",
        ApprovalState.EXPIRED: "expired",
        ApprovalState.WITHDRAWN: "withdrawn",
        ApprovalState.DONE: "approved and completed",
        ApprovalState.FAILED: "approved, failed",
    }
)
_NO_REASON = "not given"
"""Requests of releases without reasons."""
_WHY_NOT: Mapping[VoteRejection, str] = MappingProxyType(
    {
        VoteRejection.OWN: "You requested this. Another person must approve it.",
        VoteRejection.ROLE: "Your role does not manage keys. A key administrator or an administrator decides.",
    }
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pending request. `name` is unique among them; `why_not` is empty for users who may decide it."""

    approval_id: str
    title: str
    name: str
    exactly: tuple[str, ...]
    reason: str
    asked: str
    until: str
    effects: tuple[Effect, ...]
    happens: str
    why_not: str
    own: bool


def waiting(
    approvals: Iterable[Approval], person: Person, policy: TenantPolicy, facts: Facts, now: datetime
) -> tuple[Waiting, ...]:
    """Return the pending requests as this user sees them, with their dry run; without expired ones."""
    names: Counter[str] = Counter()
    shown = []
    for approval in approvals:
        if is_over(approval, now):
            continue
        one = _waiting(approval, person, policy, facts, now)
        names[one.name] += 1
        number = names[one.name]
        shown.append(one if number == 1 else replace(one, name=f"{one.name} ({number})"))
    return tuple(shown)


def _waiting(approval: Approval, person: Person, policy: TenantPolicy, facts: Facts, now: datetime) -> Waiting:
    words, hindered = WORDS[approval.action], obstacle(approval, person.subject, person.roles)
    return Waiting(
        approval.approval_id,
        words.title,
        _name(approval),
        exactly(approval, policy),
        plain(approval.request_reason) if approval.request_reason else _NO_REASON,
        f"Requested by {who(approval.requested_by, approval.requested_name)} {moment(approval.requested_at, now)}.",
        moment(approval.expires_at, now),
        effects(approval.action, approval.argument, facts, now),
        words.happens,
        "" if hindered is None else _WHY_NOT[hindered],
        own=person.subject == approval.requested_by,
    )


def _name(approval: Approval) -> str:
    service, version = approval.argument.get("service"), approval.argument.get("version")
    words = [WORDS[approval.action].short]
    if service is not None:
        words.append(f"of {service}")
    if version is not None:
        words.append(f"version {version}")
    return " ".join(words)


def for_person(approvals: Iterable[Approval], person: Person, now: datetime) -> tuple[Approval, ...]:
    """Return the pending requests that this user can decide."""
    return tuple(
        one for one in approvals if not is_over(one, now) and obstacle(one, person.subject, person.roles) is None
    )


def who(subject: str, name: str | None) -> str:
    """Return the name of a user and the subject of the sign-on, which is unique."""
    return plain(subject) if not name or name == subject else f"{plain(name)} ({plain(subject)})"


def exactly(approval: Approval, policy: TenantPolicy) -> tuple[str, ...]:
    """Return the details of a request, beside its title."""
    if approval.action is Action.CHANGE_POLICY:
        return differences(policy, TenantPolicy.model_validate(dict(approval.argument)))
    if approval.action is Action.OFFBOARD:
        at_once = approval.argument.get("now") is True
        return ("Immediately, without a grace period: cannot be restored",) if at_once else ("After the grace period",)
    if approval.action is Action.ROOT_KEY_TO_PLATFORM:
        return ("New root key: held by the platform",)
    if approval.action is Action.COMPROMISE:
        service = approval.argument.get("service")
        own = f"The key of {code(str(service))}" if service is not None else "Every service key"
        parts = [own] if approval.argument.get("services") != RotationScope.NONE else []
        return (*parts, *(["The tenant key"] if approval.argument.get("tenant_key") is True else []))
    return tuple(f"{plain(name.replace('_', ' '))}: {code(str(value))}" for name, value in approval.argument.items())


def differences(before: TenantPolicy, after: TenantPolicy) -> tuple[str, ...]:
    """Return the changes of a policy, one line each; empty without a change."""
    lines = [
        f"{what}: {count(old, 'day')} → {count(new, 'day')}"
        for what, old, new in (
            ("Tenant key rotation after", before.tenant_key_days, after.tenant_key_days),
            ("Service key rotation after", before.service_key_days, after.service_key_days),
        )
        if old != new
    ]
    for action in Action:
        if before.wants_two_for(action) != after.wants_two_for(action):
            approval = "approval required" if after.wants_two_for(action) else "no approval"
            lines.append(f"{WORDS[action].title}: {approval}")
    if before.revoked_keys_readable != after.revoked_keys_readable:
        lines.append(f"Revoked KMIP keys: {'readable' if after.revoked_keys_readable else 'not readable'}")
    if before.resources_recorded != after.resources_recorded:
        lines.append(f"Resources in audit records: {'recorded' if after.resources_recorded else 'not recorded'}")
    return tuple(lines)


def ended(approvals: Sequence[Approval], now: datetime) -> tuple[str, ...]:
    """Return a line for each completed request."""
    return tuple(_ended(one, now) for one in approvals if one.state in _ENDS and one.expires_at is not None)


def _ended(approval: Approval, now: datetime) -> str:
    by = ""
    if approval.decided_by is not None and approval.decided_by != approval.requested_by:
        by = f" by {who(approval.decided_by, approval.decided_name)}"
    asked = who(approval.requested_by, approval.requested_name)
    why = f" ({code(approval.failure)})" if approval.failure else ""
    return (
        f"**{WORDS[approval.action].title}**, requested by {asked}: {_ENDS[approval.state]}{why}{by}, "
        f"{moment(approval.decided_at, now)}. {_reasons(approval)}"
    )


def _reasons(approval: Approval) -> str:
    reason = plain(approval.request_reason) if approval.request_reason else _NO_REASON
    decision = f" Decision: {plain(approval.decision_reason)}" if approval.decision_reason else ""
    return f"Reason: {reason}{decision}"


def notice(approvals: Iterable[Approval], person: Person, now: datetime) -> tuple[TenantStatusView, ...]:
    """Return the notice for a user who can decide a pending request, shown on every page."""
    theirs = for_person(approvals, person, now)
    if not theirs:
        return ()
    titles = listed(sorted({f"“{WORDS[one.action].title}”" for one in theirs}))
    asked = listed(sorted({who(one.requested_by, one.requested_name) for one in theirs}))
    return (
        TenantStatusView(
            "Approvals",
            "Approval needed",
            Severity.WARNING,
            f"Requested by {asked}: {titles}.",
            "Nothing happens until you or another key administrator approves it on the page Approvals.",
        ),
    )


def patience(hours: float) -> str:
    """Return how long a request waits: `24 hours`, `30 minutes`."""
    return count(round(hours), "hour") if hours >= 1 else count(max(round(hours * 60), 1), "minute")


def needs_two(hours: float) -> str:
    """Return the notice of a dialog that requests an approval."""
    return (
        "Your organization's policy requires approval. Another person of your organization must approve within "
        f"{patience(hours)}. Until then nothing happens."
    )


def asked(approval: Approval, now: datetime) -> str:
    """Return the notice after a request."""
    return (
        "Nothing has happened yet. Another key administrator of your organization must approve on the page "
        f"Approvals until {moment(approval.expires_at, now)}. You can withdraw the request there until then."
    )


_OUTCOMES: Mapping[ApprovalState, tuple[Severity, str, str]] = MappingProxyType(
    {
        ApprovalState.APPROVED: (Severity.WORKING, "Approved", "The action is in progress."),
        ApprovalState.DONE: (
            Severity.GOOD,
            "Approved and completed",
            "The action was executed. Your approval was recorded.",
        ),
        ApprovalState.FAILED: (
            Severity.WARNING,
            "Approved, action failed",
            "The action was approved and failed. It can be requested again.",
        ),
        ApprovalState.REFUSED: (Severity.GOOD, "Declined", "Nothing was done."),
        ApprovalState.WITHDRAWN: (
            Severity.GOOD,
            "Withdrawn",
            "Nothing was done. The request can no longer be approved.",
        ),
        ApprovalState.EXPIRED: (
            Severity.WARNING,
            "Expired",
            "The request expired before your decision, so nothing was done. It can be requested again.",
        ),
    }
)


def as_expired(approval: Approval) -> Approval:
    """Return a request whose time is over, before the workflow has recorded it."""
    return replace(approval, state=ApprovalState.EXPIRED)


def outcome(after: Approval, person: Person, now: datetime) -> tuple[Severity, str, str]:
    """Return severity, title and text for a user whose decision was submitted, or whose dialog is too late.

    Another person may have decided first: then this user's decision changed nothing.
    """
    tone, title, words = _OUTCOMES.get(after.state, (Severity.WORKING, "Pending", "Not decided yet."))
    if after.decided_by is None or after.decided_by == person.subject:
        return tone, title, words
    decider = who(after.decided_by, after.decided_name)
    ended = f"{sentence(_ENDS[after.state])[:-1]} by {decider}, {moment(after.decided_at, now)}."
    return Severity.WARNING, "Already decided", f"{ended} Your decision changed nothing. {_reasons(after)}"


CHOICES: Mapping[VoteChoice, tuple[str, str, str]] = MappingProxyType(
    {
        VoteChoice.APPROVE: ("Approve", "check", "Runs immediately; recorded as your approval."),
        VoteChoice.DECLINE: (
            "Decline",
            "block",
            "Nothing is done and the request can no longer be approved. It can be requested again.",
        ),
        VoteChoice.WITHDRAW: (
            "Withdraw",
            "undo",
            "Nothing is done and the request can no longer be approved. You can request it again.",
        ),
    }
)
"""Button, icon and explanation of each choice."""
