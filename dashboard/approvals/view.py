"""What takes two people, in words: what is asked, by whom, until when, and what happens when somebody approves it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from core.keys.rotation import RotationScope
from core.tenants.approvals import Action, Approval, ApprovalState, VoteChoice, VoteRejection, is_over, obstacle
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Person
from dashboard.components.formatting import code, count, listed, moment, plain
from dashboard.components.key_actions import KeyAction, action_of
from dashboard.components.tenant_status import Severity, TenantStatusView


@dataclass(frozen=True, slots=True)
class Words:
    """`title` is what is asked for, `happens` what follows when it is done, `why` why two people are better."""

    title: str
    happens: str
    why: str


def _happens(name: KeyAction) -> str:
    return action_of(name).happens


WORDS: Mapping[Action, Words] = MappingProxyType(
    {
        Action.LOCK: Words(
            "Lock the tenant (kill switch)",
            _happens(KeyAction.LOCK),
            "One person alone can then not stop all your services. In an emergency it takes two of you to stop them: "
            "your own root key, taken away where you hold it, still locks at once and asks nobody here.",
        ),
        Action.ROOT_KEY_TO_PLATFORM: Words(
            "Give the root key back to the platform",
            "Every service key is wrapped under the platform's root key. From then on your own key decides nothing "
            "any more, and taking it away stops nothing.",
            "One person alone can then not give up your control over the root key.",
        ),
        Action.CHANGE_POLICY: Words(
            "Change the policy",
            "The new policy is in force at once.",
            "This is so in any case as soon as anything else needs two people.",
        ),
        Action.OFFBOARD: Words(
            "Leave OpenKCM (offboard), and destroy the keys",
            _happens(KeyAction.OFFBOARD),
            "One person alone can then not make your data unreadable for ever.",
        ),
        Action.COMPROMISE: Words(
            "Rotate a key as compromised",
            _happens(KeyAction.COMPROMISE),
            "One person alone can then not make data unreadable by calling a key compromised.",
        ),
        Action.RETIRE_KEY_VERSION: Words(
            "Destroy an old version of a key",
            _happens(KeyAction.RETIRE_VERSION),
            "One person alone can then not destroy what still opens something.",
        ),
    }
)

_ENDS: Mapping[ApprovalState, str] = MappingProxyType(
    {
        ApprovalState.APPROVED: "approved, and being carried out",
        ApprovalState.REFUSED: "declined",
        ApprovalState.EXPIRED: "over: nobody approved it in time",
        ApprovalState.WITHDRAWN: "withdrawn",
        ApprovalState.DONE: "approved and done",
        ApprovalState.FAILED: "approved, and then stopped",
    }
)
_WHY_NOT: Mapping[VoteRejection, str] = MappingProxyType(
    {
        VoteRejection.OWN: "You asked for this, so somebody else has to approve it.",
        VoteRejection.ROLE: "Your role does not manage keys. A key administrator or an administrator decides this.",
    }
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits. `why_not` is empty for who may decide it."""

    approval_id: str
    title: str
    exactly: tuple[str, ...]
    asked: str
    until: str
    happens: str
    why_not: str
    own: bool


def waiting(approvals: Iterable[Approval], person: Person, policy: TenantPolicy, now: datetime) -> tuple[Waiting, ...]:
    """Return what waits for a second person, as this person sees it; what is over waits no more."""
    return tuple(_waiting(one, person, policy, now) for one in approvals if not is_over(one, now))


def _waiting(approval: Approval, person: Person, policy: TenantPolicy, now: datetime) -> Waiting:
    words, hindered = WORDS[approval.action], obstacle(approval, person.subject, person.roles)
    return Waiting(
        approval.approval_id,
        words.title,
        exactly(approval, policy),
        f"{who(approval.requested_by, approval.requested_name)} asked for it {moment(approval.requested_at, now)}.",
        moment(approval.expires_at, now),
        words.happens,
        "" if hindered is None else _WHY_NOT[hindered],
        own=person.subject == approval.requested_by,
    )


def who(subject: str, name: str | None) -> str:
    """Return who somebody is: their name, and the sign-on's own word for them, which alone tells people apart."""
    return plain(subject) if not name or name == subject else f"{plain(name)} ({plain(subject)})"


def exactly(approval: Approval, policy: TenantPolicy) -> tuple[str, ...]:
    """Return the particulars of what is asked for, beside its title."""
    if approval.action is Action.CHANGE_POLICY:
        return differences(policy, TenantPolicy.model_validate(dict(approval.argument)))
    if approval.action is Action.OFFBOARD:
        at_once = approval.argument.get("now") is True
        return ("At once, without any grace: nothing can be restored",) if at_once else ("At the end of the grace",)
    if approval.action is Action.COMPROMISE:
        service = approval.argument.get("service")
        own = f"The key of {code(str(service))}" if service is not None else "Every service key"
        parts = [own] if approval.argument.get("services") != RotationScope.NONE else []
        return (*parts, *(["The tenant key"] if approval.argument.get("tenant_key") is True else []))
    return tuple(f"{plain(name.replace('_', ' '))}: {code(str(value))}" for name, value in approval.argument.items())


def differences(before: TenantPolicy, after: TenantPolicy) -> tuple[str, ...]:
    """Return what would change of a policy, a line for each; empty where nothing would."""
    lines = [
        f"{what}: {count(old, 'day')} → {count(new, 'day')}"
        for what, old, new in (
            ("The tenant key is rotated after", before.tenant_key_days, after.tenant_key_days),
            ("Service keys are rotated after", before.service_key_days, after.service_key_days),
        )
        if old != new
    ]
    for action in Action:
        if before.wants_two_for(action) != after.wants_two_for(action):
            people = "two people" if after.wants_two_for(action) else "one person"
            lines.append(f"{WORDS[action].title}: takes {people} from then on")
    return tuple(lines)


def ended(approvals: Sequence[Approval], now: datetime) -> tuple[str, ...]:
    """Return a line for each request of which something became."""
    return tuple(_ended(one, now) for one in approvals if one.state in _ENDS and one.expires_at is not None)


def _ended(approval: Approval, now: datetime) -> str:
    by = ""
    if approval.decided_by is not None and approval.decided_by != approval.requested_by:
        by = f" by {who(approval.decided_by, approval.decided_name)}"
    asked = who(approval.requested_by, approval.requested_name)
    why = f" ({code(approval.reason)})" if approval.reason else ""
    return (
        f"**{WORDS[approval.action].title}**, asked for by {asked}: {_ENDS[approval.state]}{why}{by}, "
        f"{moment(approval.decided_at, now)}"
    )


def notice(approvals: Iterable[Approval], person: Person, now: datetime) -> tuple[TenantStatusView, ...]:
    """Return what every page says to somebody for whose decision something waits."""
    theirs = [one for one in approvals if not is_over(one, now) and obstacle(one, person.subject, person.roles) is None]
    if not theirs:
        return ()
    titles = listed(sorted({f"“{WORDS[one.action].title}”" for one in theirs}))
    asked = listed(sorted({who(one.requested_by, one.requested_name) for one in theirs}))
    return (
        TenantStatusView(
            "Two people",
            "Something waits for your decision",
            Severity.WARNING,
            f"{asked} asked for: {titles}.",
            "Nothing happens unless you or another person who manages keys approves it. Look at it on the page "
            "Settings.",
        ),
    )


def patience(hours: float) -> str:
    """Return how long a request waits: `24 hours`, `30 minutes`."""
    return count(round(hours), "hour") if hours >= 1 else count(max(round(hours * 60), 1), "minute")


def needs_two(hours: float) -> str:
    """Return what a dialog says that asks for an approval instead of doing it."""
    return (
        f"Your organization's policy wants two people for this. Somebody else of your organization must approve within "
        f"{patience(hours)}; until then nothing happens."
    )


def asked(approval: Approval, now: datetime) -> str:
    """Return what is said to whoever has just asked."""
    return (
        f"Nothing has happened yet. Somebody else of your organization who manages keys has to approve it on the page "
        f"Settings until {moment(approval.expires_at, now)}. Until then you can withdraw it there."
    )


DONE: Mapping[ApprovalState, tuple[Severity, str, str]] = MappingProxyType(
    {
        ApprovalState.DONE: (Severity.GOOD, "Approved and done", "It was carried out by your word, and is on record."),
        ApprovalState.REFUSED: (Severity.GOOD, "Declined", "Nothing was done."),
        ApprovalState.WITHDRAWN: (Severity.GOOD, "Withdrawn", "Nothing was done, and nobody can approve it any more."),
        ApprovalState.EXPIRED: (
            Severity.WARNING,
            "Too late",
            "Its time was over, so nothing was done. It can be asked for again.",
        ),
    }
)
"""What is said when somebody has decided, by what became of it."""
CHOICES: Mapping[VoteChoice, tuple[str, str, str]] = MappingProxyType(
    {
        VoteChoice.APPROVE: ("Approve", "check", "It is done at once, by your word and in your name."),
        VoteChoice.DECLINE: (
            "Decline",
            "block",
            "Nothing is done, and nobody can approve it any more. It can be asked for again.",
        ),
        VoteChoice.WITHDRAW: (
            "Withdraw",
            "undo",
            "Nothing is done, and nobody can approve it any more. You can ask again.",
        ),
    }
)
"""The button of a choice, its icon, and what follows."""
