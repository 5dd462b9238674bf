"""Enrolment requests of agents: the transactions of `POST /v1/enrolments` and of its status.

A request is stored in the form that `openkcmctl service connect` uses. A workflow connects the service, and its result
is read from the database. The attestation determines the service. A join token only names a tenant; the row of that
tenant proves it. Therefore any caller can cause audit records of rejections at any tenant, and the caller of `enrol`
MUST limit their rate.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from core.errors.compliance import CanaryMissing
from core.errors.platform import Superseded
from core.errors.requests import TicketRefused
from core.errors.services import ServiceUnknown
from core.names import CANARY_TENANT_ID
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.services.enrolment import EnrolmentRow
from database.services.repository import ServiceRequestRow
from marketplace.enrolment.attestation import Claim
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome
from openkcm.contract.client_files import certificates
from openkcm.contract.csr import requested_key
from openkcm.contract.enrolment import EnrolmentState, Proof
from openkcm.contract.services import ServiceKind
from openkcm.errors import CallerError


@dataclass(frozen=True, slots=True)
class Request:
    """A well-formed enrolment request. `key_hash` is the hash of the public key to be certified."""

    service: str
    kind: ServiceKind
    csr_pem: str
    key_hash: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A stored enrolment. `fresh`: this request created it, so it must be passed to the relay."""

    enrolment_id: str
    tenant_id: str
    region: str
    ticket: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class EnrolmentStatus:
    """The status of an enrolment. An issued one has certificates, a rejected one has a `problem`."""

    tenant_id: str
    region: str
    service: str
    kind: ServiceKind
    state: EnrolmentState
    certificate: str | None = None
    chain: str | None = None
    not_after: datetime | None = None
    problem: tuple[str, str, str] | None = None


def key_hash(csr_pem: str) -> str:
    """Return the hash of the public key of a certificate request; raise CsrRefused if it is malformed."""
    der = requested_key(csr_pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def enrol(database: Database, claim: Claim, request: Request, source: str, *, log_refusal: bool) -> Enrolled | None:
    """Store an enrolment if its attestation is valid, and return it; return None if it is rejected.

    A repeated request with the same attestation and key returns the same enrolment. With another key it is rejected, so
    that a copied attestation has no value to an attacker.

    Args:
        database: with the role `marketplace`.
        claim: the claim of the attestation.
        request: the requested service and key.
        source: address of the sender, for the audit stream.
        log_refusal: whether the audit stream records a rejection.
    """
    with database.tenant_tx(claim.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            return None
        row = _row(claim, request)
        holds = claim.service is None or claim.service == request.service
        if claim.proof is Proof.JOIN_TOKEN:
            holds = tx.enrolments.use_token(claim.proof_hash, request.service, request.kind, row.enrolment_id)
        if holds and tx.enrolments.begin(row):
            tx.services.request(ServiceRequestRow(row.enrolment_id, request.service, request.kind, request.csr_pem))
            _record(tx, AuditName.ENROLMENT_ACCEPTED, request, claim, "success", source, enrolment=row.enrolment_id)
            ticket = claim.ticket(row.enrolment_id, request.key_hash)
            return Enrolled(row.enrolment_id, claim.tenant_id, tenant.region, ticket, fresh=True)
        known = tx.enrolments.of_proof(claim.proof_hash)
        if known is not None and _is_same(known, claim, request):
            ticket = claim.ticket(known.enrolment_id, request.key_hash)
            return Enrolled(known.enrolment_id, claim.tenant_id, tenant.region, ticket, fresh=False)
        if log_refusal:
            _record(tx, AuditName.ENROLMENT_PROOF_REFUSED, request, claim, "refused", source)
        return None


def look_up(database: Database, tenant_id: str, enrolment_id: str, ticket: str) -> EnrolmentStatus:
    """Return the status of an enrolment to a holder of its ticket; raise TicketRefused for a wrong one."""
    with database.tenant_tx(tenant_id) as tx:
        row, tenant = tx.enrolments.get(enrolment_id), tx.tenants.get()
        if row is None or tenant is None or not hmac.compare_digest(row.ticket_hash, _hash(ticket)):
            raise TicketRefused
        found = EnrolmentStatus(tenant_id, tenant.region, row.service, row.kind, row.state)
        match row.state:
            case EnrolmentState.PENDING:
                return found
            case EnrolmentState.REFUSED:
                return _refused(found, row.code or "", row.message or "", row.hint or "")
            case EnrolmentState.ISSUED:
                return _issued(tx, found, enrolment_id)


def settle(database: Database, tenant_id: str, enrolment_id: str, refused: CallerError | None) -> None:
    """Record the result of the workflow for an enrolment."""
    with database.tenant_tx(tenant_id) as tx:
        problem = None if refused is None else (refused.code, refused.message, refused.hint)
        tx.enrolments.settle(enrolment_id, problem)


def platform_root(database: Database) -> str:
    """Return the root of the platform's certificates, PEM; raise CanaryMissing before the first start.

    It comes from the canary tenant, which exists before all others: this process has no identity at OpenBao.
    """
    with database.tenant_tx(CANARY_TENANT_ID) as tx:
        authority = tx.certificates.authority()
    if authority is None:
        raise CanaryMissing
    return certificates("", authority.chain_pem)[1]


def _issued(tx: TenantTransaction, found: EnrolmentStatus, enrolment_id: str) -> EnrolmentStatus:
    try:
        leaf, chain = tx.services.issued(found.service, enrolment_id)
    except (ServiceUnknown, Superseded) as failed:
        return _refused(found, failed.code, failed.message, failed.hint)
    return EnrolmentStatus(
        found.tenant_id,
        found.region,
        found.service,
        found.kind,
        EnrolmentState.ISSUED,
        leaf.certificate_pem,
        chain,
        leaf.not_after,
    )


def _refused(found: EnrolmentStatus, code: str, message: str, hint: str) -> EnrolmentStatus:
    return EnrolmentStatus(
        found.tenant_id,
        found.region,
        found.service,
        found.kind,
        EnrolmentState.REFUSED,
        problem=(code, message, hint),
    )


def _row(claim: Claim, request: Request) -> EnrolmentRow:
    enrolment_id = uuid4().hex
    return EnrolmentRow(
        enrolment_id,
        request.service,
        request.kind,
        claim.proof,
        claim.proof_hash,
        request.key_hash,
        _hash(claim.ticket(enrolment_id, request.key_hash)),
    )


def _is_same(known: EnrolmentRow, claim: Claim, request: Request) -> bool:
    """Return whether the same agent repeats a used attestation: service, kind, key and ticket are equal."""
    ticket = claim.ticket(known.enrolment_id, request.key_hash)
    return (
        (known.service, known.kind, known.key_hash) == (request.service, request.kind, request.key_hash)
        and known.proof is claim.proof
        and hmac.compare_digest(known.ticket_hash, _hash(ticket))
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _record(  # noqa: PLR0913, PLR0917 - the fields of an audit event
    tx: TenantTransaction,
    name: AuditName,
    request: Request,
    claim: Claim,
    outcome: Outcome,
    source: str,
    **details: str,
) -> None:
    event_id = f"enrolment/{uuid4().hex}"
    tx.audit.append(
        AuditEvent(
            event_id=event_id,
            name=name,
            actor_kind="service",
            actor="agent",
            subject=request.service,
            outcome=outcome,
            correlation_id=details.get("enrolment", event_id),
            source=source,
            details={"kind": request.kind, "proof": claim.proof, "key": request.key_hash, **details},
        )
    )
