"""Descriptions of the service: the discovery document and the OpenAPI document, both from the endpoint table.

Field names of the discovery document are stable: fields may be added, never renamed.
"""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from crypto_service.https import schemas as api
from crypto_service.https.parser import HEAD_BYTES, HEADERS
from crypto_service.https.problems import CONTENT_TYPE
from crypto_service.https.routes import ENDPOINTS, JSON, Endpoint
from crypto_service.interfaces import ClientIdentity
from crypto_service.kmip.codec.framing import VERSIONS
from openkcm.contract.client_files import Offer

KMIP_VERSIONS = tuple(f"{major}.{minor}" for major, minor in sorted(VERSIONS))
_REFUSALS = {
    "400": "the request is not valid",
    "403": "the certificate or the tenant's state does not permit it;"
    " after client_not_authorized the connection is closed",
    "413": "the body is too large",
    "422": "the ciphertext does not decrypt for this caller and resource",
    "424": "the customer's root key is disabled or not usable",
    "429": "too many requests; wait as stated in Retry-After",
    "503": "a backend server does not respond; wait as stated in Retry-After",
}


def describe(offer: Offer, caller: ClientIdentity, body_limit: int) -> dict[str, Any]:
    """Return the discovery document for a caller."""
    return {
        "service": "openkcm",
        "versions": {"api": ["v1"], "kmip": list(KMIP_VERSIONS)},
        "endpoints": {"https": offer.https, "kmip": offer.kmip},
        "caller": {"tenant_id": caller.tenant_id, "service": caller.service, "region": caller.region},
        "operations": {endpoint.name: {"method": endpoint.method, "path": endpoint.path} for endpoint in ENDPOINTS},
        "limits": {
            "body_bytes": body_limit,
            "batch_items": api.BATCH_ITEMS,
            "resource_characters": api.RESOURCE_CHARACTERS,
            "head_bytes": HEAD_BYTES,
            "headers": HEADERS,
        },
    }


def openapi() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document; its schemas are JSON Schema from pydantic."""
    models: set[type[BaseModel]] = {api.ProblemAnswer}
    for endpoint in ENDPOINTS:
        models.update(model for model in (endpoint.request, endpoint.answer) if model is not None)
    _, definitions = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenKCM crypto service",
            "version": "1",
            "description": "Called over mutual TLS. Tenant and service are read from the client certificate alone.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"mutualTLS": {"type": "mutualTLS"}},
        },
        "security": [{"mutualTLS": []}],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    problem = {"content": {CONTENT_TYPE: {"schema": _ref(api.ProblemAnswer)}}}
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "responses": {
            "200": {"description": "done", "content": {endpoint.media_type: {"schema": _answer_schema(endpoint)}}},
            **{status: {"description": meaning, **problem} for status, meaning in _REFUSALS.items()},
        },
    }
    if endpoint.request is not None:
        schema = _request_schema(endpoint)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _request_schema(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.batch_of is None:
        return _ref(endpoint.request) if endpoint.request is not None else {"type": "object"}
    item = next(single.request for single in ENDPOINTS if single.name == endpoint.batch_of)
    items = {"type": "array", "minItems": 1, "maxItems": api.BATCH_ITEMS, "items": _ref(item) if item else {}}
    return {"type": "object", "required": ["items"], "additionalProperties": False, "properties": {"items": items}}


def _answer_schema(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.media_type != JSON:
        return {}  # bytes: OpenAPI 3.1 describes them only by media type
    if endpoint.answer is None:
        return {"type": "object"}
    if endpoint.batch_of is None:
        return _ref(endpoint.answer)
    refused = {"type": "object", "required": ["problem"], "properties": {"problem": _ref(api.ProblemAnswer)}}
    items = {"type": "array", "items": {"anyOf": [_ref(endpoint.answer), refused]}}
    count = {"type": "integer", "description": "how many of the items were refused"}
    return {"type": "object", "required": ["items", "refused"], "properties": {"items": items, "refused": count}}
