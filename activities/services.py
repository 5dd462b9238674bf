"""The steps of ConnectService: a service's key, its certificates and their revocation (docs/services.md).

The steps that add a certificate and the step that revokes all of them take the tenant's row lock. A certificate signed
during a disconnection is therefore either recorded before it and revoked with the others, or never recorded.
"""

from datetime import timedelta

from cryptography import x509
from temporalio import activity

from activities.certificates.ca_rotation import as_authority
from activities.keys import context_of, require_active_version, require_current_root_key, root_key_in_force
from activities.runtime.audit_trail import Clock, append_audit_event, is_executed
from activities.runtime.step_progress import track_progress
from core.errors.platform import ConflictingResource, Superseded
from core.errors.services import ServiceUnknown
from core.errors.tenants import OperationRepeated, TenantNotOperational, TenantUnknown
from core.messages.services import (
    CertificatePlan,
    CertificateResult,
    CertificateStep,
    ConnectFailureInput,
    EnrolStep,
    RenewalStep,
    ServiceStep,
)
from core.services import RENEWED, ServiceState, refuse_another_key
from core.tenants.lifecycle import ENCRYPTS, State
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.services.repository import ServiceCertificateRow, ServiceRequestRow, ServiceRow
from kms.key_cache import RootKeyCache
from openkcm.contract.audit_events import AuditName
from vault.pki.authorities import PkiAuthorities
from vault.transit.keys import ciphertext_version
from vault.transit.tenant_keys import TransitTenantKeys

_FIRST_VERSION = 1


class ServiceActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        tenant_keys: TransitTenantKeys,
        root_key_cache: RootKeyCache,
        authorities: PkiAuthorities,
        lifetime: timedelta,
        clock: Clock,
    ) -> None:
        self._database = database
        self._tenant_keys = tenant_keys
        self._root_keys = root_key_cache
        self._authorities = authorities
        self._lifetime = lifetime
        self._clock = clock

    @activity.defn(name="record-service")
    def record_service(self, step: EnrolStep) -> CertificatePlan:
        """Step 1: plan the certificate of a stored request, and record the intention in the audit stream.

        A request that has a certificate already gets the same one. A connected service gets one for another key only
        if the request says so.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            _require_state(tx, ENCRYPTS)
            request = tx.services.requested(step.request_id)
            if request.service != step.service:
                raise ServiceUnknown("the request names another service", "send it to the service that it names")
            service, newest = tx.services.connect(step.service, request.kind), tx.services.leaf(step.service)
            if newest is not None and newest.request_id == step.request_id and newest.not_after > self._clock():
                return CertificatePlan(request_id=step.request_id, generation=newest.generation)
            if newest is not None and not step.another_key:
                refuse_another_key(service.state, newest.certificate_pem, request.csr_pem)
            plan = CertificatePlan(request_id=step.request_id, generation=tx.services.generation(step.service) + 1)
            append_audit_event(
                tx,
                _of_plan(step, plan),
                AuditName.SERVICE_CONNECT_INTENDED,
                step.service,
                "intended",
                kind=request.kind,
                request=step.request_id,
                certificate=str(plan.generation),
                **({} if request.certificate_days is None else {"certificate_days": str(request.certificate_days)}),
            )
            return plan

    @activity.defn(name="create-service-key", no_thread_cancel_exception=True)
    def create_service_key(self, step: CertificateStep) -> None:
        """Step 2: create an L3 that no process has in memory, wrapped by L2 and then by L1 (MTCI E1 to E3).

        It is created once. A reconnected service keeps it, so that it can decrypt its earlier ciphertexts. The inner
        wrap is not kept in the heartbeat for a later attempt: it lacks the layer of the root key.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            _require_not_disconnected(tx, step)
            if tx.services.key(step.service) is not None:
                return
            tenant = tx.tenants.get()
            if tenant is None:
                raise TenantUnknown
            in_force = root_key_in_force(tx, tenant)
        context = context_of(step.tenant_id, step.service, _FIRST_VERSION)
        with track_progress():
            inner = self._tenant_keys.new_wrapped_key(context)
            wrapped = in_force.open(self._root_keys).wrap(context, inner.encode("ascii"))
        made = in_force.row(step.service, _FIRST_VERSION, wrapped, ciphertext_version(inner))
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            require_current_root_key(tx, in_force)
            require_active_version(tx, made.l2_version)
            tx.services.record_key(made)
            append_audit_event(
                tx,
                step,
                AuditName.SERVICE_KEY_CREATED,
                step.service,
                version=str(_FIRST_VERSION),
                l2_key=made.l2_key,
                root_key=made.root_key,
            )

    @activity.defn(name="issue-certificate")
    def issue_certificate(self, step: CertificateStep) -> CertificateResult:
        """Step 3: sign and record. An unrecorded certificate grants no access, so a crash in between is safe."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            _require_not_disconnected(tx, step)
            newest, authority = tx.services.leaf(step.service), tx.certificates.authority()
            request = tx.services.requested(step.request_id)
        if newest is not None and newest.generation >= step.generation:
            return self._renewed_later(newest, request)
        if authority is None:
            raise ConflictingResource("authority", step.tenant_id, "it is not recorded although the tenant is active")
        days = request.certificate_days
        lifetime = self._lifetime if days is None else timedelta(days=days)
        signed = self._authorities.issue(
            as_authority(authority), step.tenant_id, step.service, request.csr_pem, lifetime
        )
        leaf = ServiceCertificateRow(
            serial=signed.serial,
            service=step.service,
            generation=step.generation,
            request_id=step.request_id,
            certificate_pem=signed.certificate_pem,
            not_before=x509.load_pem_x509_certificate(signed.certificate_pem.encode()).not_valid_before_utc,
            not_after=signed.not_after,
            authority=authority.serial,
        )
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            _require_not_disconnected(tx, step)
            if tx.certificates.authority() != authority:
                raise Superseded("the tenant CA was rotated meanwhile", "the next attempt uses the new one")
            recorded = tx.services.record_leaf(leaf)
            append_audit_event(
                tx,
                step,
                AuditName.SERVICE_CERTIFICATE_ISSUED,
                step.service,
                serial=recorded.serial,
                generation=str(recorded.generation),
                not_after=recorded.not_after.isoformat(),
            )
        return self._renewed_later(recorded, request)

    @activity.defn(name="mark-connected")
    def mark_connected(self, step: CertificateStep) -> None:
        """Step 4: mark the service connected; it has key and certificate."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            _require_not_disconnected(tx, step)
            tx.services.connected(step.service)
            append_audit_event(tx, step, AuditName.SERVICE_CONNECTED, step.service, certificate=str(step.generation))

    @activity.defn(name="record-connect-failure")
    def record_connect_failure(self, failure: ConnectFailureInput) -> None:
        """Record the failure of an intended connection; the next attempt uses what was created for it."""
        with self._database.tenant_tx(failure.tenant_id) as tx:
            append_audit_event(
                tx,
                failure,
                AuditName.SERVICE_CONNECTED,
                failure.service,
                "failure",
                code=failure.code,
                at=failure.reason,
            )

    @activity.defn(name="plan-renewal")
    def plan_renewal(self, step: RenewalStep) -> CertificatePlan:
        """Plan the next certificate, for the key pair of the newest one, and record the intention.

        Services of a suspended tenant still decrypt, so their certificates are renewed too. Those of a locked tenant
        are renewed so that its services work at once after the unlock. The certificate of an appliance is renewed only
        if a person requests it and can install it: a certificate that no appliance has would end the alerts.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            # Before the tenant's state: the workflow of a service without a row has nothing left to do.
            service, newest = _require_not_disconnected(tx, step), tx.services.leaf(step.service)
            _require_state(tx, RENEWED)
            if newest is None or service.state is not ServiceState.CONNECTED:
                raise ServiceUnknown("the service has no certificate to renew", "connect it first")
            if not step.requested and tx.services.requested(newest.request_id).certificate_days is not None:
                return CertificatePlan(
                    request_id=newest.request_id, generation=newest.generation, by_hand_until=newest.not_after
                )
            plan = CertificatePlan(request_id=newest.request_id, generation=tx.services.generation(step.service) + 1)
            append_audit_event(
                tx,
                _of_plan(step, plan),
                AuditName.SERVICE_CERTIFICATE_ISSUED,
                step.service,
                "intended",
                generation=str(plan.generation),
            )
            return plan

    @activity.defn(name="disconnect-service")
    def disconnect_service(self, step: ServiceStep) -> None:
        """Revoke every certificate and mark the service disconnected, in one transaction; in any state of the tenant.

        The commit notifies the crypto service, which closes the live connections. The key stays.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            if tx.services.get(step.service) is None:
                raise ServiceUnknown
            executed = is_executed(tx, step, AuditName.SERVICE_DISCONNECTED, step.service)
            if tx.services.disconnect(step.service):
                if executed:  # the service was connected again
                    raise OperationRepeated
                append_audit_event(tx, step, AuditName.SERVICE_DISCONNECTED, step.service)

    def _renewed_later(self, leaf: ServiceCertificateRow, request: ServiceRequestRow) -> CertificateResult:
        if request.certificate_days is not None:
            return CertificateResult(renew_at=leaf.not_after, by_hand=True)
        # Two thirds of the remaining, not of the whole lifetime: a certificate cut short by the end of its CA is then
        # renewed at ever shorter intervals, and never in the past.
        now = self._clock()
        return CertificateResult(renew_at=now + (leaf.not_after - now) * 2 / 3)


def service_operation(service: str, plan: CertificatePlan) -> str:
    """Return the operation id of a planned certificate.

    A generation is planned again only after a failure; the request then distinguishes the audit records.
    """
    return f"service-{service}-{plan.generation}-{plan.request_id}"


def _of_plan(step: ServiceStep, plan: CertificatePlan) -> ServiceStep:
    return step.model_copy(update={"operation_id": service_operation(step.service, plan)})


def _require_state(tx: TenantTransaction, states: frozenset[State]) -> None:
    """Lock the tenant's row; raises TenantUnknown, or TenantNotOperational when its state is not in `states`."""
    tenant = tx.tenants.lock()
    if tenant.state not in states:
        raise TenantNotOperational(tenant.state)


def _require_not_disconnected(tx: TenantTransaction, step: ServiceStep) -> ServiceRow:
    service = tx.services.get(step.service)
    if service is None:
        raise ServiceUnknown
    if service.state is ServiceState.DISCONNECTED:
        raise ServiceUnknown("the service was disconnected", "connect it again: openkcmctl service connect")
    return service
