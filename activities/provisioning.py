"""The steps of ProvisionTenant.

Steps 1 and 5 and the failure of provisioning change PostgreSQL rows only. Step 2 creates the tenant's keys in Transit.
Step 3 creates the tenant CA, which determines whose certificates are accepted (MTCI A1).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from temporalio import activity

from activities.certificates.ca_rotation import AuthorityMaker
from activities.keys import alarm, refused_fingerprint
from activities.notifications import NotificationOutbox
from activities.runtime.audit_trail import Clock, append_audit_event, complete_step, is_executed, is_recorded
from activities.runtime.metrics import Metrics
from activities.runtime.step_progress import track_progress
from core import names as ids
from core.certificates import AuthorityState
from core.errors.keys import KeyUnavailable
from core.errors.platform import ConflictingResource
from core.errors.tenants import InvalidTransition, OperationRepeated
from core.keys.encryption_context import EncryptionContext, Purpose
from core.messages.base import FailureInput, StepInput
from core.messages.tenants import ActivateResult, PayloadKeyResult
from core.notifications import NotificationKind
from core.tenants.lifecycle import State, Transition, transitions_from
from core.tenants.provisioning import Step, steps_of
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.scheduled import PlatformQueries
from database.provisioning import RouteRow
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName
from vault.pki.authorities import PkiAuthorities
from vault.transit.keys import TransitKey, ciphertext_version
from vault.transit.payload_keys import TransitPayloadKeys
from vault.transit.tenant_keys import TransitFingerprints, TransitTenantKeys

_KEY_SERVER_SECONDS = 30
"""Longer than a call to a slow key server, during which a rollback keeps the lock of the row."""


def _begin_rollback(tx: TenantTransaction, step: StepInput) -> None:
    """Fail the tenant and lock its row; raises InvalidTransition unless the step's operation provisions it.

    A rollback undoes only its own work: the keys of a tenant in any other state are in use, or belong to a later
    operation. The failure comes before the keys are disabled: a late attempt must not activate the tenant without them.
    """
    state = tx.tenants.lock(_KEY_SERVER_SECONDS).state
    _require_newest(tx, step, state, Transition.FAIL)
    if state is not State.FAILED:
        tx.tenants.move(Transition.FAIL)
        append_audit_event(tx, step, AuditName.PROVISION_ROLLED_BACK, step.tenant_id, "intended")


def _require_newest(tx: TenantTransaction, step: StepInput, state: State, move: Transition) -> None:
    """Raise InvalidTransition unless the step's operation is the tenant's newest provisioning."""
    if tx.steps.newest_operation() != step.operation_id:
        raise InvalidTransition(state, move, transitions_from(state))


def _require_unfinished(tx: TenantTransaction, step: StepInput) -> None:
    """Raise OperationRepeated unless the step's operation provisions the tenant: a late attempt creates nothing."""
    if not _provisions(tx, step, tx.tenants.lock().state):
        raise OperationRepeated


def _provisions(tx: TenantTransaction, step: StepInput, state: State) -> bool:
    return state is State.PROVISIONING and tx.steps.newest_operation() == step.operation_id


def _is_late(tx: TenantTransaction, step: StepInput, disable: Callable[[str], None]) -> bool:
    """Lock the tenant's row and return whether the operation ended while the step created a key or CA.

    Raises OperationRepeated, after it has disabled the creation, if the tenant's keys are being destroyed meanwhile.
    """
    state, leaving = tx.tenants.lock(_KEY_SERVER_SECONDS).state, tx.leaving.get()
    if state is State.OFFBOARDED or (leaving is not None and leaving.destroying_at is not None):
        disable(step.tenant_id)
        raise OperationRepeated
    return not _provisions(tx, step, state)


def _undo_late_creation(tx: TenantTransaction, step: StepInput, key: str, disable: Callable[[str], None]) -> None:
    """Disable what the step created and recorded after its rollback; the caller holds the row lock.

    A key of a tenant in any other state is in use, or belongs to a later provisioning.
    """
    leaving = tx.leaving.get()
    if leaving is not None and State.FAILED in {leaving.state, leaving.returns_to}:
        disable(step.tenant_id)
        append_audit_event(tx, step, AuditName.PROVISION_ROLLED_BACK, key)


class ProvisioningActivities:
    def __init__(self, database: Database, outbox: NotificationOutbox, clock: Clock, metrics: Metrics) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name=Step.OPEN_RECORDS)
    def open_records(self, step: StepInput) -> None:
        """Step 1: create the tenant's records, and record the intended keys before any of them is created.

        An operator who finds a key or CA of this tenant later finds its intention here.
        """
        began = self._clock()
        with self._database.tenant_tx(step.tenant_id) as tx:
            row = tx.tenants.lock()
            if is_executed(tx, step, AuditName.PROVISION_INTENDED, step.tenant_id, "intended"):
                if row.state is not State.PROVISIONING:
                    raise OperationRepeated
                return
            retried = row.state is State.FAILED
            tx.tenants.move(Transition.RETRY if retried else Transition.PROVISION)
            if retried:
                append_audit_event(tx, step, AuditName.PROVISION_RETRIED, step.tenant_id)
            tx.steps.plan(step.operation_id, steps_of(step.tenant_id))
            made = (ids.l2_key(step.tenant_id), ids.ca_key(step.tenant_id), ids.payload_key(step.tenant_id))
            append_audit_event(tx, step, AuditName.PROVISION_INTENDED, step.tenant_id, "intended", keys=", ".join(made))
            complete_step(tx, step, Step.OPEN_RECORDS, began)

    @activity.defn(name=Step.ACTIVATE)
    def activate(self, step: StepInput) -> ActivateResult:
        """Step 5: publish the route, activate the tenant and store the notification, in one transaction.

        Without a configured channel there is nothing to send, and the step that sends it is completed too.
        """
        began = self._clock()
        with self._database.tenant_tx(step.tenant_id) as tx:
            row = tx.tenants.lock()
            executed = is_executed(tx, step, AuditName.TENANT_ACTIVATED, step.tenant_id)
            if not executed:
                self._activate(tx, step, row, began)
            waiting = len(tx.outbox.unsent()) if self._outbox.channels else 0
            if not waiting:
                complete_step(tx, step, Step.ANNOUNCE, began)
        if not executed:
            self._metrics.record_ready((self._clock() - row.requested_at).total_seconds())
        return ActivateResult(messages=waiting)

    def _activate(self, tx: TenantTransaction, step: StepInput, row: TenantRow, began: datetime) -> None:
        authority = tx.certificates.authority()
        if authority is None:
            raise ConflictingResource("authority", step.tenant_id, "it is not recorded although its step is done")
        _require_newest(tx, step, row.state, Transition.ACTIVATE)
        tx.routes.publish(RouteRow(ids.l2_key(step.tenant_id), authority.fingerprint, row.region))
        append_audit_event(
            tx, step, AuditName.ROUTE_PUBLISHED, ids.l2_key(step.tenant_id), issuer=authority.fingerprint
        )
        tx.tenants.move(Transition.ACTIVATE)
        append_audit_event(tx, step, AuditName.TENANT_ACTIVATED, step.tenant_id)
        self._outbox.store(tx, step, row, NotificationKind.READY)
        complete_step(tx, step, Step.ACTIVATE, began)

    @activity.defn(name="record-failure")
    def record_failure(self, failure: FailureInput) -> None:
        """Withdraw the route, mark the tenant failed, record the reason and notify the customer.

        Raises InvalidTransition, and changes nothing, unless this operation provisions the tenant or has failed.
        """
        with self._database.tenant_tx(failure.tenant_id) as tx:
            row = tx.tenants.lock()
            if row.state is not State.FAILED:
                _require_newest(tx, failure, row.state, Transition.FAIL)
                tx.tenants.move(Transition.FAIL)
            if tx.routes.withdraw():
                append_audit_event(tx, failure, AuditName.ROUTE_WITHDRAWN, ids.l2_key(failure.tenant_id))
            append_audit_event(
                tx, failure, AuditName.TENANT_FAILED, failure.tenant_id, "failure", code=failure.code, at=failure.reason
            )
            self._outbox.store(tx, failure, row, NotificationKind.FAILED)

    @activity.defn(name="record-slo-breach")
    def break_promise(self, step: StepInput) -> None:
        """Record the breach of the provisioning SLO; notify the customer unless the tenant is ready or failed."""
        self._metrics.count_broken_promise()
        with self._database.tenant_tx(step.tenant_id) as tx:
            row = tx.tenants.lock()
            if tx.tenants.break_promise():
                append_audit_event(tx, step, AuditName.PROMISE_BROKEN, step.tenant_id, "failure", state=row.state)
            if row.state in {State.REQUESTED, State.PROVISIONING}:
                self._outbox.store(tx, step, row, NotificationKind.LATE)


class TenantCaActivities:
    def __init__(
        self, database: Database, platform: PlatformQueries, authorities: PkiAuthorities, clock: Clock
    ) -> None:
        self._database = database
        self._maker = AuthorityMaker(database, platform, authorities)
        self._authorities = authorities
        self._clock = clock

    @activity.defn(name=Step.CREATE_AUTHORITY, no_thread_cancel_exception=True)
    def create_authority(self, step: StepInput) -> None:
        """Step 3: create the tenant CA unless it is recorded; a signed but unrecorded certificate is adopted."""
        began = self._clock()
        with self._database.tenant_tx(step.tenant_id) as tx:
            _require_unfinished(tx, step)
            recorded = tx.certificates.authority()
        with track_progress():
            if recorded is None:
                made = self._maker.make(step.tenant_id, 1, AuthorityState.CURRENT)
            else:
                made = self._maker.enable(step.tenant_id, recorded)
        with self._database.tenant_tx(step.tenant_id) as tx:
            late = _is_late(tx, step, self._authorities.disable)
            recorded = tx.certificates.record_authority(made)
            tx.keys.record(ids.ca_key(step.tenant_id), "CA", 1)
            append_audit_event(
                tx, step, AuditName.AUTHORITY_CREATED, recorded.serial, not_after=recorded.not_after.isoformat()
            )
            if late:
                _undo_late_creation(tx, step, ids.ca_key(step.tenant_id), self._authorities.disable)
            else:
                complete_step(tx, step, Step.CREATE_AUTHORITY, began)
        if late:
            raise OperationRepeated

    @activity.defn(name="disable-ca")
    def disable_authority(self, step: StepInput) -> None:
        """Roll back step 3: disable the CA until a retry enables it; an unrecorded CA is not changed.

        Raises InvalidTransition unless this operation provisions the tenant.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            _begin_rollback(tx, step)
            recorded = is_recorded(tx, ids.ca_key(step.tenant_id))
        if not recorded:
            return
        with self._database.tenant_tx(step.tenant_id) as tx:
            _begin_rollback(tx, step)
            self._authorities.disable(step.tenant_id)  # under the row lock, for the reason of disable_tenant_key
            append_audit_event(tx, step, AuditName.PROVISION_ROLLED_BACK, ids.ca_key(step.tenant_id))


_TEST_PLAINTEXT = b"openkcm tenant key round trip"


class PayloadKeyring(Protocol):
    """The codec's keyring: after `learn` this process encrypts the tenant's payloads with the tenant's payload key."""

    def learn(self, tenant_id: str, data_key: bytes, wrapped: str) -> None: ...


class TenantKeyActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        tenant_keys: TransitTenantKeys,
        fingerprints: TransitFingerprints,
        payload_keys: TransitPayloadKeys,
        keyring: PayloadKeyring,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._tenant_keys = tenant_keys
        self._fingerprints = fingerprints
        self._payload_keys = payload_keys
        self._keyring = keyring
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name=Step.CREATE_KEYS, no_thread_cancel_exception=True)
    def create_keys(self, step: StepInput) -> None:
        """Step 2: create the tenant's keys, and verify the tenant key by an encryption and a decryption.

        The L2 protects the tenant's data (MTCI U1, C2); the payload key encrypts its workflow payloads from now on. A
        tenant key that another tenant has too is rejected before it is recorded.
        """
        began = self._clock()
        with self._database.tenant_tx(step.tenant_id) as tx:
            _require_unfinished(tx, step)
        with track_progress() as progress:
            version = progress.run_once("tenant key", lambda: self._tenant_keys.ensure(step.tenant_id).version)
            tenant_key = TransitKey(ids.l2_key(step.tenant_id), version)
            progress.run_once("round trip", lambda: self._test_tenant_key(step, tenant_key))
            fingerprint = progress.run_once("fingerprint", lambda: self._fingerprints.of(step.tenant_id, version))
            payload_version = progress.run_once(
                "payload key", lambda: self._payload_keys.ensure(step.tenant_id).version
            )
            payload_key = TransitKey(ids.payload_key(step.tenant_id), payload_version)
            data_key, wrapped = self._payload_keys.new_data_key(payload_key.name)
        self._keyring.learn(step.tenant_id, data_key, wrapped)
        with self._database.tenant_tx(step.tenant_id) as tx:
            late = _is_late(tx, step, self._tenant_keys.disable)
            refusal = refused_fingerprint(tx, step, tenant_key, fingerprint)
            if refusal is None:
                tx.keys.record(tenant_key.name, "L2", tenant_key.version)
                append_audit_event(
                    tx, step, AuditName.TENANT_KEY_CREATED, tenant_key.name, version=str(tenant_key.version)
                )
                tx.keys.record(payload_key.name, "payload", payload_key.version)
                append_audit_event(
                    tx, step, AuditName.PAYLOAD_KEY_CREATED, payload_key.name, version=str(payload_key.version)
                )
                if late:
                    _undo_late_creation(tx, step, tenant_key.name, self._tenant_keys.disable)
                else:
                    complete_step(tx, step, Step.CREATE_KEYS, began)
        if refusal is not None:
            alarm(self._metrics, step.tenant_id, refusal)
            raise refusal
        if late:
            raise OperationRepeated

    def _test_tenant_key(self, step: StepInput, key: TransitKey) -> int:
        """Return the version with which the key encrypts what it decrypts again; raises KeyUnavailable."""
        context = EncryptionContext(step.tenant_id, key.name, "", Purpose.VERIFY, step.operation_id)
        ciphertext = self._tenant_keys.encrypt(context, _TEST_PLAINTEXT)
        if self._tenant_keys.decrypt(context, ciphertext) != _TEST_PLAINTEXT:
            raise KeyUnavailable
        return ciphertext_version(ciphertext)

    @activity.defn(name="load-payload-key")
    def load_payload_key(self, step: StepInput) -> PayloadKeyResult:
        """Encrypt the payloads of a workflow without a history under the tenant's key, as those of the lost one were.

        Another worker gets the data key from the result, which is the first payload under it.
        """
        name = ids.payload_key(step.tenant_id)
        with self._database.tenant_tx(step.tenant_id) as tx:
            exists = is_recorded(tx, name)
        if exists:
            self._keyring.learn(step.tenant_id, *self._payload_keys.new_data_key(name))
        return PayloadKeyResult(exists=exists)

    @activity.defn(name="disable-tenant-key")
    def disable_tenant_key(self, step: StepInput) -> None:
        """Roll back step 2: disable the key, never destroy it, because it may have wrapped something already.

        An unrecorded key is not changed; another user may have created it under that name. Raises InvalidTransition
        unless this operation provisions the tenant.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            _begin_rollback(tx, step)
            recorded = is_recorded(tx, ids.l2_key(step.tenant_id))
        if not recorded:
            return
        with self._database.tenant_tx(step.tenant_id) as tx:
            _begin_rollback(tx, step)
            # Under the row lock: a retry enables the key only afterwards, also if this attempt is late.
            self._tenant_keys.disable(step.tenant_id)
            append_audit_event(tx, step, AuditName.PROVISION_ROLLED_BACK, ids.l2_key(step.tenant_id))
