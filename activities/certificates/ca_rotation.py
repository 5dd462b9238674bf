"""The steps of RotateCertificateAuthority, and the tenants whose CA is due (docs/certificates.md).

One transaction under the tenant's row lock changes what the tenant trusts: the states of its CAs and the issuers in its
route. A leaf is recorded under the same lock (`activities.services`). So a former CA never issues a leaf, and the end
of its last leaf is known after the switch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from temporalio import activity

from activities.runtime.audit_trail import append_audit_event
from activities.runtime.concurrency import take_turns
from activities.runtime.step_progress import track_progress
from core import names as ids
from core.certificates import AuthorityState
from core.errors.platform import ConflictingResource, Superseded
from core.errors.services import CaRotationInProgress
from core.errors.tenants import TenantNotOperational
from core.messages.base import StepInput, TenantsResult
from core.messages.services import (
    AuthorityFailureInput,
    AuthorityPlan,
    AuthorityStep,
    RollAuthorityResult,
    ServicesResult,
)
from core.scheduled import ScheduledTask
from core.tenants.lifecycle import DECRYPTS, State
from database.certificates import AuthorityRow
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName
from vault.pki.authorities import PkiAuthorities
from vault.pki.certificates import Authority

_LIVE = DECRYPTS | {State.LOCKED}
_DUE_AT_ONCE = 100
"""Tenants returned by one run, because each rotation renews the certificates of the tenant's services."""
_RENEWED_SOON = 1000
"""Services that are asked at once to renew with the new CA; the limit keeps the workflow's history short.
The others renew automatically after two thirds of their certificate's life, long before the overlap ends."""


@dataclass(frozen=True, slots=True)
class AuthorityMaker:
    """Creates a tenant's CA on a version of its key, unless it is recorded."""

    database: Database
    platform: PlatformQueries
    authorities: PkiAuthorities

    def make(self, tenant_id: str, version: int, state: AuthorityState) -> AuthorityRow:
        """Return the CA to record; a signed but unrecorded CA certificate is adopted, not signed again."""

        def unrecorded(serials: Sequence[str]) -> Sequence[str]:
            # A timed-out attempt may still run and record its certificate at this moment. This order of queries leaves
            # no gap: the second query sees what it recorded before the first, and what it records later is among the
            # unknown serials and is adopted.
            unknown = self.platform.unknown_serials(serials)
            with self.database.tenant_tx(tenant_id) as tx:
                if of_version(tx, version) is not None:
                    raise Superseded
            return unknown

        retried = activity.info().attempt > 1
        return _row(self.authorities.ensure(tenant_id, unrecorded, version, retried=retried), state)

    def enable(self, tenant_id: str, recorded: AuthorityRow) -> AuthorityRow:
        """Enable a recorded CA that a rollback has disabled; only its own serial is accepted."""
        return _row(
            self.authorities.ensure(
                tenant_id,
                lambda serials: [serial for serial in serials if serial == recorded.serial],
                recorded.key_version,
            ),
            recorded.state,
        )


class AuthorityActivities:
    def __init__(self, database: Database, platform: PlatformQueries, authorities: PkiAuthorities) -> None:
        self._database = database
        self._platform = platform
        self._authorities = authorities
        self._maker = AuthorityMaker(database, platform, authorities)

    @activity.defn(name="plan-ca")
    def plan_authority(self, step: StepInput) -> AuthorityPlan:
        """Step 1: choose the next version of the key and record the intention in the audit stream.

        A version that an earlier rotation prepared and did not activate is used.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            _require_live(tx)
            rows = tx.certificates.authorities()
            if any(row.state is AuthorityState.FORMER for row in rows):
                raise CaRotationInProgress
            if tx.certificates.authority() is None:
                raise _missing(step)
            newest = rows[0]
            version = newest.key_version + (newest.state is not AuthorityState.PREPARED)
            key = ids.ca_key(step.tenant_id)
            append_audit_event(tx, step, AuditName.AUTHORITY_ROLL_INTENDED, key, "intended", version=str(version))
            return AuthorityPlan(version=version)

    @activity.defn(name="prepare-ca", no_thread_cancel_exception=True)
    def prepare_authority(self, step: AuthorityStep) -> None:
        """Step 2: create and record the next version of the key and its certificate; no verifier trusts it yet."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            recorded = of_version(tx, step.version)
        if recorded is None:
            with track_progress():
                recorded = self._maker.make(step.tenant_id, step.version, AuthorityState.PREPARED)
        with self._database.tenant_tx(step.tenant_id) as tx:
            recorded = tx.certificates.record_authority(recorded)
            append_audit_event(
                tx,
                step,
                AuditName.AUTHORITY_CREATED,
                recorded.serial,
                not_after=recorded.not_after.isoformat(),
                version=str(step.version),
            )

    @activity.defn(name="verify-ca")
    def verify_authority(self, step: AuthorityStep) -> None:
        """Step 3: issue a leaf with the new CA, verify it up to the root that is trusted today, and discard it."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            prepared, current = of_version(tx, step.version), tx.certificates.authority()
        if prepared is None or current is None:
            raise _missing(step)
        self._authorities.prove(as_authority(prepared), step.tenant_id, as_authority(current))

    @activity.defn(name="activate-ca")
    def activate_authority(self, step: AuthorityStep) -> None:
        """Step 4: issue new leaves from the new CA; the former CA is trusted until its last leaf has expired."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            _require_live(tx)
            prepared, current, route = of_version(tx, step.version), tx.certificates.authority(), tx.routes.get()
            if prepared is None or current is None or route is None:
                raise _missing(step)
            if prepared == current:
                return
            if prepared.state is not AuthorityState.PREPARED:
                raise ConflictingResource("authority", prepared.serial, f"it is {prepared.state}")
            tx.certificates.activate(prepared.serial)
            tx.routes.publish(
                route._replace(
                    issuer_fingerprint=prepared.fingerprint,
                    former_issuer_fingerprint=current.fingerprint,
                )
            )
            until = tx.certificates.issued_until(current.serial)
            append_audit_event(
                tx,
                step,
                AuditName.AUTHORITY_ROLLED,
                prepared.serial,
                former=current.serial,
                overlap_until="" if until is None else until.isoformat(),
            )

    @activity.defn(name="find-unrenewed-services")
    def unrenewed_services(self, step: StepInput) -> ServicesResult:
        """Step 5: return the services that are to renew with the new CA."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            return ServicesResult(services=tuple(tx.certificates.unrenewed(_RENEWED_SOON)))

    @activity.defn(name="abandon-ca")
    def abandon_authority(self, failure: AuthorityFailureInput) -> RollAuthorityResult:
        """End a rotation without effect: the prepared CA is never trusted and its version is never used again.

        An activated CA stays active; its workflow may not have received that result.
        """
        with self._database.tenant_tx(failure.tenant_id) as tx:
            tx.tenants.lock()
            prepared = of_version(tx, failure.version)
            if prepared is not None and prepared.state is AuthorityState.CURRENT:
                return RollAuthorityResult()
            if prepared is not None:
                tx.certificates.end(prepared.serial)
            append_audit_event(
                tx,
                failure,
                AuditName.AUTHORITY_ROLLED,
                ids.ca_key(failure.tenant_id),
                "failure",
                code=failure.code,
                at=failure.reason,
            )
        return RollAuthorityResult(code=failure.code)

    @activity.defn(name="find-due-cas")
    def due_authorities(self) -> TenantsResult:
        """Return tenants whose CA is due for rotation, at most a batch; the next run begins with the others."""
        due = self._platform.due_authorities(_DUE_AT_ONCE)
        return TenantsResult(tenants=take_turns(self._database, ScheduledTask.CA_ROTATION, due))


def of_version(tx: TenantTransaction, version: int) -> AuthorityRow | None:
    """Return the recorded CA for a version of the tenant's key."""
    return next((row for row in tx.certificates.authorities() if row.key_version == version), None)


def as_authority(row: AuthorityRow) -> Authority:
    """Convert a recorded CA to the type of the key server's adapter."""
    return Authority(
        serial=row.serial,
        certificate_pem=row.certificate_pem,
        chain_pem=row.chain_pem,
        not_after=row.not_after,
        fingerprint=row.fingerprint,
        key_version=row.key_version,
    )


def _row(made: Authority, state: AuthorityState) -> AuthorityRow:
    return AuthorityRow(made.serial, made.certificate_pem, made.chain_pem, made.not_after, made.key_version, state)


def _require_live(tx: TenantTransaction) -> None:
    tenant = tx.tenants.lock()
    if tenant.state not in _LIVE:
        raise TenantNotOperational(tenant.state)


def _missing(step: StepInput) -> ConflictingResource:
    return ConflictingResource("authority", step.tenant_id, "it, or the route that names it, is not recorded")
