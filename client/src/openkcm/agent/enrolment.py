"""Getting a certificate by a proof, one exchange at a time, so that it may die after any of them and go on.

1. The request is written down, with the digest of the proof it goes with.
2. The control endpoint says who it is; a stranger is sent nothing.
3. Request and proof are sent. The answer's ticket is written down. A lost answer: the same request again is the same
   enrolment.
4. The result is asked for with the ticket until there is one.
5. What was issued is checked. Where it is written is the loop's; only then is the proof noted as used.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from cryptography import x509

from openkcm.agent.attestation import AttestationEvidence, Attestor
from openkcm.agent.certificate_validation import Issued, checked, is_valid
from openkcm.agent.enrolment_client import EnrolmentClient, Ticket
from openkcm.agent.errors import AnswerNotUnderstood, EnrolmentRefused, ProofMissing
from openkcm.agent.state import AgentState, PendingEnrolment, remember
from openkcm.contract.client_files import Offer
from openkcm.contract.services import ServiceKind
from openkcm.credentials.store import CredentialStore
from openkcm.errors import FolderRefused, ProofRefused

_AT_ONCE = 0.2
_POLL_SECONDS = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Enrolled:
    issued: Issued
    offer: Offer


class Enrolment:
    def __init__(  # noqa: PLR0913, PLR0917 - what it works with
        self,
        folder: CredentialStore,
        memory: AgentState,
        control: EnrolmentClient,
        proofs: Attestor,
        service: str,
        kind: ServiceKind,
    ) -> None:
        self._folder, self._memory, self._control, self._proofs = folder, memory, control, proofs
        self._service, self._kind = service, kind
        self._refused: set[str] = set()

    def attempt(self, now: datetime) -> Enrolled | float:
        """Do one exchange; return what was issued, or after how many seconds to go on.

        Raises: ProofMissing, ProofUnreadable, ProofRefused, EnrolmentRefused, AuthorityRefused, ControlRefused: only
        somebody can mend those; ControlUnavailable, AnswerNotUnderstood, FolderRefused.
        """
        pending = self._memory.pending
        if pending is not None and pending.ticket:
            return self._poll(pending, now)
        proof = self._usable()
        found = self._control.discover()
        self._control.refuse_stranger(found, proof)
        if pending is None or pending.proof != proof.digest:
            pending = PendingEnrolment(proof=proof.digest, csr=self._folder.request(), tenant_id=proof.tenant_id)
        self._keep(pending)
        try:
            ticket = self._control.enrol(found, proof, self._service, self._kind.value, pending.csr)
        except (ProofRefused, EnrolmentRefused):
            self._refuse(pending)
            raise
        log.info("enrolment begun", service=self._service, proof=proof.kind.replace("_token", ""))
        kept = {"ticket": ticket.text, "status_url": ticket.status_url, "authority": found.authority.pem}
        self._keep(pending.model_copy(update=kept))
        return min(ticket.retry_seconds, _AT_ONCE)

    def completed(self) -> None:
        """Note that what was issued is in the folder: the proof is used."""
        if self._memory.pending is not None:
            self._memory.spend(self._memory.pending.proof)
            self._keep(None)

    def hear_again(self) -> None:
        """Send what was refused once more, because somebody says so."""
        self._refused.clear()

    def _poll(self, pending: PendingEnrolment, now: datetime) -> Enrolled | float:
        document = self._control.result(Ticket(pending.status_url, pending.ticket))
        if document is None:
            self._keep(None)  # nobody knows of it any more; by the proof it can be begun again
            return _AT_ONCE
        if document["state"] == "pending":
            return _POLL_SECONDS
        if document["state"] == "refused":
            self._refuse(pending)
            raise EnrolmentRefused(str(document.get("problem") or "without a reason")[:100])
        enrolled = self._checked(pending, document)
        present = self._folder.certificate()
        if enrolled.issued.leaf == present or not is_valid(enrolled.issued.leaf, now):
            self.completed()  # what it gave has come, and ended
            return _AT_ONCE
        return enrolled

    def _checked(self, pending: PendingEnrolment, document: dict[str, Any]) -> Enrolled:
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
        issued = checked(certificate, chain, authority, tenant_id, self._service)
        if not self._folder.holds_key_of(certificate):
            raise AnswerNotUnderstood("the certificate is for another key")
        return Enrolled(issued, offer)

    def _usable(self) -> AttestationEvidence:
        """Return a proof that was not used or refused before."""
        proof = self._proofs.read()
        if proof is None:
            raise ProofMissing
        if proof.digest in self._memory.spent or proof.digest in self._refused:
            raise ProofMissing("the proof that is there was used or refused already")
        if proof.tenant_id is not None:
            if self._folder.tenant_id not in {None, proof.tenant_id}:
                raise FolderRefused(f"{self._folder.path} belongs to another tenant", "use a new folder")
            self._folder.tenant_id = proof.tenant_id
        return proof

    def _refuse(self, pending: PendingEnrolment) -> None:
        self._refused.add(pending.proof)
        self._keep(None)

    def _keep(self, pending: PendingEnrolment | None) -> None:
        self._memory.pending = pending
        remember(self._folder, self._memory)
