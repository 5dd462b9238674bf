"""What agents enrol with and what becomes of it: the transactions behind `POST /v1/enrolments` and its status.

A request is stored as `openkcmctl service connect` stores one, and a workflow does the rest; what it made is read from the
database. The proof decides whose service it is. Of a join token the text names a tenant and only the row under that
tenant proves it; so a refusal is told to a stream that somebody merely named, and how often is for the caller to bound.
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
    """What an agent asks for, checked for its form. `key_hash` is of the public key that is to be certified."""

    service: str
    kind: ServiceKind
    csr_pem: str
    key_hash: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """`fresh`: it was stored just now and has to be handed over."""

    enrolment_id: str
    tenant_id: str
    region: str
    ticket: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How an enrolment stands. Certificates are there when it is issued, `problem` when it is refused."""

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
    """Return the hash of the public key of a certificate request; raises CsrRefused."""
    der = requested_key(csr_pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def enrol(database: Database, claim: Claim, request: Request, source: str, *, tells: bool) -> Enrolled | None:
    """Store an enrolment if its proof holds, and return it; None when the proof is refused.

    The same proof for the same key is the same enrolment, however often it is asked for. With another key it is
    refused: who copied a proof on its way gets nothing for it.

    Args:
        database: of the role `marketplace`.
        claim: what the proof says.
        request: for what.
        source: address the request came from, for the audit stream.
        tells: whether a refusal is put on record.
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
        if tells:
            _record(tx, AuditName.ENROLMENT_PROOF_REFUSED, request, claim, "refused", source)
        return None


def look_up(database: Database, tenant_id: str, enrolment_id: str, ticket: str) -> Standing:
    """Return how an enrolment stands to whoever has its ticket; raises TicketRefused."""
    with database.tenant_tx(tenant_id) as tx:
        row, tenant = tx.enrolments.get(enrolment_id), tx.tenants.get()
        if row is None or tenant is None or not hmac.compare_digest(row.ticket_hash, _hash(ticket)):
            raise TicketRefused
        found = Standing(tenant_id, tenant.region, row.service, row.kind, row.state)
        match row.state:
            case EnrolmentState.PENDING:
                return found
            case EnrolmentState.REFUSED:
                return _refused(found, row.code or "", row.message or "", row.hint or "")
            case EnrolmentState.ISSUED:
                return _issued(tx, found, enrolment_id)


def settle(database: Database, tenant_id: str, enrolment_id: str, refused: CallerError | None) -> None:
    """Put on record what a workflow made of an enrolment."""
    with database.tenant_tx(tenant_id) as tx:
        problem = None if refused is None else (refused.code, refused.message, refused.hint)
        tx.enrolments.settle(enrolment_id, problem)


def platform_root(database: Database) -> str:
    """Return the root that every certificate of the platform hangs from, PEM; raises CanaryMissing.

    From the canary, which is there before any tenant is: this process has no identity at the key server.
    """
    with database.tenant_tx(CANARY_TENANT_ID) as tx:
        authority = tx.certificates.authority()
    if authority is None:
        raise CanaryMissing
    return certificates("", authority.chain_pem)[1]


def _issued(tx: TenantTransaction, found: Standing, enrolment_id: str) -> Standing:
    try:
        leaf, chain = tx.services.issued(found.service, enrolment_id)
    except (ServiceUnknown, Superseded) as gone:
        return _refused(found, gone.code, gone.message, gone.hint)
    return Standing(
        found.tenant_id,
        found.region,
        found.service,
        found.kind,
        EnrolmentState.ISSUED,
        leaf.certificate_pem,
        chain,
        leaf.not_after,
    )


def _refused(found: Standing, code: str, message: str, hint: str) -> Standing:
    return Standing(
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
    """Whether a proof that was used is shown again by the one who used it: for the same key, to the letter."""
    ticket = claim.ticket(known.enrolment_id, request.key_hash)
    return (
        (known.service, known.kind, known.key_hash) == (request.service, request.kind, request.key_hash)
        and known.proof is claim.proof
        and hmac.compare_digest(known.ticket_hash, _hash(ticket))
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _record(  # noqa: PLR0913, PLR0917 - what a record is made of
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
