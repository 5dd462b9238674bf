"""A notification as a signed HTTP request: a structured CloudEvent with the headers of Standard Webhooks."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks import Webhook

from core.notifications import Notification, dashboard_url

SOURCE = "/openkcm"
TYPE_PREFIX = "io.openkcm.tenant."


def signed_request(
    notification: Notification, base_url: str, signers: Iterable[Webhook], now: datetime
) -> tuple[bytes, Mapping[str, str]]:
    """Return body and headers; they have a signature of each signer. `base_url` is the dashboard's address."""
    now = now.astimezone(UTC)
    message = to_structured_event(
        CloudEvent(
            {
                "id": notification.message_id,
                "source": SOURCE,
                "type": f"{TYPE_PREFIX}{notification.kind}",
                "subject": notification.tenant_id,
                "time": now,
                "datacontenttype": "application/json",
            },
            {
                "tenant_id": notification.tenant_id,
                "kind": notification.kind,
                "subject": notification.subject,
                "text": notification.body,
                "dashboard_url": dashboard_url(base_url, notification.tenant_id),
            },
        )
    )
    text = message.body.decode("utf-8")
    headers = message.headers | {
        "webhook-id": notification.message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        # The library reads the time as UTC regardless of its zone; `now` is in UTC.
        "webhook-signature": " ".join(one.sign(notification.message_id, now, text) for one in signers),
    }
    return message.body, headers
