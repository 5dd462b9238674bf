import json
from typing import Any

from core.tenants.lifecycle import State
from crypto_service.https.discovery import describe, openapi
from crypto_service.https.routes import ENDPOINTS, routes
from crypto_service.interfaces import ClientIdentity
from crypto_service.kmip.codec.framing import VERSIONS
from openkcm.contract.client_files import Offer

_CALLER = ClientIdentity("acme-corp-12345", "orders", "L2-acme-corp-12345-primary", "eu-west-1", "ab", State.ACTIVE)


def _references(found: Any) -> set[str]:
    if isinstance(found, dict):
        return {found["$ref"]} if "$ref" in found else set().union(*map(_references, found.values()), set())
    if isinstance(found, list):
        return set().union(*map(_references, found), set())
    return set()


def test_openapi_describes_exactly_the_endpoints():
    described = {(method.upper(), path) for path, methods in openapi()["paths"].items() for method in methods}
    assert described == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}


def test_every_reference_in_openapi_resolves():
    document = openapi()
    schemas = document["components"]["schemas"]
    references = _references(document)
    assert references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= set(schemas)
    assert json.loads(json.dumps(document)) == document


def test_openapi_request_schemas_are_as_strict_as_validation():
    schemas = openapi()["components"]["schemas"]
    requests = {endpoint.request.__name__ for endpoint in ENDPOINTS if endpoint.request and not endpoint.batch_of}
    assert all(schemas[name]["additionalProperties"] is False for name in requests)
    assert schemas["EncryptRequest"]["properties"]["plaintext"]["contentEncoding"] == "base64"
    assert schemas["EncryptRequest"]["required"] == ["plaintext", "resource"]
    plaintext = schemas["DataKeyAnswer"]["properties"]["plaintext"]  # optional, but not nullable
    assert plaintext == {"contentEncoding": "base64", "title": "Plaintext", "type": "string"}
    body = openapi()["paths"]["/v1/decrypt:batch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["items"]["items"] == {"$ref": "#/components/schemas/CiphertextRequest"}
    assert body["properties"]["items"]["maxItems"] == 1000


def test_discovery_document_has_its_stable_fields():
    document = describe(Offer("https://kcm.example:8443", "kcm.example:5696"), _CALLER, 1_048_576)
    assert set(document) == {"service", "versions", "endpoints", "caller", "operations", "limits"}
    assert document["endpoints"] == {"https": "https://kcm.example:8443", "kmip": "kcm.example:5696"}
    assert document["versions"] == {"api": ["v1"], "kmip": ["1.0", "1.1", "1.2", "1.3", "1.4", "2.0", "2.1"]}
    assert document["versions"]["kmip"] == [f"{major}.{minor}" for major, minor in sorted(VERSIONS)]
    assert document["limits"] == {
        "body_bytes": 1_048_576,
        "batch_items": 1000,
        "resource_characters": 512,
        "head_bytes": 16_384,
        "headers": 64,
    }

    for endpoint in ENDPOINTS:
        served = routes()[document["operations"][endpoint.name]["path"].encode()]
        assert served[document["operations"][endpoint.name]["method"].encode()] is endpoint
