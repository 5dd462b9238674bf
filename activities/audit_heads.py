"""Signing the heads of audit streams: what makes a truncated stream visible.

The chain shows an edit, an insertion or a deletion in the middle, but not a missing end. A signature over length and
hash does; it is kept beside the stream and also logged, so that a copy lies outside PostgreSQL.
"""

import structlog
from temporalio import activity

from activities.signing import RecordedSigner
from core.messages.base import StepInput
from core.messages.compliance import SignHeadsResult
from database.audit import SignedHead
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import head_message

_BATCH = 200

log = structlog.get_logger()


class AuditHeadActivities:
    def __init__(self, database: Database, platform: PlatformQueries, signer: RecordedSigner) -> None:
        self._database = database
        self._platform = platform
        self._signer = signer

    @activity.defn(name="sign-audit-heads")
    def sign_audit_heads(self) -> SignHeadsResult:
        """Sign the heads that moved, at most a batch of them; the next run takes the rest."""
        signed = 0
        for tenant_id in self._platform.moved_heads(_BATCH):
            self._sign(tenant_id)
            signed += 1
            activity.heartbeat(signed)
        return SignHeadsResult(signed=signed)

    @activity.defn(name="sign-audit-head")
    def sign_audit_head(self, step: StepInput) -> None:
        """Sign the head of one tenant's stream now, for something that names a record of it."""
        self._sign(step.tenant_id)

    def _sign(self, tenant_id: str) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            head = tx.audit.head()
        if head is None:
            return
        [(signature, key)] = self._signer.sign_all([head_message(tenant_id, head.seq, head.chain_hash)])
        with self._database.tenant_tx(tenant_id) as tx:
            tx.audit.save_signed_head(SignedHead(head.seq, head.chain_hash, signature, key))
        log.info("audit head signed", tenant_id=tenant_id, seq=head.seq, hash=head.chain_hash.hex(), head=signature)
