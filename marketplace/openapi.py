"""What the OpenAPI page says beyond the models."""

from typing import Any

from marketplace.answers import ProblemAnswer

DESCRIPTION = (
    "Takes signed marketplace events and shows how far a tenant is. Bodies are signed as Standard Webhooks describes "
    "(webhook-id, webhook-timestamp, webhook-signature over the raw body; HMAC-SHA256). Every refusal is a problem "
    "document (RFC 9457) with a stable code and a hint. Send an event again with the same webhook-id until it is "
    "answered with 202: it is acted on once."
)

_SEED = {
    "event": "service_enabled",
    "customer": "acme-corp-12345",
    "organization": "ACME Corporation",
    "service": "openkcm",
    "region": "eu-west-1",
    "timestamp": "2026-01-15T10:30:00Z",
}
_STRUCTURED = {
    "specversion": "1.0",
    "id": "1",
    "source": "/marketplace",
    "type": "io.openkcm.marketplace.service_enabled",
    "data": _SEED,
}


def _refusals(*statuses: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ProblemAnswer, "description": text} for status, text in statuses}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": description}


EVENTS: dict[str, Any] = {
    "summary": "take an event",
    "description": (
        "Stores the event and answers before anything is made. Kinds: service_enabled starts a tenant, "
        "service_disabled is recorded. The body is the object below, a structured CloudEvent with it as data, or a "
        "binary CloudEvent with it as body; ce- headers are not signed and never decide anything. Unknown fields are "
        "ignored; organization defaults to the customer id."
    ),
    "responses": _refusals(
        (400, "malformed_event"),
        (401, "signature_refused, stale_timestamp"),
        (404, "tenant_unknown: service_disabled for an account that never enabled the service"),
        (409, "tenant_offboarded, tenant_conflict"),
        (413, "body_too_large"),
        (422, "unknown_event, unknown_service, unknown_region, illegal_tenant_id"),
        (500, "internal, with a reference for the operator"),
        (503, "database_unavailable: nothing is stored, send it again after Retry-After seconds"),
    ),
    "openapi_extra": {
        "parameters": [
            _header("webhook-id", "1 to 200 visible ASCII characters; the same for every delivery of one event"),
            _header("webhook-timestamp", "Unix seconds, at most five minutes from the present"),
            _header("webhook-signature", "v1,<base64>; several are separated by a space"),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"type": "object"}, "example": _SEED},
                "application/cloudevents+json": {"schema": {"type": "object"}, "example": _STRUCTURED},
            },
        },
    },
}

TENANT: dict[str, Any] = {
    "summary": "show a tenant",
    "description": "How far a tenant is, for the marketplace's own display. Needs the marketplace's bearer token.",
    "responses": _refusals(
        (401, "unauthorized"), (404, "tenant_unknown"), (422, "illegal_tenant_id"), (503, "database_unavailable")
    ),
    "openapi_extra": {"parameters": [_header("authorization", "Bearer <marketplace token>")]},
}

HEALTH: dict[str, Any] = {
    "summary": "is the process up",
    "description": "Says that this process answers, not that what it depends on does: a restart would not help that.",
}
