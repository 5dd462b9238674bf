"""The endpoints of the HTTPS server in one table: request, response, and the handler.

A handler gets a validated request and a caller whose state was checked for this request. It suspends only when the
operation does, so that operations in memory are answered without a task.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pybase64
from pydantic import BaseModel

from crypto_service.https import schemas as api
from crypto_service.https.heartbeats import BufferedHeartbeats
from crypto_service.https.lookups import DatabaseCertificates, DatabaseProtectedFields
from crypto_service.https.problems import OF_ONE_ITEM, from_error
from crypto_service.interfaces import ClientIdentity, Operations
from crypto_service.server.turns import Turns
from openkcm.contract.services import HEARTBEAT_SECONDS

Fields = dict[str, Any]
_ITEMS_AT_ONCE = 16
"""Items of a batch between two yields to other requests: about a millisecond."""


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """The dependencies of the handlers. `discovery` builds the document for a caller; `openapi` is the same for all."""

    operations: Operations
    certificates: DatabaseCertificates
    heartbeats: BufferedHeartbeats
    protections: DatabaseProtectedFields
    discovery: Callable[[ClientIdentity], Fields]
    openapi: Fields
    turns: Turns


JSON = "application/json"
CRL = "application/pkix-crl"
CERTIFICATE = "certificate"
"""The only endpoint that answers the service of a locked tenant."""
Act = Callable[[HandlerContext, ClientIdentity, Any], Awaitable[Fields | bytes]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. `batch_of` names the endpoint whose requests are the items of a batch.

    A response that is not JSON consists of the bytes that `act` returns.
    """

    name: str
    method: str
    path: str
    summary: str
    request: type[api.Request] | None
    answer: type[BaseModel] | None
    act: Act
    batch_of: str | None = None
    media_type: str = JSON


def _text(data: bytes) -> str:
    return pybase64.b64encode_as_string(data)


async def _encrypt(context: HandlerContext, caller: ClientIdentity, request: api.EncryptRequest) -> Fields:
    return {"ciphertext": await context.operations.encrypt(caller, request.resource, request.plaintext)}


async def _decrypt(context: HandlerContext, caller: ClientIdentity, request: api.CiphertextRequest) -> Fields:
    return {"plaintext": _text(await context.operations.decrypt(caller, request.resource, request.ciphertext))}


async def _rewrap(context: HandlerContext, caller: ClientIdentity, request: api.CiphertextRequest) -> Fields:
    return {"ciphertext": await context.operations.rewrap(caller, request.resource, request.ciphertext)}


async def _new_data_key(context: HandlerContext, caller: ClientIdentity, request: api.DataKeyRequest) -> Fields:
    with_plaintext = not request.wrapped_only
    made = await context.operations.new_data_key(caller, request.resource, with_plaintext=with_plaintext)
    if made.plaintext is None:
        return {"wrapped": made.wrapped}
    return {"plaintext": _text(made.plaintext), "wrapped": made.wrapped}


async def _unwrap_data_key(context: HandlerContext, caller: ClientIdentity, request: api.OpenDataKeyRequest) -> Fields:
    return {"plaintext": _text(await context.operations.open_data_key(caller, request.resource, request.wrapped))}


async def _certificate(context: HandlerContext, caller: ClientIdentity, _request: None) -> Fields:
    leaf, authority = await context.certificates.newest(caller)
    answer = api.CertificateAnswer(
        serial=leaf.serial,
        certificate=leaf.certificate_pem,
        chain=authority.chain_pem,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
    )
    return answer.model_dump(mode="json")


async def _heartbeat(context: HandlerContext, caller: ClientIdentity, request: api.HeartbeatRequest) -> Fields:
    newer = await context.heartbeats.note(caller, request)
    return {"heartbeat_seconds": HEARTBEAT_SECONDS, "certificate_newer": newer}


async def _protection(context: HandlerContext, caller: ClientIdentity, _request: None) -> Fields:
    found = await context.protections.of(caller)
    fields = [
        api.FieldAnswer(
            store=one.store, place=one.place, field=one.field, mode=one.mode, plaintext_allowed=one.plaintext_allowed
        )
        for one in found.fields
    ]
    return api.ProtectionAnswer(version=found.version, fields=fields).model_dump(mode="json")


async def _revocation_list(context: HandlerContext, caller: ClientIdentity, _request: None) -> bytes:
    return await context.certificates.revocation_list(caller, former=False)


async def _former_revocation_list(context: HandlerContext, caller: ClientIdentity, _request: None) -> bytes:
    return await context.certificates.revocation_list(caller, former=True)


async def _discovery(context: HandlerContext, caller: ClientIdentity, _request: None) -> Fields:
    return context.discovery(caller)


async def _health(_desk: HandlerContext, _caller: ClientIdentity, _request: None) -> Fields:
    return {"status": "ok"}


async def _openapi(context: HandlerContext, _caller: ClientIdentity, _request: None) -> Fields:
    return context.openapi


def _in_batches(single: Endpoint) -> Endpoint:
    request_model = cast("type[api.Request]", single.request)

    async def act(context: HandlerContext, caller: ClientIdentity, request: api.BatchRequest) -> Fields:
        """Process the items in order.

        An error that would reject every item (a tenant that is not operational, an unavailable server) is tried only
        once. It rejects the whole batch if no item is done, otherwise all remaining items.
        """
        answers: list[Fields] = []
        done = 0
        began = time.perf_counter()
        remaining: Fields | None = None
        for number, item in enumerate(request.items, 1):
            if remaining is not None:
                answers.append(remaining)
                continue
            try:
                answer = await single.act(context, caller, api.parse_item(request_model, item))
                answers.append(cast("Fields", answer))
                done += 1
            except Exception as refused:
                if not isinstance(refused, OF_ONE_ITEM) and not done:
                    raise
                problem: Fields = {"problem": from_error(refused).document()}
                answers.append(problem)
                remaining = None if isinstance(refused, OF_ONE_ITEM) else problem
            if not number % _ITEMS_AT_ONCE:
                context.turns.use(caller.tenant_id, time.perf_counter() - began)
                await context.turns.pause(caller.tenant_id)
                began = time.perf_counter()
        return {"items": answers, "refused": len(answers) - done}

    return Endpoint(
        f"{single.name}-batch",
        single.method,
        f"{single.path}:batch",
        f"{single.summary}, several items",
        api.BatchRequest,
        single.answer,
        act,
        batch_of=single.name,
    )


_ENCRYPT = Endpoint(
    "encrypt", "POST", "/v1/encrypt", "Encrypt data", api.EncryptRequest, api.CiphertextAnswer, _encrypt
)
_DECRYPT = Endpoint(
    "decrypt", "POST", "/v1/decrypt", "Decrypt data", api.CiphertextRequest, api.PlaintextAnswer, _decrypt
)
_REWRAP = Endpoint(
    "rewrap",
    "POST",
    "/v1/rewrap",
    "Rewrap a ciphertext or data key with the service's active key",
    api.CiphertextRequest,
    api.CiphertextAnswer,
    _rewrap,
)
_DATA_KEY = Endpoint(
    "data-key", "POST", "/v1/data-keys", "Create a data key", api.DataKeyRequest, api.DataKeyAnswer, _new_data_key
)

ENDPOINTS: tuple[Endpoint, ...] = (
    _ENCRYPT,
    _DECRYPT,
    _REWRAP,
    _DATA_KEY,
    Endpoint(
        "open-data-key",
        "POST",
        "/v1/data-keys/open",
        "Unwrap a data key",
        api.OpenDataKeyRequest,
        api.PlaintextAnswer,
        _unwrap_data_key,
    ),
    *map(_in_batches, (_ENCRYPT, _DECRYPT, _REWRAP, _DATA_KEY)),
    Endpoint(
        CERTIFICATE,
        "GET",
        "/v1/certificate",
        "Fetch the caller's newest certificate",
        None,
        api.CertificateAnswer,
        _certificate,
    ),
    Endpoint(
        "heartbeat",
        "POST",
        "/v1/heartbeat",
        "Report the state of the service's agent and the service's own field encryption",
        api.HeartbeatRequest,
        api.HeartbeatAnswer,
        _heartbeat,
    ),
    Endpoint(
        "protection",
        "GET",
        "/v1/protection",
        "Fetch the protected fields of the calling service",
        None,
        api.ProtectionAnswer,
        _protection,
    ),
    Endpoint("discovery", "GET", "/.well-known/openkcm", "Fetch the discovery document", None, None, _discovery),
    Endpoint(
        "crl",
        "GET",
        "/.well-known/openkcm/crl",
        "Fetch the revocation list of the tenant's certificate authority",
        None,
        None,
        _revocation_list,
        media_type=CRL,
    ),
    Endpoint(
        "former-crl",
        "GET",
        "/.well-known/openkcm/crl/former",
        "Fetch the revocation list of the former certificate authority",
        None,
        None,
        _former_revocation_list,
        media_type=CRL,
    ),
    Endpoint("health", "GET", "/healthz", "Check the health of this process", None, api.HealthAnswer, _health),
    Endpoint("openapi", "GET", "/openapi.json", "Fetch this API in OpenAPI 3.1", None, None, _openapi),
)


def routes() -> Mapping[bytes, Mapping[bytes, Endpoint]]:
    """Return the table by path and method; each path with GET also has HEAD."""
    found: dict[bytes, dict[bytes, Endpoint]] = {}
    for endpoint in ENDPOINTS:
        methods = found.setdefault(endpoint.path.encode(), {})
        methods[endpoint.method.encode()] = endpoint
        if endpoint.method == "GET":
            methods[b"HEAD"] = endpoint
    return found
