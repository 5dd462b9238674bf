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
    EXPIRY_LATE = "expiry-late"
    EXPIRY_LAPSED = "expiry-lapsed"


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


def announcement_text(kind: AnnouncementKind, organization: str, url: str) -> tuple[str, str]:
    """Return subject and body of an announcement; the ready text is the customer's own wording."""
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
        case AnnouncementKind.EXPIRY_LATE:
            subject = f"A certificate of {organization} was not renewed in time"
            body = (
                f"{subject}\n\n"
                "It still works. It is tried again every hour, and our operators have been alerted. Which one it is, "
                f"when it ends and what you can do: {url}\n"
            )
        case AnnouncementKind.EXPIRY_LAPSED:
            subject = f"A certificate of {organization} has expired"
            body = (
                f"{subject}\n\n"
                "What presents it is refused until it has a new one. Which one it is, and how its service is connected "
                f"again: {url}\n"
            )
    return subject, body
