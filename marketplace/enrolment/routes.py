"""The routes of discovery and enrolment: `/.well-known/openkcm` and `/v1/enrolments`.

Who is wrong often is not listened to for a while, before anything is looked at. The proof, its form apart, is checked
last, so that a request that could not be taken anyway uses up no token.
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
from marketplace.http.rate_limit import TokenBuckets, neighbourhood
from marketplace.relay import WorkflowRelay
from marketplace.schemas import DiscoveryAnswer, EnrolmentAnswer, StandingAnswer
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
"""A certificate request of the longest kind, a JWT of the longest kind, and their JSON."""
AT_ONCE = 32
_ROOT_SECONDS = 60.0
_LONGEST_TICKET = 200
_WAIT = "wait as long as Retry-After says, then send the same request again"
_NOT_NOW = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class EnrolmentConfig:
    """Where agents find us, the regions they may be in, the crypto service's addresses, and whose JWTs we believe."""

    base_url: str
    regions: tuple[str, ...]
    crypto: Addresses
    issuers: Issuers


class EnrolmentApi:
    """What the routes decide, and what they remember of those who were wrong."""

    def __init__(
        self, database: Database, transactions: DatabaseExecutor, sweep: WorkflowRelay, offer: EnrolmentConfig
    ) -> None:
        self.offer = offer
        self._database = database
        self._transactions = transactions
        self._sweep = sweep
        self._jwt = JwtProof(offer.issuers)
        self._wrong = TokenBuckets(burst=20, seconds=3.0)
        """By address. Behind an edge that hides addresses it is one for all, and the edge has to tell them apart."""
        self._told = TokenBuckets(burst=10, seconds=60.0)
        """By tenant: refusals that are put on record, so that nobody fills the stream of a tenant he can name."""
        self._many = TokenBuckets(burst=30, seconds=10.0)
        """By service: enrolments that are taken, for a proof can be true and too many."""
        self._at_once = 0
        self._root: tuple[float, str] = (-_ROOT_SECONDS, "")

    async def describe(self) -> DiscoveryAnswer:
        """Return what everybody may know of us; raises CanaryMissing, DatabaseUnavailable."""
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
        """Return the platform's root, remembered for a minute."""
        if time.monotonic() - self._root[0] > _ROOT_SECONDS:
            found = await self._transactions.run(partial(enrolment.platform_root, self._database))
            self._root = (time.monotonic(), found)
        return self._root[1]

    def refuse_the_often_wrong(self, source: str) -> None:
        """Raise TooManyRequests for an address that was refused too often just now."""
        if self._wrong.is_empty(neighbourhood(source)):
            raise TooManyRequests("too many requests of this address were refused", _WAIT)

    @asynccontextmanager
    async def listening(self, source: str) -> AsyncIterator[None]:
        """Work on a request that has arrived; what is refused for its proof counts against its address.

        Raises:
            TooManyRequests: that address was wrong too often, or too many are worked on.
        """
        name = neighbourhood(source)
        self.refuse_the_often_wrong(source)
        if self._at_once >= AT_ONCE:
            raise TooManyRequests("too many requests are worked on", _WAIT)
        self._at_once += 1
        try:
            yield
        except (ProofRefused, TicketRefused):
            self._wrong.take(name)
            raise
        finally:
            self._at_once -= 1

    async def enrol(self, body: bytes, source: str) -> EnrolmentAnswer:
        """Take an enrolment; it is stored when this returns.

        Raises:
            MalformedEnrolment, InvalidName, CsrRefused: it could not be taken whoever sent it.
            ProofRefused, IssuerUnavailable, TooManyRequests, DatabaseUnavailable
        """
        fields = _fields(body)
        request = await _request(fields)
        claim = await self._claim(fields)
        # Of JWTs there are as many as their issuer likes; of tokens as many as people make, and none is believed yet.
        if claim.proof is Proof.JWT and not self._many.take(f"{claim.tenant_id}/{request.service}"):
            raise TooManyRequests("too many enrolments of this service", _WAIT)
        tells = not self._told.is_empty(claim.tenant_id)
        taken = await self._transactions.run(
            partial(enrolment.enrol, self._database, claim, request, source, tells=tells)
        )
        if taken is None:
            self._told.take(claim.tenant_id)
            raise ProofRefused
        if taken.fresh:
            self._sweep.offer((taken.tenant_id, taken.enrolment_id, taken.region, request.service))
        return self._answer(taken)

    async def standing(self, name: str, ticket: str) -> StandingAnswer:
        """Return how an enrolment stands; raises TicketRefused, DatabaseUnavailable."""
        parsed = parse_enrolment_name(name)
        if parsed is None or not 0 < len(ticket) <= _LONGEST_TICKET:
            raise TicketRefused
        found = await self._transactions.run(partial(enrolment.look_up, self._database, *parsed, ticket))
        issued = found.state is EnrolmentState.ISSUED
        offer = self.offer.crypto
        return StandingAnswer.model_validate(
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


def add_routes(app: FastAPI, front: EnrolmentApi) -> None:
    @app.get(DISCOVERY_PATH, response_model=DiscoveryAnswer, **openapi.DISCOVERY)
    async def discover() -> Response:
        found = await front.describe()
        return JSONResponse(found.model_dump(mode="json"), headers={"cache-control": "max-age=60"})

    @app.post(ENROLMENTS_PATH, status_code=202, response_model=EnrolmentAnswer, **openapi.ENROL)
    async def enrol(request: Request) -> Response:
        source = request.client.host if request.client else ""
        front.refuse_the_often_wrong(source)
        body = await _body(request)
        async with front.listening(source):
            taken = await front.enrol(body, source)
        return JSONResponse(taken.model_dump(mode="json"), HTTPStatus.ACCEPTED, _NOT_NOW)

    @app.get(f"{ENROLMENTS_PATH}/{{enrolment_id}}", response_model=StandingAnswer, **openapi.STANDING)
    async def show_enrolment(request: Request, enrolment_id: str) -> Response:
        source = request.client.host if request.client else ""
        scheme, _, ticket = request.headers.get("authorization", "").partition(" ")
        async with front.listening(source):
            found = await front.standing(enrolment_id, ticket if scheme.lower() == "bearer" else "")
        return JSONResponse(found.model_dump(mode="json"), headers=_NOT_NOW)


async def _body(request: Request) -> bytes:
    try:
        return await read_body(request, MOST_BYTES)
    except MalformedEvent as late:
        raise MalformedEnrolment(late.message, late.hint) from None
    except BodyTooLarge:
        raise BodyTooLarge("the body is larger than an enrolment may be", "send only the fields of one") from None


def _fields(body: bytes) -> dict[str, str]:
    """Return the fields of an enrolment, of which exactly one is a proof; no message quotes what was sent."""
    try:
        read: Any = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedEnrolment("the body is not JSON in UTF-8") from None
    if not isinstance(read, dict):
        raise MalformedEnrolment("the body is not a JSON object")
    proofs = [proof.value for proof in Proof if proof in read]
    if len(proofs) != 1:
        raise MalformedEnrolment("there must be one proof, join_token or jwt")
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
        raise MalformedEnrolment("the kind of service is not known", f"the kinds are {kinds}") from None
    csr = fields["csr"]
    return enrolment.Request(service, kind, csr, await asyncio.to_thread(enrolment.key_hash, csr))
