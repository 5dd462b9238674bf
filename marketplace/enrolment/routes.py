"""The routes of discovery and enrolment: `/.well-known/openkcm` and `/v1/enrolments`.

An address with many recent failures is rejected before any other check. The attestation, except its form, is checked
last, so that a request that is invalid for another reason does not use up a token.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from core.errors.requests import BodyTooLarge, MalformedEnrolment, MalformedEvent, TicketRefused, TooManyRequests
from database.connection.database import Database
from marketplace.db_executor import DatabaseExecutor
from marketplace.enrolment import requests as enrolment
from marketplace.enrolment.attestation import Claim, JwtProof, token_claim
from marketplace.enrolment.jwks import Issuers
from marketplace.enrolment.requests import Enrolled
from marketplace.http import openapi
from marketplace.http.body import read_body
from marketplace.http.rate_limit import TokenBuckets, client_network
from marketplace.relay import WorkflowRelay
from marketplace.schemas import DiscoveryAnswer, EnrolmentAnswer, EnrolmentStatusAnswer
from openkcm.contract.client_files import Offer as Addresses
from openkcm.contract.client_files import certificates
from openkcm.contract.enrolment import (
    AUDIENCE,
    DISCOVERY_PATH,
    ENROLMENTS_PATH,
    EnrolmentState,
    Proof,
    enrolment_name,
    parse_enrolment_name,
)
from openkcm.contract.names import parse_service_name
from openkcm.contract.services import ServiceKind
from openkcm.errors import ProofRefused

RETRY_SECONDS = 1
MOST_BYTES = 32_768
"""The longest certificate request, the longest JWT and their JSON."""
AT_ONCE = 32
_ROOT_SECONDS = 60.0
_LONGEST_TICKET = 200
_WAIT = "wait for the time in Retry-After, then send the same request again"
_NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class EnrolmentConfig:
    """The URL for agents, the regions, the addresses of the crypto service, and the accepted JWT issuers."""

    base_url: str
    regions: tuple[str, ...]
    crypto: Addresses
    issuers: Issuers


class EnrolmentApi:
    """The logic of the enrolment routes, with their rate limits."""

    def __init__(
        self, database: Database, transactions: DatabaseExecutor, sweep: WorkflowRelay, offer: EnrolmentConfig
    ) -> None:
        self.offer = offer
        self._database = database
        self._transactions = transactions
        self._sweep = sweep
        self._jwt = JwtProof(offer.issuers)
        self._failures = TokenBuckets(burst=20, seconds=3.0)
        """By client network. Behind a proxy that hides addresses, all share one bucket: the proxy must limit."""
        self._logged_refusals = TokenBuckets(burst=10, seconds=60.0)
        """By tenant: rejections that are logged, so that a caller cannot fill the audit stream of a tenant."""
        self._enrolments = TokenBuckets(burst=30, seconds=10.0)
        """By service: accepted enrolments, because an issuer can sign any number of valid JWTs."""
        self._at_once = 0
        self._root: tuple[float, str] = (-_ROOT_SECONDS, "")

    async def describe(self) -> DiscoveryAnswer:
        """Return the public data of the platform; raise CanaryMissing, DatabaseUnavailable."""
        root = await self.root()
        der = x509.load_pem_x509_certificate(root.encode()).public_bytes(Encoding.DER)
        offer = self.offer
        return DiscoveryAnswer.model_validate(
            {
                "service": "openkcm",
                "versions": {"enrolment": ["v1"]},
                "regions": [
                    {"region": region, "https": offer.crypto.https, "kmip": offer.crypto.kmip}
                    for region in offer.regions
                ],
                "ca": root,
                "ca_sha256": hashlib.sha256(der).hexdigest(),
                "enrolment": {
                    "url": f"{offer.base_url}{ENROLMENTS_PATH}",
                    "proofs": [Proof.JOIN_TOKEN, *([Proof.JWT] if offer.issuers.names else [])],
                    "issuers": list(offer.issuers.names),
                    "audience": AUDIENCE,
                },
            }
        )

    async def root(self) -> str:
        """Return the platform's root certificate, cached for a minute."""
        if time.monotonic() - self._root[0] > _ROOT_SECONDS:
            found = await self._transactions.run(partial(enrolment.platform_root, self._database))
            self._root = (time.monotonic(), found)
        return self._root[1]

    def require_rate_limit(self, source: str) -> None:
        """Raise TooManyRequests for an address with too many recent rejections."""
        if self._failures.is_empty(client_network(source)):
            raise TooManyRequests("too many rejected requests from this address", _WAIT)

    @asynccontextmanager
    async def limited(self, source: str) -> AsyncIterator[None]:
        """Apply the rate limits to a received request; a rejected attestation counts against its address.

        Raises:
            TooManyRequests: the address had too many rejections, or too many requests are in progress.
        """
        name = client_network(source)
        self.require_rate_limit(source)
        if self._at_once >= AT_ONCE:
            raise TooManyRequests("too many requests are in progress", _WAIT)
        self._at_once += 1
        try:
            yield
        except (ProofRefused, TicketRefused):
            self._failures.take(name)
            raise
        finally:
            self._at_once -= 1

    async def enrol(self, body: bytes, source: str) -> EnrolmentAnswer:
        """Store an enrolment.

        Raises:
            MalformedEnrolment, InvalidName, CsrRefused: the request is invalid, regardless of its attestation.
            ProofRefused, IssuerUnavailable, TooManyRequests, DatabaseUnavailable
        """
        fields = _fields(body)
        request = await _request(fields)
        claim = await self._claim(fields)
        # An issuer can sign any number of JWTs. Join tokens need no limit: people create them one by one.
        if claim.proof is Proof.JWT and not self._enrolments.take(f"{claim.tenant_id}/{request.service}"):
            raise TooManyRequests("too many enrolments of this service", _WAIT)
        log_refusal = not self._logged_refusals.is_empty(claim.tenant_id)
        taken = await self._transactions.run(
            partial(enrolment.enrol, self._database, claim, request, source, log_refusal=log_refusal)
        )
        if taken is None:
            self._logged_refusals.take(claim.tenant_id)
            raise ProofRefused
        if taken.fresh:
            self._sweep.offer((taken.tenant_id, taken.enrolment_id, taken.region, request.service))
        return self._answer(taken)

    async def status(self, name: str, ticket: str) -> EnrolmentStatusAnswer:
        """Return the status of an enrolment; raise TicketRefused, DatabaseUnavailable."""
        parsed = parse_enrolment_name(name)
        if parsed is None or not 0 < len(ticket) <= _LONGEST_TICKET:
            raise TicketRefused
        found = await self._transactions.run(partial(enrolment.look_up, self._database, *parsed, ticket))
        issued = found.state is EnrolmentState.ISSUED
        offer = self.offer.crypto
        return EnrolmentStatusAnswer.model_validate(
            {
                "state": found.state,
                "tenant_id": found.tenant_id,
                "service": found.service,
                "kind": found.kind,
                "region": found.region,
                "certificate": found.certificate,
                "chain": found.chain,
                "ca": certificates("", found.chain)[1] if found.chain else None,
                "https": offer.https if issued else None,
                "kmip": offer.kmip if issued else None,
                "not_after": found.not_after,
                "problem": None
                if found.problem is None
                else dict(zip(("code", "message", "hint"), found.problem, strict=True)),
            }
        )

    async def _claim(self, fields: dict[str, str]) -> Claim:
        if Proof.JOIN_TOKEN in fields:
            return token_claim(fields[Proof.JOIN_TOKEN])
        return await self._jwt.claim(fields[Proof.JWT])

    def _answer(self, taken: Enrolled) -> EnrolmentAnswer:
        name = enrolment_name(taken.tenant_id, taken.enrolment_id)
        return EnrolmentAnswer(
            enrolment_id=name,
            ticket=taken.ticket,
            status_url=f"{self.offer.base_url}{ENROLMENTS_PATH}/{name}",
            retry_seconds=RETRY_SECONDS,
        )


def add_routes(app: FastAPI, api: EnrolmentApi) -> None:
    @app.get(DISCOVERY_PATH, response_model=DiscoveryAnswer, **openapi.DISCOVERY)
    async def discover() -> Response:
        found = await api.describe()
        return JSONResponse(found.model_dump(mode="json"), headers={"cache-control": "max-age=60"})

    @app.post(ENROLMENTS_PATH, status_code=202, response_model=EnrolmentAnswer, **openapi.ENROL)
    async def enrol(request: Request) -> Response:
        source = request.client.host if request.client else ""
        api.require_rate_limit(source)
        body = await _body(request)
        async with api.limited(source):
            taken = await api.enrol(body, source)
        return JSONResponse(taken.model_dump(mode="json"), HTTPStatus.ACCEPTED, _NO_STORE)

    @app.get(f"{ENROLMENTS_PATH}/{{enrolment_id}}", response_model=EnrolmentStatusAnswer, **openapi.ENROLMENT_STATUS)
    async def show_enrolment(request: Request, enrolment_id: str) -> Response:
        source = request.client.host if request.client else ""
        scheme, _, ticket = request.headers.get("authorization", "").partition(" ")
        async with api.limited(source):
            found = await api.status(enrolment_id, ticket if scheme.lower() == "bearer" else "")
        return JSONResponse(found.model_dump(mode="json"), headers=_NO_STORE)


async def _body(request: Request) -> bytes:
    try:
        return await read_body(request, MOST_BYTES)
    except MalformedEvent as late:
        raise MalformedEnrolment(late.message, late.hint) from None
    except BodyTooLarge:
        raise BodyTooLarge("the body exceeds the limit for an enrolment", "send only its fields") from None


def _fields(body: bytes) -> dict[str, str]:
    """Return the fields of an enrolment with exactly one attestation; no error message quotes the request."""
    try:
        read: Any = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedEnrolment("the body is not JSON in UTF-8") from None
    if not isinstance(read, dict):
        raise MalformedEnrolment("the body is not a JSON object")
    proofs = [proof.value for proof in Proof if proof in read]
    if len(proofs) != 1:
        raise MalformedEnrolment("the body must have exactly one of join_token and jwt")
    fields = {}
    for name in ("service", "kind", "csr", *proofs):
        value = read.get(name)
        if not isinstance(value, str) or not value:
            raise MalformedEnrolment(f"the field {name} is missing or not a text")
        fields[name] = value
    return fields


async def _request(fields: dict[str, str]) -> enrolment.Request:
    service = parse_service_name(fields["service"])
    try:
        kind = ServiceKind(fields["kind"])
    except ValueError:
        kinds = ", ".join(ServiceKind)
        raise MalformedEnrolment("the kind of service is unknown", f"use one of {kinds}") from None
    csr = fields["csr"]
    return enrolment.Request(service, kind, csr, await asyncio.to_thread(enrolment.key_hash, csr))
