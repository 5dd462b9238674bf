"""Tenants with a certificate authority, agents that enrol, and a JWT issuer: helpers for the enrolment tests."""

import json
import secrets
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx2
from cryptography.hazmat.primitives import serialization
from joserfc import jwk, jws

from config.settings import WorkloadIssuer
from core.names import CANARY_TENANT_ID, ca_key
from core.tenants.lifecycle import State
from database.services.enrolment import JoinTokenRow
from marketplace.enrolment.jwks import Issuers
from openkcm.contract.csr import new_key, request_of
from openkcm.contract.enrolment import JoinToken, join_token
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import Scene
from tests.database.builders import an_event
from tests.marketplace.conftest import OFFER, Endpoint

ACME, BETA = "acme-corp-12345", "beta-corp-1"
ISSUER = "https://tokens.platform.example"


def a_csr() -> str:
    return request_of(new_key())


class Scenario:
    """The API with tenants whose workflows the dashboard's fake client simulates on the same rows."""

    def __init__(self, endpoint: Endpoint, scene: Scene) -> None:
        self.endpoint, self.scene = endpoint, scene
        endpoint.workflow_client.connect = lambda tenant, service, request: scene.gateway.connect_service(
            tenant, "eu-west-1", service, request, another_key=True
        )
        for tenant in (ACME, BETA):
            scene.tenant(State.ACTIVE, tenant)
        with scene.worker.tenant_tx(CANARY_TENANT_ID) as tx:
            tx.tenants.request(an_event(CANARY_TENANT_ID))
            tx.keys.record(ca_key(CANARY_TENANT_ID), "CA", 1)
            tx.certificates.record_authority(scene.authority.row())

    def token(self, tenant_id: str = ACME, role: str = "dashboard", **changed: Any) -> JoinToken:
        """Create a join token as the dashboard or the command does."""
        root = self.scene.authority.root.public_bytes(serialization.Encoding.DER)
        made = join_token(tenant_id, secrets.token_urlsafe(32), root)
        row = {"service": "orders", "kind": ServiceKind.POSTGRESQL, "made_by": "ada", "lifetime": timedelta(hours=1)}
        with self.endpoint.field.open(role, max_size=1).tenant_tx(tenant_id) as tx:
            tx.enrolments.add_token(JoinTokenRow(made.hash, **(row | changed)))
        return made

    async def enrol(self, csr: str | None = None, **fields: Any) -> httpx2.Response:
        body = {"service": "orders", "kind": "postgresql", "csr": csr or a_csr()} | fields
        return await self.endpoint.client.post("/v1/enrolments", content=json.dumps(body))

    async def with_token(self, token: JoinToken, csr: str | None = None, **fields: Any) -> httpx2.Response:
        return await self.enrol(csr, join_token=token.text, **fields)

    async def status(self, enrolled: httpx2.Response, ticket: str | None = None) -> httpx2.Response:
        answer = enrolled.json()
        return await self.endpoint.client.get(
            f"/v1/enrolments/{answer['enrolment_id']}",
            headers={"authorization": f"Bearer {ticket or answer['ticket']}"},
        )

    async def result(self, enrolled: httpx2.Response) -> dict[str, Any]:
        assert enrolled.status_code == 202, enrolled.text
        end = time.monotonic() + 20
        while (answer := (await self.status(enrolled))).json()["state"] == "pending":
            assert time.monotonic() < end
        return answer.json()

    def audited(self, tenant_id: str = ACME, prefix: str = "enrolment.") -> list[dict[str, Any]]:
        with self.scene.worker.tenant_tx(tenant_id) as tx:
            records = [json.loads(record.record) for record in tx.audit.records()]
        return [record for record in records if record["name"].startswith(prefix)]

    def everything(self) -> str:
        """Return every row of every table of the schema as text."""
        tables = self.endpoint.execute(
            "select relname from pg_class where relnamespace = 'okcm'::regnamespace and relkind in ('r', 'p')"
        )
        return "".join(str(self.endpoint.execute(f"select t::text from okcm.{table} t")) for (table,) in tables)


@dataclass
class Issuer:
    """A JWT issuer, and the function that reads its keys for the API."""

    name: str = ISSUER
    algorithm: str = "ES256"

    def __post_init__(self) -> None:
        self.key = make_key(self.algorithm)
        self.reads = 0
        self.answer: bytes | Exception | None = None

    def token(self, key: Any = None, header: dict[str, Any] | None = None, **changed: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": self.name,
            "aud": "openkcm",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "jti": secrets.token_hex(8),
            "openkcm_tenant": ACME,
            "openkcm_service": "orders",
        }
        left = {name: value for name, value in (claims | changed).items() if value is not None}
        return sign(header or {}, json.dumps(left).encode(), key or self.key, self.algorithm)

    def key_set(self) -> bytes:
        return json.dumps({"keys": [self.key.as_dict(private=False)]}).encode()

    async def read(self, _place: str) -> bytes:
        self.reads += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.key_set() if self.answer is None else self.answer

    def issuers(self, **more: Any) -> Issuers:
        return Issuers({self.name: WorkloadIssuer(jwks="/nowhere", **more)}, self.read)


def make_key(algorithm: str) -> Any:
    match algorithm:
        case "RS256":
            return jwk.RSAKey.generate_key(2048)
        case "ES256":
            return jwk.ECKey.generate_key("P-256")
        case _:
            return jwk.OKPKey.generate_key("Ed25519")


class Signing(jws.JWSRegistry):
    """Signs with any algorithm, as an attacker does."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


def sign(header: dict[str, Any], payload: bytes, key: Any, algorithm: str) -> str:
    full = {"alg": algorithm, "typ": "JWT"} | header
    return jws.serialize_compact(
        full, payload, key, registry=Signing(algorithms=[full["alg"]], strict_check_header=False)
    )


def offer_of(issuers: Issuers):
    return replace(OFFER, enrolment=replace(OFFER.enrolment, issuers=issuers))
