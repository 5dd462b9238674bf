"""The steps of RotateCertificateAuthority (docs/certificates.md), and whose authority is to be rolled.

What a tenant believes changes in one transaction under its row lock: the authorities' states and the issuers that its
route names. A leaf is put on record under the same lock (`activities.services`), so that none is ever issued by an
authority that was no longer the current one, and the end of the last leaf of the former is known from then on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from temporalio import activity

from activities.audit_trail import append_audit_event
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
_RENEWED_SOON = 1000
"""Services that are told at once to come for a certificate of the new authority; it keeps the workflow's history short.
The others come by themselves when two thirds of their certificate's life are over, long before the overlap is."""


@dataclass(frozen=True, slots=True)
class AuthorityMaker:
    """Makes a tenant's authority on a version of its key, unless it is on record."""

    database: Database
    platform: PlatformQueries
    authorities: PkiAuthorities

    def make(self, tenant_id: str, version: int, state: AuthorityState) -> AuthorityRow:
        """Return what is to be recorded; a signed but unrecorded one is adopted, not signed again."""

        def unrecorded(serials: Sequence[str]) -> Sequence[str]:
            # An attempt that was given up for dead may still be alive and record its certificate at this moment. Asking
            # in this order leaves no gap: what it recorded before the first question is seen by the second, and what
            # it records later is among the unknown and is adopted.
            unknown = self.platform.unknown_serials(serials)
            with self.database.tenant_tx(tenant_id) as tx:
                if of_version(tx, version) is not None:
                    raise Superseded
            return unknown

        return _row(self.authorities.ensure(tenant_id, unrecorded, version), state)

    def enable(self, tenant_id: str, recorded: AuthorityRow) -> AuthorityRow:
        """Let a recorded authority sign again, if a roll-back has disabled it; the only one to be found is itself."""
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

    @activity.defn(name="plan-authority")
    def plan_authority(self, step: StepInput) -> AuthorityPlan:
        """Step 1: say which version of the key comes next and, in the audit stream, that it is about to be made.

        One that an earlier roll prepared and did not live to activate is taken up.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            _live(tx)
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

    @activity.defn(name="prepare-authority")
    def prepare_authority(self, step: AuthorityStep) -> None:
        """Step 2: the next version of the key and its certificate, on record; nobody believes it yet."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            recorded = of_version(tx, step.version)
        if recorded is None:
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

    @activity.defn(name="verify-authority")
    def verify_authority(self, step: AuthorityStep) -> None:
        """Step 3: let it issue a leaf that nobody keeps, and verify that up to the root that is trusted today."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            prepared, current = of_version(tx, step.version), tx.certificates.authority()
        if prepared is None or current is None:
            raise _missing(step)
        self._authorities.prove(as_authority(prepared), step.tenant_id, as_authority(current))

    @activity.defn(name="activate-authority")
    def activate_authority(self, step: AuthorityStep) -> None:
        """Step 4: new leaves come from it; the one before is believed until its last leaf has expired."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            _live(tx)
            prepared, current, route = of_version(tx, step.version), tx.certificates.authority(), tx.routes.get()
            if prepared is None or current is None or route is None:
                raise _missing(step)
            if prepared == current:
                return
            if prepared.state is not AuthorityState.PREPARED:
                raise ConflictingResource("authority", prepared.serial, f"it is {prepared.state}")
            tx.certificates.activate(prepared.serial)
            tx.routes.publish(
                replace(
                    route,
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

    @activity.defn(name="unrenewed-services")
    def unrenewed_services(self, step: StepInput) -> ServicesResult:
        """Step 5: say which services are to come for a certificate of the new authority."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            return ServicesResult(services=tuple(tx.certificates.unrenewed(_RENEWED_SOON)))

    @activity.defn(name="abandon-authority")
    def abandon_authority(self, failure: AuthorityFailureInput) -> RollAuthorityResult:
        """End a roll without effect: what was prepared is never believed, and its number never used again.

        One that was activated stays so, which its workflow may not have heard of.
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

    @activity.defn(name="due-authorities")
    def due_authorities(self) -> TenantsResult:
        """Return tenants whose authority is to be rolled, at most a batch; the next run takes the rest."""
        return TenantsResult(tenants=tuple(self._platform.due_authorities(_DUE_AT_ONCE)))


def of_version(tx: TenantTransaction, version: int) -> AuthorityRow | None:
    """Return the authority on record for a version of the tenant's key."""
    return next((row for row in tx.certificates.authorities() if row.key_version == version), None)


def as_authority(row: AuthorityRow) -> Authority:
    """Return an authority on record as the key server's adapter takes it."""
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


def _live(tx: TenantTransaction) -> None:
    tenant = tx.tenants.lock()
    if tenant.state not in _LIVE:
        raise TenantNotOperational(tenant.state)


def _missing(step: StepInput) -> ConflictingResource:
    return ConflictingResource("authority", step.tenant_id, "it, or the route that names it, is not on record")
