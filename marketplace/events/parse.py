"""The three formats of an event, and their one model.

1. The bare JSON: `event, customer, service, region, timestamp` and an optional `organization`; an event that discovers
   a service names it (`workload`) with its `kind`.
2. A structured CloudEvent whose `data` is that object. `event` is optional if the type is
   `io.openkcm.marketplace.<kind>` or the bare kind; `timestamp` is optional if there is a `time`.
3. A binary CloudEvent whose body is that object, complete. The signature does not cover `ce-` headers, so they must
   agree with the body and add nothing: otherwise a man in the middle could turn an enable into a disable.

For the same reason the signed body, not Content-Type, determines the format. Unknown fields are ignored, because public
senders add fields over time; a known field of the wrong type is rejected. If a field occurs twice in an object, the
last value counts.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cloudevents.core.bindings.http import HTTPMessage, from_binary_event
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from core.errors.requests import MalformedEvent, UnknownEvent, UnknownRegion, UnknownService
from core.tenants.provisioning import EventKind, MarketplaceEvent
from openkcm.contract.names import parse_service_name, parse_tenant_id
from openkcm.contract.services import ServiceKind

SERVICE = "openkcm"
TYPE_PREFIX = "io.openkcm.marketplace."
MOST_CHARACTERS = 200
_CE = "ce-"


def read_event(body: bytes, headers: Mapping[str, str], event_id: str, regions: Sequence[str]) -> MarketplaceEvent:
    """Return the event in a verified body.

    Args:
        body: the signed body.
        headers: with lower-case names; used only to reject a CloudEvent whose headers contradict its body.
        event_id: the message id of the webhook.
        regions: the regions in which tenants can be enabled.

    Raises:
        MalformedEvent, UnknownEvent, UnknownService, IllegalTenantId, UnknownRegion: in this order of checks.
        InvalidName: the discovered service has an invalid name.
    """
    fields = _fields(body, headers)
    try:
        kind = EventKind(_text(fields, "event"))
    except ValueError:
        raise UnknownEvent from None
    if _text(fields, "service") != SERVICE:
        raise UnknownService
    tenant_id = parse_tenant_id(_text(fields, "customer"))
    region = _text(fields, "region")
    if region not in regions:
        raise UnknownRegion(tuple(regions))
    discovers = kind is EventKind.SERVICE_DISCOVERED
    return MarketplaceEvent(
        event_id=event_id,
        kind=kind,
        tenant_id=tenant_id,
        organization=_organization(fields.get("organization"), tenant_id),
        region=region,
        timestamp=_instant(_text(fields, "timestamp")),
        service=parse_service_name(_text(fields, "workload")) if discovers else None,
        service_kind=_service_kind(_text(fields, "kind")) if discovers else None,
    )


def _fields(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    read = _object(body)
    if "specversion" in read:
        return _from_structured(read, body)
    if _CE + "specversion" in headers:
        _compare_with_headers(read, body, headers)
    return read


def _object(body: bytes) -> dict[str, Any]:
    try:
        read = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedEvent("the body is not JSON in UTF-8") from None
    if not isinstance(read, dict):
        raise MalformedEvent("the body is not a JSON object", "send one event per request")
    return read


def _from_structured(read: dict[str, Any], body: bytes) -> dict[str, Any]:
    try:
        event = JSONFormat().read(CloudEvent, body)
    except (BaseCloudEventException, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        # The library raises the first; the others result from attributes of unexpected types.
        raise MalformedEvent("the CloudEvent does not conform to version 1.0 of the specification") from None
    fields = read.get("data")
    if not isinstance(fields, dict):
        raise MalformedEvent("the CloudEvent's data is not a JSON object")
    kind = _kind_of_type(event.get_type())
    if kind is not None and fields.setdefault("event", kind) != kind:
        raise MalformedEvent("the CloudEvent's type and its data have different kinds of event")
    fields.setdefault("event", event.get_type())
    if "timestamp" not in fields and "time" in read:
        fields["timestamp"] = read["time"]
    return fields


def _compare_with_headers(read: dict[str, Any], body: bytes, headers: Mapping[str, str]) -> None:
    attributes = {name: value for name, value in headers.items() if name.startswith(_CE) or name == "content-type"}
    try:
        event = from_binary_event(HTTPMessage(attributes, body))
    except (BaseCloudEventException, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise MalformedEvent("the headers of the CloudEvent do not conform to the specification") from None
    if "event" not in read:
        raise MalformedEvent(
            "the binary CloudEvent has its kind only in a header, and headers are not signed",
            "repeat it in the body as event, or send a structured CloudEvent",
        )
    kind = _kind_of_type(event.get_type())
    if kind is not None and read["event"] != kind:
        raise MalformedEvent("the CloudEvent's type and its data have different kinds of event")


def _kind_of_type(event_type: str) -> EventKind | None:
    """Return the kind in a CloudEvent's type; None for a marketplace's own type, whose data has the kind."""
    bare = event_type.removeprefix(TYPE_PREFIX)
    return EventKind(bare) if bare in tuple(EventKind) else None


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise MalformedEvent(f"the field {name} is missing or not a text")
    return value


def _service_kind(text: str) -> ServiceKind:
    try:
        return ServiceKind(text)
    except ValueError:
        raise MalformedEvent(
            "the kind of the discovered service is unknown", f"use one of {', '.join(ServiceKind)}"
        ) from None


def _organization(value: object, tenant_id: str) -> str:
    """Return the customer's name. It appears in e-mail headers and on pages, so control characters are rejected."""
    if value is None:
        return tenant_id
    if not isinstance(value, str) or not 1 <= len(value) <= MOST_CHARACTERS or not value.isprintable():
        raise MalformedEvent(f"the organization is not a text of 1 to {MOST_CHARACTERS} printable characters")
    if value != value.strip():
        raise MalformedEvent("the organization starts or ends with white space")
    return value


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise MalformedEvent("the timestamp is not RFC 3339 with a time zone", "write it as 2026-01-15T10:30:00Z")
