"""What the OpenAPI page says beyond the models."""

from typing import Any

from marketplace.schemas import ProblemAnswer

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
        "service_disabled lets it leave, service_discovered puts a service on record by its "
        "workload and kind. The body is the object below, a structured CloudEvent with it as data, or a "
        "binary CloudEvent with it as body; ce- headers are not signed and never decide anything. Unknown fields are "
        "ignored; organization defaults to the customer id."
    ),
    "responses": _refusals(
        (400, "malformed_event"),
        (401, "signature_refused, stale_timestamp"),
        (404, "tenant_unknown: service_disabled for an account that never enabled the service"),
        (409, "tenant_offboarded, tenant_conflict, service_conflict"),
        (413, "body_too_large"),
        (422, "unknown_event, unknown_service, unknown_region, illegal_tenant_id, invalid_name"),
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

DISCOVERY: dict[str, Any] = {
    "summary": "find OpenKCM",
    "description": "Where the crypto service is, the root its certificate hangs from, and how to enrol. Public.",
    "responses": _refusals((503, "canary_missing, database_unavailable")),
}

ENROL: dict[str, Any] = {
    "summary": "enrol as a service",
    "description": (
        "Asks for a certificate for the key of a PKCS #10 request, with a join token or with a JWT of one of the "
        "issuers. The same key and proof again is the same enrolment; a proof is good for one key. What is wrong with "
        "a proof is not said."
    ),
    "responses": _refusals(
        (400, "malformed_enrolment"),
        (401, "proof_refused"),
        (413, "body_too_large"),
        (422, "csr_refused, invalid_name"),
        (429, "too_many_requests"),
        (503, "database_unavailable, issuer_unavailable"),
    ),
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object"},
                    "example": {
                        "service": "orders-db",
                        "kind": "postgresql",
                        "csr": "-----BEGIN CERTIFICATE REQUEST-----...",
                        "join_token": "okcmj1...",
                    },
                }
            },
        }
    },
}

STANDING: dict[str, Any] = {
    "summary": "how an enrolment stands",
    "description": "pending, issued with the certificate, or refused with the reason. Needs the enrolment's ticket.",
    "responses": _refusals((401, "ticket_refused"), (429, "too_many_requests"), (503, "database_unavailable")),
    "openapi_extra": {"parameters": [_header("authorization", "Bearer <ticket>")]},
}

HEALTH: dict[str, Any] = {
    "summary": "is the process up",
    "description": "Says that this process answers, not that what it depends on does: a restart would not help that.",
}
