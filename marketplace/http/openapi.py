"""Descriptions in the OpenAPI document that the models do not contain."""

from typing import Any

from marketplace.schemas import ProblemAnswer

DESCRIPTION = (
    "Receives signed marketplace events and shows the state of a tenant. Bodies are signed as in Standard Webhooks "
    "(webhook-id, webhook-timestamp, webhook-signature over the raw body; HMAC-SHA256). Every error is a problem "
    "document (RFC 9457) with a stable code and a hint. Repeat an event with the same webhook-id until the response is "
    "202; it takes effect once."
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


def _errors(*statuses: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ProblemAnswer, "description": text} for status, text in statuses}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": description}


EVENTS: dict[str, Any] = {
    "summary": "Send an event",
    "description": (
        "Stores the event before it responds. Kinds: service_enabled creates a tenant, service_disabled starts its "
        "offboarding, service_discovered records a service by its workload and kind. The body is the object below, a "
        "structured CloudEvent with it as data, or a binary CloudEvent with it as body; ce- headers are not signed and "
        "determine nothing. Unknown fields are ignored. The default of organization is the customer id."
    ),
    "responses": _errors(
        (400, "malformed_event"),
        (401, "signature_invalid, stale_timestamp"),
        (404, "tenant_unknown: service_disabled for an account that never enabled the service"),
        (409, "tenant_offboarded, tenant_conflict, service_conflict"),
        (413, "body_too_large"),
        (422, "unknown_event, unknown_service, unknown_region, illegal_tenant_id, invalid_name"),
        (500, "internal, with a reference for the operator"),
        (503, "database_unavailable: nothing is stored; repeat after Retry-After seconds"),
    ),
    "openapi_extra": {
        "parameters": [
            _header("webhook-id", "1 to 200 visible ASCII characters; the same for every delivery of an event"),
            _header("webhook-timestamp", "Unix seconds, at most five minutes in the past or future"),
            _header("webhook-signature", "v1,<base64>; separate several with a space"),
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
    "summary": "Show a tenant",
    "description": "The state of a tenant, for display in the marketplace. Requires the marketplace's bearer token.",
    "responses": _errors(
        (401, "unauthorized"), (404, "tenant_unknown"), (422, "illegal_tenant_id"), (503, "database_unavailable")
    ),
    "openapi_extra": {"parameters": [_header("authorization", "Bearer <marketplace token>")]},
}

DISCOVERY: dict[str, Any] = {
    "summary": "Discover OpenKCM",
    "description": "Addresses of the crypto service, the root of its certificate, and how to enrol. Public.",
    "responses": _errors((503, "canary_missing, database_unavailable")),
}

ENROL: dict[str, Any] = {
    "summary": "Enrol a service",
    "description": (
        "Requests a certificate for the key of a PKCS #10 request, with a join token or with a JWT of one of the "
        "issuers. A repeated request with the same key and attestation is the same enrolment; an attestation is valid "
        "for one key. The response does not give the reason for a rejected attestation."
    ),
    "responses": _errors(
        (400, "malformed_enrolment"),
        (401, "attestation_rejected"),
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

ENROLMENT_STATUS: dict[str, Any] = {
    "summary": "Show an enrolment",
    "description": "pending, issued with the certificate, or refused with the reason. Requires the ticket.",
    "responses": _errors((401, "ticket_rejected"), (429, "too_many_requests"), (503, "database_unavailable")),
    "openapi_extra": {"parameters": [_header("authorization", "Bearer <ticket>")]},
}

HEALTH: dict[str, Any] = {
    "summary": "Check the process",
    "description": "Whether this process responds, without its dependencies: a restart would not repair those.",
}

READINESS: dict[str, Any] = {
    "summary": "Check whether to send requests here",
    "description": "For load balancers. The reasons are error codes: database_unavailable, "
    "database_login_refused, schema_outdated, release_outdated or database_refused.",
    "responses": {503: {"description": "not ready, with the reasons"}},
}
