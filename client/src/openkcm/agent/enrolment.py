"""Enrolment with an attestation, one exchange at a time, so that the agent can stop after any of them and resume.

1. Store the request, with the digest of its attestation.
2. Authenticate the control endpoint; nothing is sent to an unknown one.
3. Send request and attestation; store the ticket of the response. After a lost response the same request again is the
   same enrolment.
4. Poll the result with the ticket until it is final.
5. Verify the issued certificate. The loop writes it; only then is the attestation recorded as used.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from cryptography import x509

from openkcm.agent.attestation import AttestationEvidence, Attestor
from openkcm.agent.certificate_validation import Issued, is_valid, verify_issued
from openkcm.agent.enrolment_client import EnrolmentClient, Ticket
from openkcm.agent.errors import AnswerNotUnderstood, EnrolmentRefused, ProofMissing
from openkcm.agent.state import AgentState, PendingEnrolment, save_state
from openkcm.contract.client_files import Offer
from openkcm.contract.services import ServiceKind
from openkcm.credentials.store import CredentialStore
from openkcm.errors import FolderRefused, ProofRefused

_IMMEDIATE_SECONDS = 0.2
_POLL_SECONDS = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Enrolled:
    issued: Issued
    offer: Offer


class Enrolment:
    def __init__(  # noqa: PLR0913, PLR0917 - its collaborators
        self,
        folder: CredentialStore,
        state: AgentState,
        control: EnrolmentClient,
        proofs: Attestor,
        service: str,
        kind: ServiceKind,
    ) -> None:
        self._folder, self._state, self._control, self._proofs = folder, state, control, proofs
        self._service, self._kind = service, kind
        self._rejected: set[str] = set()

    def attempt(self, now: datetime) -> Enrolled | float:
        """Do one exchange; return the issued certificate, or the seconds to wait before the next exchange.

        Raises: ProofMissing, ProofUnreadable, ProofRefused, EnrolmentRefused, AuthorityRefused, ControlRefused, which
        only an operator can resolve; ControlUnavailable, AnswerNotUnderstood, FolderRefused.
        """
        pending = self._state.pending
        if pending is not None and pending.ticket:
            return self._poll(pending, now)
        proof = self._unused_proof()
        found = self._control.discover()
        self._control.require_trusted_endpoint(found, proof)
        if pending is None or pending.proof != proof.digest:
            pending = PendingEnrolment(proof=proof.digest, csr=self._folder.request(), tenant_id=proof.tenant_id)
        self._save(pending)
        try:
            ticket = self._control.enrol(found, proof, self._service, self._kind.value, pending.csr)
        except (ProofRefused, EnrolmentRefused):
            self._reject(pending)
            raise
        log.info("enrolment started", service=self._service, proof=proof.kind.replace("_token", ""))
        accepted = {"ticket": ticket.text, "status_url": ticket.status_url, "authority": found.authority.pem}
        self._save(pending.model_copy(update=accepted))
        return min(ticket.retry_seconds, _IMMEDIATE_SECONDS)

    def completed(self) -> None:
        """Record the attestation as used: the issued certificate is in the folder."""
        if self._state.pending is not None:
            self._state.spend(self._state.pending.proof)
            self._save(None)

    def retry_rejected(self) -> None:
        """Allow rejected attestations to be sent again, as requested by a signal."""
        self._rejected.clear()

    def _poll(self, pending: PendingEnrolment, now: datetime) -> Enrolled | float:
        document = self._control.result(Ticket(pending.status_url, pending.ticket))
        if document is None:
            self._save(None)  # the server has forgotten the enrolment; the attestation can start another
            return _IMMEDIATE_SECONDS
        if document["state"] == "pending":
            return _POLL_SECONDS
        if document["state"] == "refused":
            self._reject(pending)
            raise EnrolmentRefused(str(document.get("problem") or "no reason given")[:100])
        enrolled = self._verified(pending, document)
        present = self._folder.certificate()
        if enrolled.issued.leaf == present or not is_valid(enrolled.issued.leaf, now):
            self.completed()  # already written, or already expired
            return _IMMEDIATE_SECONDS
        return enrolled

    def _verified(self, pending: PendingEnrolment, document: dict[str, Any]) -> Enrolled:
        try:
            authority = x509.load_pem_x509_certificate(pending.authority.encode())
            named = x509.load_pem_x509_certificate(str(document["ca"]).encode())
            certificate, chain = str(document["certificate"]), str(document["chain"])
            offer = Offer(str(document["https"]), str(document["kmip"]))
            tenant_id = str(document["tenant_id"])
        except (KeyError, ValueError):
            raise AnswerNotUnderstood from None
        if (self._folder.tenant_id or pending.tenant_id) not in {None, tenant_id}:
            raise AnswerNotUnderstood
        if named != authority or not offer.https.startswith("https://") or document.get("service") != self._service:
            raise AnswerNotUnderstood
        issued = verify_issued(certificate, chain, authority, tenant_id, self._service)
        if not self._folder.holds_key_of(certificate):
            raise AnswerNotUnderstood("the certificate is for another key")
        return Enrolled(issued, offer)

    def _unused_proof(self) -> AttestationEvidence:
        """Return an attestation that was neither used nor rejected before."""
        proof = self._proofs.read()
        if proof is None:
            raise ProofMissing
        if proof.digest in self._state.spent or proof.digest in self._rejected:
            raise ProofMissing("the attestation was already used or rejected")
        if proof.tenant_id is not None:
            if self._folder.tenant_id not in {None, proof.tenant_id}:
                raise FolderRefused(f"{self._folder.path} belongs to another tenant", "use a new folder")
            self._folder.tenant_id = proof.tenant_id
        return proof

    def _reject(self, pending: PendingEnrolment) -> None:
        self._rejected.add(pending.proof)
        self._save(None)

    def _save(self, pending: PendingEnrolment | None) -> None:
        self._state.pending = pending
        save_state(self._folder, self._state)
