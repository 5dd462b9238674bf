"""Notification targets and deliveries as values: words for events, rows of the tables, results."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from core.notifications import NotificationKind
from core.notifications.targets import GROUPS, EventGroup, NotificationTarget, TargetKind, selected
from dashboard.components.formatting import at, count, listed, moment, relative
from dashboard.components.tenant_status import Severity, sentence
from database.notifications import Delivery

_K = NotificationKind
GROUP_WORDS: Mapping[EventGroup, str] = MappingProxyType(
    {
        EventGroup.SECURITY: "Security",
        EventGroup.KEYS: "Keys",
        EventGroup.CERTIFICATES: "Certificates",
        EventGroup.APPROVALS: "Approvals",
        EventGroup.COMPLIANCE: "Compliance",
        EventGroup.LIFECYCLE: "Lifecycle",
    }
)
EVENT_WORDS: Mapping[NotificationKind, str] = MappingProxyType(
    {
        _K.READY: "Tenant ready",
        _K.LATE: "Provisioning delayed",
        _K.FAILED: "Provisioning failed",
        _K.LOCKED: "Tenant locked",
        _K.UNLOCKED: "Tenant unlocked",
        _K.ROOT_KEY_WARNING: "Root key unreachable",
        _K.ROOT_KEY_CHANGED: "Root key changed",
        _K.KEYS_ROTATED: "Keys rotated",
        _K.ROTATION_STUCK: "Rotation overdue",
        _K.APPROVAL_WAITING: "Approval required",
        _K.LEAVING: "Offboarding started",
        _K.LEAVING_REMINDER: "Offboarding reminder",
        _K.RESTORED: "Tenant restored",
        _K.OFFBOARDED: "Keys destroyed",
        _K.EXPIRY_LATE: "Certificate renewal overdue",
        _K.EXPIRY_LAPSED: "Certificate expired",
        _K.BREACHED: "Isolation check failed",
        _K.TEST: "Test",
    }
)
KIND_WORDS: Mapping[TargetKind, str] = MappingProxyType({TargetKind.WEBHOOK: "Webhook", TargetKind.EMAIL: "E-mail"})

INTRODUCTION = (
    "Choose who gets which notification, by e-mail or as a signed webhook. An event that no active target has goes to "
    "the platform's e-mail receiver, so it is not lost. So does the last one, that your keys are destroyed, because "
    "all targets are erased before it."
)
EMPTY = "No targets. All notifications go to the e-mail receiver that the platform's operator configured."
SHOWN_ONCE = (
    "Copy the signing secret now: it is shown only once. The receiver verifies each message with it "
    "(Standard Webhooks)."
)
ROTATED = "For 24 hours messages also have a signature with the former secret. Change the receiver before then."
ROTATE = (
    "A new signing secret is created and shown once. For 24 hours messages are signed with both secrets. If you rotate "
    "again within this time, the oldest secret becomes invalid immediately."
)
REMOVE = "It gets no more notifications, and its undelivered ones are not sent. This cannot be undone."
PLATFORM_MAIL = "Platform e-mail"


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A line of the delivery log. `can_retry` is the id of the target if another attempt is possible."""

    message_id: str
    time: str
    event: str
    target: str
    result: str
    attempts: int
    next_attempt: str
    can_retry: str | None


def events(muted: frozenset[str]) -> str:
    """Return the events of a target in short: `All`, or its groups, each with the number of its events if not all."""
    chosen = selected(muted)
    if len(chosen) == sum(len(kinds) for kinds in GROUPS.values()):
        return "All"
    parts = []
    for group, kinds in GROUPS.items():
        found = len(chosen.intersection(kinds))
        if found:
            parts.append(GROUP_WORDS[group] + (f" ({found} of {len(kinds)})" if found < len(kinds) else ""))
    return ", ".join(parts)


def state(target: NotificationTarget) -> str:
    return "Paused" if target.paused else "Active"


def secret(target: NotificationTarget, now: datetime) -> str:
    """Return the state of the signing secret; empty for an e-mail address."""
    if target.kind is TargetKind.EMAIL:
        return ""
    if target.former_until is not None and target.former_until > now:
        return f"Two secrets until {at(target.former_until)}"
    return f"Secret {target.secret_number}"


def target_rows(
    targets: Sequence[NotificationTarget], addresses: Mapping[str, str], now: datetime
) -> list[dict[str, str]]:
    """Return the table of targets by its columns."""
    return [
        {
            "Label": one.label,
            "Kind": KIND_WORDS[one.kind],
            "Address": addresses.get(one.target_id, one.shown_address),
            "Events": events(one.muted),
            "State": state(one),
            "Signing secret": secret(one, now),
        }
        for one in targets
    ]


def delivery_rows(
    deliveries: Iterable[Delivery], targets: Sequence[NotificationTarget], now: datetime
) -> list[DeliveryRow]:
    """Return the delivery log, the newest first."""
    labels = {one.target_id: one.label for one in targets}
    rows = []
    for one in deliveries:
        waiting = one.sent_at is None and one.expired_at is None
        target = PLATFORM_MAIL if one.target_id is None else labels.get(one.target_id, "Removed target")
        rows.append(
            DeliveryRow(
                one.message_id,
                moment(one.added_at, now),
                EVENT_WORDS[one.kind],
                target,
                result(one)[1],
                one.attempts,
                relative(one.next_try, now)
                if waiting and one.next_try > now
                else "as soon as possible"
                if waiting
                else "",
                one.target_id if one.sent_at is None and one.target_id in labels else None,
            )
        )
    return rows


def result(one: Delivery) -> tuple[Severity, str]:
    """Return the result of a delivery so far, with the status of the receiver or the cause of a failure."""
    if one.sent_at is not None:
        return Severity.GOOD, "Delivered" if one.response is None else f"Delivered ({one.response})"
    problem = sentence(one.problem or "")
    if one.expired_at is not None:
        return Severity.BAD, f"Not delivered: {problem}"
    if one.problem is None:
        return Severity.WORKING, "Waiting"
    return Severity.WARNING, f"Failed, will be retried: {problem}"


def delivery_table(rows: Iterable[DeliveryRow]) -> list[dict[str, str | int]]:
    """Return the delivery log by its columns."""
    return [
        {
            "Time": row.time,
            "Event": row.event,
            "Target": row.target,
            "Result": row.result,
            "Attempts": row.attempts,
            "Next attempt": row.next_attempt,
        }
        for row in rows
    ]


def alt(targets: Sequence[NotificationTarget]) -> str:
    """Return the alternative text of the table of targets."""
    paused = [one.label for one in targets if one.paused]
    return count(len(targets), "notification target") + (f"; paused: {listed(paused)}" if paused else "")
