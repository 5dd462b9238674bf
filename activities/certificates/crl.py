"""Publication of CRLs, and the end of former CAs.

A CRL gives verifiers elsewhere what the platform's crypto service reads from the database at each connection. Its
entries are read under the tenant's row lock, which each revocation takes too: a later revocation is dated after the CRL
and makes it stale. The CRL number is chosen in the same transaction, so that of two concurrent attempts one finds its
number taken and starts again.
"""

from dataclasses import replace
from datetime import timedelta

from temporalio import activity

from activities.certificates.ca_rotation import as_authority
from activities.runtime.audit_trail import append_audit_event
from activities.runtime.concurrency import MAX_LISTED, run_for_each_tenant
from core.certificates import BELIEVED, AuthorityState
from core.errors.keys import KeyUnavailable
from core.errors.platform import Superseded
from core.messages.base import StepInput
from core.scheduled import ScheduledTask
from database.certificates import AuthorityRow, RevocationListRow
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName
from vault.pki.authorities import PkiAuthorities
from vault.pki.certificates import RevocationList

VALID_FOR = timedelta(hours=24)
REMADE_AFTER = timedelta(hours=12)


class RevocationActivities:
    def __init__(self, database: Database, platform: PlatformQueries, authorities: PkiAuthorities) -> None:
        self._database = database
        self._platform = platform
        self._authorities = authorities

    @activity.defn(name="publish-revocation-list")
    def publish_revocation_list(self, step: StepInput) -> None:
        """Publish the tenant's CRLs: of its current CA, and of a former CA with valid leaves."""
        self._publish(step.tenant_id)

    @activity.defn(name="publish-revocation-lists")
    def publish_revocation_lists(self) -> None:
        """Publish each CRL that lacks a revocation or has passed half of its validity."""
        stale = self._platform.stale_revocation_lists(REMADE_AFTER, MAX_LISTED)
        run_for_each_tenant(self._database, ScheduledTask.REVOCATION_LISTS, stale, self._publish)

    @activity.defn(name="retire-cas")
    def end_authorities(self) -> None:
        """End the former CAs whose last leaf has expired."""
        outlived = self._platform.outlived_authorities(MAX_LISTED)
        run_for_each_tenant(self._database, ScheduledTask.CA_RETIREMENT, outlived, self._end)

    def _publish(self, tenant_id: str) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            tx.tenants.lock()
            serials = [row.serial for row in tx.certificates.authorities() if row.state in BELIEVED]
        for serial in serials:
            with self._database.tenant_tx(tenant_id) as tx:
                tx.tenants.lock()
                issuer, draft = _draft(tx, serial)
            listed = self._sign(tenant_id, issuer, draft)
            with self._database.tenant_tx(tenant_id) as tx:
                _store(tx, listed, draft)

    def _end(self, tenant_id: str) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            tx.tenants.lock()
            former = next((row for row in tx.certificates.authorities() if row.state is AuthorityState.FORMER), None)
            if former is None:
                return
            _, draft = _draft(tx, former.serial)
        # The last CRL is valid as long as its CA certificate, because no other follows.
        draft = replace(draft, next_update=max(draft.next_update, former.not_after))
        try:
            listed = self._sign(tenant_id, former, draft)
        except KeyUnavailable:  # of an offboarding tenant; a CA that must not sign ends also without a last CRL
            listed = None
        with self._database.tenant_tx(tenant_id) as tx:
            tx.tenants.lock()
            until = tx.certificates.issued_until(former.serial)
            if (until is not None and until > draft.this_update) or not tx.certificates.end(former.serial):
                return
            route = tx.routes.get()
            if route is not None:
                tx.routes.publish(route._replace(former_issuer_fingerprint=None))
            step = StepInput(tenant_id=tenant_id, operation_id=f"authority-{former.key_version}")
            append_audit_event(tx, step, AuditName.AUTHORITY_ENDED, former.serial)
            if listed is not None:
                _store(tx, listed, draft)

    def _sign(self, tenant_id: str, issuer: AuthorityRow, draft: RevocationList) -> RevocationListRow:
        der = self._authorities.revoke(as_authority(issuer), tenant_id, draft)
        return RevocationListRow(issuer.serial, draft.number, der, draft.this_update, draft.next_update)


def _draft(tx: TenantTransaction, serial: str) -> tuple[AuthorityRow, RevocationList]:
    """Return a CA and the content of its next CRL; the caller MUST hold the tenant's row lock."""
    issuer = tx.certificates.issuer(serial)
    if issuer is None or issuer.state not in BELIEVED:
        raise Superseded
    revoked, now = tx.certificates.revoked(serial)
    entries = tuple((row.serial, row.revoked_at) for row in revoked)
    number = max((listed.number for listed in tx.certificates.revocation_lists()), default=0) + 1
    return issuer, RevocationList(number, now, now + VALID_FOR, entries)


def _store(tx: TenantTransaction, listed: RevocationListRow, draft: RevocationList) -> None:
    """Publish a CRL and record it, also where its entries are unchanged.

    Each signature of the tenant CA has a record, so a signature without one reveals another signer
    (docs/reconciliation.md).
    """
    if not tx.certificates.publish(listed):
        raise Superseded
    step = StepInput(tenant_id=tx.tenant_id, operation_id=f"revocation-list-{listed.number}")
    append_audit_event(
        tx,
        step,
        AuditName.REVOCATION_LIST_PUBLISHED,
        listed.authority,
        number=str(listed.number),
        revoked=str(len(draft.revoked)),
    )
