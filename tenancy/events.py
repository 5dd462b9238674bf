"""The marketplace's events as one model, however they arrived, and the announcements that answer them."""

from datetime import datetime
from enum import StrEnum
from uuid import NAMESPACE_URL, uuid5

from pydantic import BaseModel, ConfigDict


class EventKind(StrEnum):
    SERVICE_ENABLED = "service_enabled"
    SERVICE_DISABLED = "service_disabled"


class MarketplaceEvent(BaseModel):
    """A checked event. `event_id` is what makes two deliveries the same event (the webhook's message id)."""

    model_config = ConfigDict(frozen=True)

    event_id: str
    kind: EventKind
    tenant_id: str
    organization: str
    region: str
    timestamp: datetime


class AnnouncementKind(StrEnum):
    READY = "ready"
    LATE = "late"
    FAILED = "failed"
    LOCKED = "locked"
    UNLOCKED = "unlocked"
    ROOT_KEY_WARNING = "root-key-warning"
    ROOT_KEY_CHANGED = "root-key-changed"
    KEYS_ROTATED = "keys-rotated"
    APPROVAL_WAITING = "approval-waiting"
    LEAVING = "leaving"
    LEAVING_REMINDER = "leaving-reminder"
    RESTORED = "restored"
    FAREWELL = "farewell"


class Channel(StrEnum):
    CALLBACK = "callback"
    EMAIL = "email"


class Announcement(BaseModel):
    """One message on one channel; `message_id` stays the same however often it is sent."""

    model_config = ConfigDict(frozen=True)

    message_id: str
    tenant_id: str
    channel: Channel
    kind: AnnouncementKind
    subject: str
    body: str


def message_id(tenant_id: str, operation_id: str, kind: AnnouncementKind, channel: Channel) -> str:
    """Return the message id of an announcement: the same for every attempt of the same operation."""
    return str(uuid5(NAMESPACE_URL, f"openkcm:{tenant_id}:{operation_id}:{kind}:{channel}"))


def dashboard_url(base_url: str, tenant_id: str) -> str:
    """Return the address of the tenant's CMK page."""
    return f"{base_url.rstrip('/')}/tenant/{tenant_id}"


def announcement_text(
    kind: AnnouncementKind, organization: str, url: str, until: datetime | None = None
) -> tuple[str, str]:
    """Return subject and body of an announcement; the ready text is the customer's own wording.

    `until` is when the grace of one who leaves is over. The farewell names nobody: the name is erased by then.
    """
    match kind:
        case AnnouncementKind.READY:
            subject = f"OpenKCM is ready for {organization}!"
            body = (
                f"{subject}\n\n"
                "✓ Tenant environment created\n"
                "✓ Encryption keys configured\n"
                "✓ Services can now request encryption keys\n"
                f"✓ CMK UI available at: {url}\n"
            )
        case AnnouncementKind.LATE:
            subject = f"OpenKCM for {organization} is taking longer than promised"
            body = (
                f"{subject}\n\n"
                "Your environment is still being prepared and nothing is lost. Our operators have been alerted, and "
                "you will get the ready message as soon as it is done. There is nothing you need to do.\n"
            )
        case AnnouncementKind.FAILED:
            subject = f"OpenKCM could not be prepared for {organization}"
            body = (
                f"{subject}\n\n"
                "Preparation was stopped before your environment was opened, so none of your data is affected. Our "
                "operators have been alerted and will try again; you will get a message when it is ready.\n"
            )
        case AnnouncementKind.LOCKED:
            subject = f"OpenKCM for {organization} is locked"
            body = (
                f"{subject}\n\n"
                "Nothing of yours can be encrypted or decrypted: somebody locked it, or your root key was taken away "
                f"or did not answer. Nothing is destroyed. Why, and what unlocks it: {url}\n"
            )
        case AnnouncementKind.UNLOCKED:
            subject = f"OpenKCM for {organization} is unlocked"
            body = f"{subject}\n\nYour services work again. There is nothing you need to do.\n"
        case AnnouncementKind.ROOT_KEY_WARNING:
            subject = f"The root key of {organization} does not answer"
            body = (
                f"{subject}\n\n"
                "Your services go on with what is open for a short while. If your key does not answer by then, nothing "
                f"of yours opens until it does. What was tried and what it said: {url}\n"
            )
        case AnnouncementKind.ROOT_KEY_CHANGED:
            subject = f"The root key of {organization} was changed"
            body = (
                f"{subject}\n\n"
                "Every service key now lies under the new root key; your data was not encrypted anew and no service "
                f"was interrupted. If this was not you, look at once: {url}\n"
            )
        case AnnouncementKind.KEYS_ROTATED:
            subject = f"Keys of {organization} were rotated"
            body = (
                f"{subject}\n\n"
                "New versions encrypt from now on. Nothing of your data was encrypted anew and no service was "
                f"interrupted. Which keys, why, and what the versions before still open: {url}\n"
            )
        case AnnouncementKind.APPROVAL_WAITING:
            subject = f"A second person is asked for at {organization}"
            body = (
                f"{subject}\n\n"
                "Somebody of your organization asked for something that takes two of you. Nothing has happened yet, "
                "and nothing will unless another person who manages keys approves it in time. What it is, and until "
                f"when: {url}/settings\n"
            )
        case _:
            return _leaving_text(kind, organization, url, until)
    return subject, body


def _leaving_text(kind: AnnouncementKind, organization: str, url: str, until: datetime | None) -> tuple[str, str]:
    match kind:
        case AnnouncementKind.LEAVING | AnnouncementKind.LEAVING_REMINDER:
            again = "still " if kind is AnnouncementKind.LEAVING_REMINDER else ""
            end = "the grace is over" if until is None else f"{until:%Y-%m-%d %H:%M} UTC"
            subject = f"OpenKCM for {organization} is {again}leaving"
            body = (
                f"{subject}\n\n"
                "Nothing of yours can be encrypted or decrypted, and nothing is destroyed yet. Until "
                f"{end} all of it can be restored. After that your keys are destroyed for good, and whatever they "
                f"encrypted can never be read again by anybody. If this was not you, restore it now: {url}\n"
            )
        case AnnouncementKind.RESTORED:
            subject = f"OpenKCM for {organization} is restored"
            body = (
                f"{subject}\n\n"
                "Nothing was destroyed. A service whose certificate expired meanwhile has to be connected again; its "
                f"key is the same. How you stand: {url}\n"
            )
        case _:
            subject = "OpenKCM: your keys are destroyed"
            body = (
                f"{subject}\n\n"
                "Your keys are destroyed for good, your records are erased, and your account id is never used again. A "
                "signed certificate says what was destroyed, what is kept and why, and what remains in backups until "
                "when; your operator gives it to you.\n"
            )
    return subject, body
