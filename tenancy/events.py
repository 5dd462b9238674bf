"""The marketplace's events as one model, however they arrived, and the announcements that answer them."""

from datetime import datetime
from enum import StrEnum
from uuid import NAMESPACE_URL, uuid5

from pydantic import BaseModel, ConfigDict

from openkcm.contract.services import ServiceKind


class EventKind(StrEnum):
    SERVICE_ENABLED = "service_enabled"
    SERVICE_DISABLED = "service_disabled"
    SERVICE_DISCOVERED = "service_discovered"


class MarketplaceEvent(BaseModel):
    """A checked event. `event_id` is what makes two deliveries the same event (the webhook's message id).

    `service` and `service_kind` are there when it says that a service was discovered, and then alone.
    """

    model_config = ConfigDict(frozen=True)

    event_id: str
    kind: EventKind
    tenant_id: str
    organization: str
    region: str
    timestamp: datetime
    service: str | None = None
    service_kind: ServiceKind | None = None


class AnnouncementKind(StrEnum):
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
