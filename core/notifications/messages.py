"""Texts and models of the notifications to customers; the text of `READY` is the customer's own wording.

Placeholders of a text: `{organization}`, `{url}` (the tenant's page) and `{until}` (the end of the grace period). The
last notification of an offboarding names no organization, because the name is erased by then.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from uuid import NAMESPACE_URL, uuid5

from pydantic import BaseModel, ConfigDict


class NotificationKind(StrEnum):
    READY = "ready"
    LATE = "delayed"
    FAILED = "failed"
    LOCKED = "locked"
    UNLOCKED = "unlocked"
    ROOT_KEY_WARNING = "root-key-warning"
    ROOT_KEY_CHANGED = "root-key-changed"
    KEYS_ROTATED = "keys-rotated"
    ROTATION_STUCK = "rotation-stalled"
    APPROVAL_WAITING = "approval-pending"
    LEAVING = "offboarding-started"
    LEAVING_REMINDER = "offboarding-reminder"
    RESTORED = "restored"
    OFFBOARDED = "offboarded"
    EXPIRY_LATE = "certificate-renewal-overdue"
    EXPIRY_LAPSED = "certificate-expired"
    BREACHED = "isolation-breached"
    TEST = "test"


_TEXTS: Mapping[NotificationKind, tuple[str, str]] = MappingProxyType(
    {
        NotificationKind.READY: (
            "OpenKCM is ready for {organization}!",
            (
                "✓ Tenant environment created\n"
                "✓ Encryption keys configured\n"
                "✓ Services can now request encryption keys\n"
                "✓ CMK UI available at: {url}\n"
            ),
        ),
        NotificationKind.LATE: (
            "OpenKCM for {organization} is delayed",
            (
                "We are still preparing your environment, and nothing is lost. Our operators have been alerted. We "
                "will notify you as soon as it is ready. You do not need to do anything.\n"
            ),
        ),
        NotificationKind.FAILED: (
            "OpenKCM could not be set up for {organization}",
            (
                "The setup stopped before your environment became active, so none of your data is affected. Our "
                "operators have been alerted and will try again. We will notify you when it is ready.\n"
            ),
        ),
        NotificationKind.LOCKED: (
            "OpenKCM for {organization} is locked",
            (
                "Your services cannot encrypt or decrypt data: an administrator locked your tenant, or your root key "
                "is disabled or unreachable. Nothing is destroyed. For the reason and how to unlock it, see {url}\n"
            ),
        ),
        NotificationKind.UNLOCKED: (
            "OpenKCM for {organization} is unlocked",
            ("Your services work again. You do not need to do anything.\n"),
        ),
        NotificationKind.ROOT_KEY_WARNING: (
            "The root key of {organization} is unreachable",
            (
                "Your services continue for a short time with the keys in memory. After that they cannot encrypt or "
                "decrypt data until your root key is reachable again. For the failed requests, see {url}\n"
            ),
        ),
        NotificationKind.ROOT_KEY_CHANGED: (
            "The root key of {organization} was changed",
            (
                "The new root key now wraps every service key. Your data was not re-encrypted and no service was "
                "interrupted. If you did not request this change, check it immediately: {url}\n"
            ),
        ),
        NotificationKind.KEYS_ROTATED: (
            "Keys of {organization} were rotated",
            (
                "New key versions encrypt from now on. Your data was not re-encrypted and no service was interrupted. "
                "For the rotated keys, the reason and the use of the former versions, see {url}\n"
            ),
        ),
        NotificationKind.ROTATION_STUCK: (
            "Key rotation of {organization} is overdue",
            (
                "All keys still work. We retry the rotation every hour, and our operators have been alerted. For the "
                "progress, the cause and what you can do, see {url}/keys\n"
            ),
        ),
        NotificationKind.APPROVAL_WAITING: (
            "Approval required at {organization}",
            (
                "A user of your organization requested an action that requires a second person's approval. The action "
                "runs only after another user with a role that manages keys approves it. For the action and the time "
                "limit, see {url}/approvals\n"
            ),
        ),
        NotificationKind.EXPIRY_LATE: (
            "A certificate of {organization} was not renewed in time",
            (
                "The certificate is still valid. We retry the renewal every hour, and our operators have been alerted. "
                "If you chose its lifetime for an appliance, it is not renewed automatically: renew it and install it "
                "there. A database needs openkcm agent on its machine to fetch a renewed certificate. For the "
                "certificate, its expiry and what you can do, see {url}\n"
            ),
        ),
        NotificationKind.EXPIRY_LAPSED: (
            "A certificate of {organization} has expired",
            (
                "OpenKCM rejects this certificate until it is replaced. For the certificate and how to connect its "
                "service again, see {url}\n"
            ),
        ),
        NotificationKind.BREACHED: (
            "OpenKCM for {organization} has been locked: a tenant isolation check failed",
            (
                "Every day we verify the isolation of your tenant with attempted attacks that must be rejected. One of "
                "them was not rejected. Your services cannot encrypt or decrypt data until our operators have fixed "
                "the cause and a later isolation assessment passes. Nothing is destroyed, and our operators have been "
                "alerted. For the failed check and its audit records, see {url}\n"
            ),
        ),
        NotificationKind.TEST: (
            "Test notification of {organization}",
            (
                "An administrator requested this test. You do not need to do anything. For the receivers of "
                "notifications and their events, see {url}/settings\n"
            ),
        ),
        NotificationKind.LEAVING: (
            "Offboarding of {organization} has started",
            (
                "Your services cannot encrypt or decrypt data, and nothing is destroyed yet. You can restore your "
                "tenant until {until}. After that your keys are destroyed permanently, and data encrypted with them "
                "can never be decrypted again. If you did not request this, restore your tenant now: {url}\n"
            ),
        ),
        NotificationKind.LEAVING_REMINDER: (
            "Reminder: offboarding of {organization} continues",
            (
                "Your services cannot encrypt or decrypt data, and nothing is destroyed yet. You can restore your "
                "tenant until {until}. After that your keys are destroyed permanently, and data encrypted with them "
                "can never be decrypted again. If you did not request this, restore your tenant now: {url}\n"
            ),
        ),
        NotificationKind.RESTORED: (
            "OpenKCM for {organization} is restored",
            (
                "Nothing was destroyed. Connect each service again whose certificate expired in the meantime; its key "
                "is unchanged. For the state of your tenant, see {url}\n"
            ),
        ),
        NotificationKind.OFFBOARDED: (
            "OpenKCM: your keys are destroyed",
            (
                "Your keys are destroyed permanently, your records are erased, and your account id is never reused. "
                "The signed erasure certificate states what was destroyed, what is kept and why, and what remains in "
                "backups until when. Request it from your operator.\n"
            ),
        ),
    }
)


_LEAVING_AT_ONCE = (
    "{organization} is offboarded without a grace period",
    (
        "Your services cannot encrypt or decrypt data, and your keys are being destroyed permanently. Your tenant "
        "cannot be restored, and data encrypted with these keys can never be decrypted again. For the state, see "
        "{url}\n"
    ),
)
"""The text of `LEAVING` without a grace period."""


def announcement_text(
    kind: NotificationKind, organization: str, url: str, until: datetime | None = None
) -> tuple[str, str]:
    """Return subject and body of a notification.

    `until` is the end of the grace period of an offboarding; None without one.
    """
    end = "the grace period ends" if until is None else f"{until:%Y-%m-%d %H:%M} UTC"
    texts = _LEAVING_AT_ONCE if kind is NotificationKind.LEAVING and until is None else _TEXTS[kind]
    subject, body = (text.format(organization=organization, url=url, until=end) for text in texts)
    return subject, f"{subject}\n\n{body}"


class Channel(StrEnum):
    """How a message is sent.

    The platform's settings define the receivers of the first two, tenants those of the others
    (`core.notifications.targets`).
    """

    CALLBACK = "callback"
    EMAIL = "email"
    TARGET_EMAIL = "target-email"
    TARGET_WEBHOOK = "target-webhook"

    @property
    def is_of_target(self) -> bool:
        """Whether a tenant chose the receiver."""
        return self in {Channel.TARGET_EMAIL, Channel.TARGET_WEBHOOK}


class Notification(BaseModel):
    """One message to one receiver; each retry sends it with the same `message_id`.

    `target_id` names the receiver on a channel of targets.
    """

    model_config = ConfigDict(frozen=True)

    message_id: str
    tenant_id: str
    channel: Channel
    kind: NotificationKind
    subject: str
    body: str
    target_id: str | None = None


def retry_delay(attempts: int) -> timedelta:
    """Return the time from a failed attempt to the next: 1, 2, 4, … seconds, at most 15 minutes."""
    return min(timedelta(seconds=2 ** min(attempts - 1, 10)), timedelta(minutes=15))


def message_id(tenant_id: str, operation_id: str, kind: NotificationKind, receiver: str) -> str:
    """Return the message id of a notification: the same for each attempt of the same operation.

    `receiver` is a channel of the platform, or the id of a target.
    """
    return str(uuid5(NAMESPACE_URL, f"openkcm:{tenant_id}:{operation_id}:{kind}:{receiver}"))


def dashboard_url(base_url: str, tenant_id: str) -> str:
    """Return the URL of the tenant's CMK page."""
    return f"{base_url.rstrip('/')}/tenant/{tenant_id}"
