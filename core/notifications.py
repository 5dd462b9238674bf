"""What customers are told, kind by kind; the ready text is the customer's own wording.

In the table a text names what it needs in braces: the organization, the address of its page, and until when one that
leaves can be restored. The farewell names nobody: the name is erased by then.

The marketplace's events as one model, however they arrived, and the announcements that answer them.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from uuid import NAMESPACE_URL, uuid5

from pydantic import BaseModel, ConfigDict


class NotificationKind(StrEnum):
    READY = "ready"
    LATE = "late"
    FAILED = "failed"
    LOCKED = "locked"
    UNLOCKED = "unlocked"
    ROOT_KEY_WARNING = "root-key-warning"
    ROOT_KEY_CHANGED = "root-key-changed"
    KEYS_ROTATED = "keys-rotated"
    ROTATION_STUCK = "rotation-stuck"
    APPROVAL_WAITING = "approval-waiting"
    LEAVING = "leaving"
    LEAVING_REMINDER = "leaving-reminder"
    RESTORED = "restored"
    FAREWELL = "farewell"
    EXPIRY_LATE = "expiry-late"
    EXPIRY_LAPSED = "expiry-lapsed"
    BREACHED = "breached"


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
            "OpenKCM for {organization} is taking longer than promised",
            (
                "Your environment is still being prepared and nothing is lost. Our operators have been alerted, and "
                "you will get the ready message as soon as it is done. There is nothing you need to do.\n"
            ),
        ),
        NotificationKind.FAILED: (
            "OpenKCM could not be prepared for {organization}",
            (
                "Preparation was stopped before your environment was opened, so none of your data is affected. Our "
                "operators have been alerted and will try again; you will get a message when it is ready.\n"
            ),
        ),
        NotificationKind.LOCKED: (
            "OpenKCM for {organization} is locked",
            (
                "Nothing of yours can be encrypted or decrypted: somebody locked it, or your root key was taken away "
                "or did not answer. Nothing is destroyed. Why, and what unlocks it: {url}\n"
            ),
        ),
        NotificationKind.UNLOCKED: (
            "OpenKCM for {organization} is unlocked",
            ("Your services work again. There is nothing you need to do.\n"),
        ),
        NotificationKind.ROOT_KEY_WARNING: (
            "The root key of {organization} does not answer",
            (
                "Your services go on with what is open for a short while. If your key does not answer by then, nothing "
                "of yours opens until it does. What was tried and what it said: {url}\n"
            ),
        ),
        NotificationKind.ROOT_KEY_CHANGED: (
            "The root key of {organization} was changed",
            (
                "Every service key now lies under the new root key; your data was not encrypted anew and no service "
                "was interrupted. If this was not you, look at once: {url}\n"
            ),
        ),
        NotificationKind.KEYS_ROTATED: (
            "Keys of {organization} were rotated",
            (
                "New versions encrypt from now on. Nothing of your data was encrypted anew and no service was "
                "interrupted. Which keys, why, and what the versions before still open: {url}\n"
            ),
        ),
        NotificationKind.ROTATION_STUCK: (
            "Keys of {organization} were not rotated as they should have been",
            (
                "Every key works as before. It is tried again every hour, and our operators have been alerted. How far "
                "it got, what stopped it and what you can do: {url}/keys\n"
            ),
        ),
        NotificationKind.APPROVAL_WAITING: (
            "A second person is asked for at {organization}",
            (
                "Somebody of your organization asked for something that takes two of you. Nothing has happened yet, "
                "and nothing will unless another person who manages keys approves it in time. What it is, and until "
                "when: {url}/settings\n"
            ),
        ),
        NotificationKind.EXPIRY_LATE: (
            "A certificate of {organization} was not renewed in time",
            (
                "It still works. It is tried again every hour, and our operators have been alerted. Which one it is, "
                "when it ends and what you can do: {url}\n"
            ),
        ),
        NotificationKind.EXPIRY_LAPSED: (
            "A certificate of {organization} has expired",
            (
                "What presents it is refused until it has a new one. Which one it is, and how its service is connected "
                "again: {url}\n"
            ),
        ),
        NotificationKind.BREACHED: (
            "OpenKCM for {organization} was locked: a wall around it did not hold",
            (
                "We attack your tenant's boundaries ourselves, every day. One of those attacks was not refused, so "
                "nothing of yours is encrypted or decrypted until our operators have mended it and a later examination "
                "found every wall standing. Nothing is destroyed, and our operators have been alerted. Which attack it "
                "was, and what your audit stream says of it: {url}\n"
            ),
        ),
        NotificationKind.LEAVING: (
            "OpenKCM for {organization} is leaving",
            (
                "Nothing of yours can be encrypted or decrypted, and nothing is destroyed yet. Until {until} all of it "
                "can be restored. After that your keys are destroyed for good, and whatever they encrypted can never "
                "be read again by anybody. If this was not you, restore it now: {url}\n"
            ),
        ),
        NotificationKind.LEAVING_REMINDER: (
            "OpenKCM for {organization} is still leaving",
            (
                "Nothing of yours can be encrypted or decrypted, and nothing is destroyed yet. Until {until} all of it "
                "can be restored. After that your keys are destroyed for good, and whatever they encrypted can never "
                "be read again by anybody. If this was not you, restore it now: {url}\n"
            ),
        ),
        NotificationKind.RESTORED: (
            "OpenKCM for {organization} is restored",
            (
                "Nothing was destroyed. A service whose certificate expired meanwhile has to be connected again; its "
                "key is the same. How you stand: {url}\n"
            ),
        ),
        NotificationKind.FAREWELL: (
            "OpenKCM: your keys are destroyed",
            (
                "Your keys are destroyed for good, your records are erased, and your account id is never used again. A "
                "signed certificate says what was destroyed, what is kept and why, and what remains in backups until "
                "when; your operator gives it to you.\n"
            ),
        ),
    }
)


def announcement_text(
    kind: NotificationKind, organization: str, url: str, until: datetime | None = None
) -> tuple[str, str]:
    """Return subject and body of an announcement; `until` is when the grace of one who leaves is over."""
    end = "the grace is over" if until is None else f"{until:%Y-%m-%d %H:%M} UTC"
    subject, body = (text.format(organization=organization, url=url, until=end) for text in _TEXTS[kind])
    return subject, f"{subject}\n\n{body}"


class Channel(StrEnum):
    CALLBACK = "callback"
    EMAIL = "email"


class Notification(BaseModel):
    """One message on one channel; `message_id` stays the same however often it is sent."""

    model_config = ConfigDict(frozen=True)

    message_id: str
    tenant_id: str
    channel: Channel
    kind: NotificationKind
    subject: str
    body: str


def message_id(tenant_id: str, operation_id: str, kind: NotificationKind, channel: Channel) -> str:
    """Return the message id of an announcement: the same for every attempt of the same operation."""
    return str(uuid5(NAMESPACE_URL, f"openkcm:{tenant_id}:{operation_id}:{kind}:{channel}"))


def dashboard_url(base_url: str, tenant_id: str) -> str:
    """Return the address of the tenant's CMK page."""
    return f"{base_url.rstrip('/')}/tenant/{tenant_id}"
