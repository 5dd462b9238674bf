"""The steps of RotateKeys (docs/rotation.md): new versions of tenant and service keys, and re-wrapping.

The worker never has a key in memory. Vault creates a new service key and returns it encrypted, and Vault re-wraps what
an older version of the tenant key encrypted. Of a service key's two layers only the outer one is unwrapped here.
A retry finds the results of an earlier attempt in the records or in the key server and continues from there.
"""

import time

from temporalio import activity

from activities.approvals import require_approval
from activities.keys import (
    alarm,
    context_of,
    refused_fingerprint,
    require_active_version,
    require_current_root_key,
    root_key_in_force,
    verify_wrapped_keys,
    with_heartbeats,
)
from activities.notifications import NotificationOutbox
from activities.rotation.rewrap import Rewrapping
from activities.runtime.audit_trail import append_audit_event, build_audit_event
from activities.runtime.concurrency import ContextThreadPool, Pace, take_turns
from activities.runtime.metrics import Metrics
from activities.runtime.step_progress import track_progress
from core import names as ids
from core.errors.keys import KeyUnavailable, KeyVersionInUse, KeyVersionUnknown
from core.errors.services import ServiceUnknown
from core.errors.tenants import TenantNotOperational, TenantUnknown
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.rotation import KeyState, RotationPhase, RotationScope
from core.messages.base import StepInput
from core.messages.keys import (
    DestroyResult,
    DueRotation,
    DueTenants,
    PlanRotationStep,
    RetireResult,
    RetireVersionStep,
    RotateRequest,
    RotationEnded,
    RotationFailedStep,
    RotationPlan,
    RotationProgress,
    RotationStep,
)
from core.notifications import NotificationKind
from core.scheduled import ScheduledTask
from core.tenants.approvals import Action, Argument
from core.tenants.lifecycle import DECRYPTS, State
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.scheduled import PlatformQueries
from database.rotation import RotationRequest, RotationRow
from database.tenants import TenantRow
from kms.key_cache import RootKeyCache
from openkcm.contract.audit_events import AuditName
from vault.transit.keys import ciphertext_version
from vault.transit.tenant_keys import TransitFingerprints, TransitTenantKeys

_TEST_PLAINTEXT = b"openkcm tenant key round trip"
_BATCH = 32
"""Service keys prepared between two commits: the most that a crash loses."""
_DESTROYED_AT_ONCE = 200
"""Versions destroyed in one transaction, which takes well below a second."""
_THREADS = 4
_DUE_BATCH = 200
"""Tenants returned by one run: an hour never rotates more, however many keys were created on the same day."""


class RotationActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        platform: PlatformQueries,
        tenant_keys: TransitTenantKeys,
        fingerprints: TransitFingerprints,
        root_key_cache: RootKeyCache,
        outbox: NotificationOutbox,
        pace: Pace,
        metrics: Metrics,
    ) -> None:
        """`pace` limits the service keys created or re-wrapped per second, and the time of one attempt."""
        self._database = database
        self._platform = platform
        self._tenant_keys = tenant_keys
        self._fingerprints = fingerprints
        self._root_keys = root_key_cache
        self._outbox = outbox
        self._pace = pace
        self._metrics = metrics
        self._rewrapping = Rewrapping(database, tenant_keys, root_key_cache, pace)

    @activity.defn(name="look-for-due-rotation")
    def look_for_due_rotation(self, step: StepInput) -> DueRotation:
        """Return the rotation that the policy, a new root key version or an unfinished rotation requires."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            due, followed = tx.rotations.due(tx.policy.get()), _newer_root_key_version(tx)
        if not (due.tenant_key or due.services or due.unfinished or followed):
            return DueRotation()
        services = RotationScope.DUE if due.services else RotationScope.NONE
        return DueRotation(
            request=RotateRequest(request_id=step.operation_id, services=services, tenant_key=due.tenant_key)
        )

    @activity.defn(name="find-due-rotations")
    def find_due_rotations(self) -> DueTenants:
        """Return tenants with keys to rotate or a rotation to finish, at most a batch; the next run begins after it.

        The canary tenant is included: its keys age like all others, and a faulty rotation there harms no customer.
        """
        due = self._platform.due_rotations(_DUE_BATCH)
        return DueTenants(tenants=take_turns(self._database, ScheduledTask.ROTATIONS, due))

    @activity.defn(name="plan-rotation")
    def plan_rotation(self, step: PlanRotationStep) -> RotationPlan:
        """Step 1: record the intended rotation before any key is created or retired."""
        key, request = self._tenant_keys.newest(step.tenant_id), step.request
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant = tx.tenants.lock()
            if tenant.state not in DECRYPTS:
                raise TenantNotOperational(tenant.state)
            if request.service is not None and tx.services.key(request.service) is None:
                raise ServiceUnknown
            if request.compromised:
                # The replaced versions decrypt nothing afterwards, so the policy may require two people.
                argument = request.model_dump(mode="json", include={"services", "service", "tenant_key"})
                require_approval(tx, step, Action.COMPROMISE, argument, request.approval_id)
            wanted = RotationRequest(
                request.tenant_key,
                request.services,
                request.service,
                request.compromised,
                step.scheduled,
                _newer_root_key_version(tx),
            )
            followed = tx.rotations.begin(step.number, wanted, key.version).wanted.root_key_version
            services, recorded = tx.rotations.unprepared(step.number, tx.policy.get()), tx.keys.get(key.name)
            if recorded is None:
                raise KeyUnavailable
            compromised = bool(tx.rotations.compromised())
            append_audit_event(
                tx,
                step,
                AuditName.KEYS_ROTATED,
                key.name,
                "intended",
                tenant_key="rotated" if request.tenant_key else "kept",
                services=", ".join(service for service, _ in services),
                root_key="kept" if followed is None else f"version {followed} is followed",
                compromised=str(request.compromised).lower(),
                request=request.request_id,
                scheduled=str(step.scheduled).lower(),
            )
        return RotationPlan(
            services=len(services),
            # Also after an unfinished rotation, or one that changed the records and not the key server.
            retires=request.tenant_key or recorded.oldest < recorded.version or key.oldest < recorded.oldest,
            destroys=compromised or (request.compromised and bool(services)),
            follows=followed is not None,
        )

    @activity.defn(name="rotate-tenant-key", no_thread_cancel_exception=True)
    def rotate_tenant_key(self, step: RotationStep) -> None:
        """Step 2: create a new version of the tenant key and test it. Older versions still decrypt."""
        rotation = self._enter(step, RotationPhase.TENANT_KEY)
        with track_progress():
            key = self._tenant_keys.rotate(step.tenant_id, rotation.from_version)
            context = EncryptionContext(step.tenant_id, key.name, "", Purpose.VERIFY, step.operation_id)
            ciphertext = self._tenant_keys.encrypt(context, _TEST_PLAINTEXT)
            if (
                ciphertext_version(ciphertext) < key.version
                or self._tenant_keys.decrypt(context, ciphertext) != _TEST_PLAINTEXT
            ):
                raise KeyUnavailable
            fingerprint = self._fingerprints.of(step.tenant_id, key.version)
        with self._database.tenant_tx(step.tenant_id) as tx:
            refusal = refused_fingerprint(tx, step, key, fingerprint)
            if refusal is None:
                tx.rotations.rotated(step.number, key.version)
                before, after = str(rotation.from_version), str(key.version)
                append_audit_event(tx, step, AuditName.TENANT_KEY_ROTATED, key.name, before=before, after=after)
        if refusal is not None:
            alarm(self._metrics, step.tenant_id, refusal)
            raise refusal

    @activity.defn(name="prepare-service-keys")
    def prepare_service_keys(self, step: RotationStep) -> RotationProgress:
        """Step 3: create a new version of each due service key in Vault, wrap it and test the wrap.

        Returns the progress of this and earlier attempts when all are prepared or the time slice ends.
        """
        rotation, started = self._enter(step, RotationPhase.PREPARE), time.monotonic()
        with ContextThreadPool(_THREADS, thread_name_prefix="prepare") as pool:
            while True:
                activity.heartbeat(rotation.done)
                began = time.monotonic()
                with self._database.tenant_tx(step.tenant_id) as tx:
                    unprepared = tx.rotations.unprepared(step.number, tx.policy.get())
                    in_force = root_key_in_force(tx, _require_known(tx))
                if not unprepared:
                    return RotationProgress(total=rotation.total, done=rotation.done)
                versions_to_create = unprepared[:_BATCH]
                root_key = in_force.open(self._root_keys)
                contexts = [context_of(step.tenant_id, service, version) for service, version in versions_to_create]
                made = list(with_heartbeats(pool.map(self._tenant_keys.new_wrapped_key, contexts)))
                # The re-wrap tests that each can be unwrapped; it does not change the key.
                inners = self._tenant_keys.rewrap(list(zip(contexts, made, strict=True)))
                wraps = verify_wrapped_keys(pool, root_key, contexts, [inner.encode("ascii") for inner in inners])
                with self._database.tenant_tx(step.tenant_id) as tx:
                    tx.tenants.lock()
                    require_current_root_key(tx, in_force)
                    events = []
                    for (service, version), inner, wrap in zip(versions_to_create, inners, wraps, strict=True):
                        require_active_version(tx, ciphertext_version(inner))
                        row = in_force.row(service, version, wrap, ciphertext_version(inner))
                        tx.rotations.prepare(step.number, row)
                        events.append(
                            build_audit_event(
                                step,
                                AuditName.SERVICE_KEY_CREATED,
                                service,
                                version=str(version),
                                l2_key=row.l2_key,
                                root_key=row.root_key,
                            )
                        )
                    tx.audit.append_all(events)
                    rotation = tx.rotations.came(
                        step.number, len(versions_to_create), len(unprepared) - len(versions_to_create)
                    )
                self._pace.throttle(len(versions_to_create), time.monotonic() - began)
                if self._pace.is_over(started):
                    return RotationProgress(total=rotation.total, done=rotation.done, more=True)

    @activity.defn(name="activate-service-keys")
    def activate_service_keys(self, step: RotationStep) -> None:
        """Step 4: activate all new versions in one transaction; the commit notifies the crypto service."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant = tx.tenants.lock()
            if tenant.state not in DECRYPTS | {State.LOCKED}:
                raise TenantNotOperational(tenant.state)
            rotation = tx.rotations.enter(step.number, RotationPhase.ACTIVATE)
            events = []
            for service, version in tx.rotations.activate(step.number):
                before, after = str(version - 1), str(version)
                events.append(
                    build_audit_event(step, AuditName.SERVICE_KEY_ROTATED, service, before=before, after=after)
                )
                if rotation.wanted.compromised:
                    former = f"before {version}"
                    events.append(build_audit_event(step, AuditName.SERVICE_KEY_COMPROMISED, service, versions=former))
            activity.heartbeat()
            # In one round trip: a lock of the tenant waits for the row lock of this transaction.
            tx.audit.append_all(events)

    @activity.defn(name="rewrap-keys")
    def rewrap_keys(self, step: RotationStep) -> RotationProgress:
        """Step 5: re-wrap what an older version of tenant key or root key wraps, in time slices."""
        followed = self._enter(step, RotationPhase.REWRAP).wanted.root_key_version
        progress = self._rewrapping.run(step, followed)
        if followed is not None and not progress.more:
            with self._database.tenant_tx(step.tenant_id) as tx:
                root_key = root_key_in_force(tx, _require_known(tx))
                append_audit_event(tx, step, AuditName.ROOT_KEY_VERSION_FOLLOWED, root_key.name, version=str(followed))
        return progress

    @activity.defn(name="retire-tenant-key")
    def retire_tenant_key(self, step: RotationStep) -> RetireResult:
        """Step 6: retire all versions before the newest, once no stored ciphertext needs them.

        The record comes first, under the row lock that each writer of a ciphertext takes too. So no later write stores
        a ciphertext that the key server would reject.
        """
        name = ids.l2_key(step.tenant_id)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            tx.rotations.enter(step.number, RotationPhase.RETIRE)
            oldest = tx.rotations.retire_tenant_key(step.number)
            if oldest is None:
                return RetireResult(retired=False)
            append_audit_event(tx, step, AuditName.TENANT_KEY_RETIRED, name, "intended", oldest=str(oldest))
        self._tenant_keys.retire(step.tenant_id, oldest)
        with self._database.tenant_tx(step.tenant_id) as tx:
            append_audit_event(tx, step, AuditName.TENANT_KEY_RETIRED, name, oldest=str(oldest))
        return RetireResult(retired=True)

    @activity.defn(name="trim-tenant-key")
    def trim_tenant_key(self, step: RotationStep) -> None:
        """Step 7: delete the retired versions, so that no operator can restore them. It cannot be undone."""
        name = ids.l2_key(step.tenant_id)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.rotations.enter(step.number, RotationPhase.TRIM)
            key = tx.keys.get(name)
            if key is None:
                raise KeyUnavailable
            append_audit_event(tx, step, AuditName.TENANT_KEY_TRIMMED, name, "intended", oldest=str(key.oldest))
        self._tenant_keys.trim(step.tenant_id, key.oldest)
        with self._database.tenant_tx(step.tenant_id) as tx:
            append_audit_event(tx, step, AuditName.TENANT_KEY_TRIMMED, name, oldest=str(key.oldest))

    @activity.defn(name="destroy-compromised-keys")
    def destroy_compromised_keys(self, step: RotationStep) -> DestroyResult:
        """Step 8: destroy the wrap of each compromised version that encrypts no object. It cannot be undone."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.rotations.enter(step.number, RotationPhase.DESTROY)
            uses = tx.rotations.compromised()
        unused = [_version(use.service, use.version) for use in uses if not use.objects]
        for begin in range(0, len(unused), _DESTROYED_AT_ONCE):
            activity.heartbeat()
            subjects = unused[begin : begin + _DESTROYED_AT_ONCE]
            with self._database.tenant_tx(step.tenant_id) as tx:
                tx.audit.append_all(
                    [build_audit_event(step, AuditName.SERVICE_KEY_DESTROYED, one, "intended") for one in subjects]
                )
        objects = 0
        for begin in range(0, len(uses), _DESTROYED_AT_ONCE):
            activity.heartbeat()
            events = []
            with self._database.tenant_tx(step.tenant_id) as tx:
                for use in uses[begin : begin + _DESTROYED_AT_ONCE]:
                    remaining = use.objects or tx.rotations.destroy(use.service, use.version)
                    objects += remaining
                    if not remaining:
                        subject = _version(use.service, use.version)
                        events.append(build_audit_event(step, AuditName.SERVICE_KEY_DESTROYED, subject))
                tx.audit.append_all(events)
        return DestroyResult(objects=objects)

    @activity.defn(name="finish-rotation")
    def finish_rotation(self, step: RotationStep) -> RotationEnded:
        """Step 9: record the end and store the notification."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant = tx.tenants.lock()
            tx.rotations.end(step.number)
            append_audit_event(tx, step, AuditName.KEYS_ROTATED, ids.l2_key(step.tenant_id))
            stored = self._outbox.store(tx, step, tenant, NotificationKind.KEYS_ROTATED)
        return RotationEnded(notification=NotificationKind.KEYS_ROTATED if stored else None)

    @activity.defn(name="abandon-rotation")
    def abandon_rotation(self, failure: RotationFailedStep) -> None:
        """End a rotation that cannot continue: active versions stay, and prepared versions are destroyed."""
        with self._database.tenant_tx(failure.tenant_id) as tx:
            tx.tenants.lock()
            if tx.rotations.get(failure.number) is not None:
                tx.rotations.end(failure.number, failure.code)
            append_audit_event(
                tx,
                failure,
                AuditName.KEYS_ROTATED,
                ids.l2_key(failure.tenant_id),
                "failure",
                code=failure.code,
                at=failure.reason,
            )

    @activity.defn(name="retire-service-key")
    def retire_service_key(self, step: RetireVersionStep) -> None:
        """Destroy a deactivated version of a service key on request. It cannot be undone."""
        subject = _version(step.service, step.version)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant = tx.tenants.lock()
            if tenant.state not in DECRYPTS:
                raise TenantNotOperational(tenant.state)
            versions = tx.services.keys()
            state = {(key.service, key.version): key.state for key in versions}.get((step.service, step.version))
            if state is None:
                raise KeyVersionUnknown
            if state in {KeyState.ACTIVE, KeyState.PREPARED}:
                raise KeyVersionInUse(step.service, step.version, f"it is {state}")
            argument: Argument = {"service": step.service, "version": step.version}
            require_approval(tx, step, Action.RETIRE_KEY_VERSION, argument, step.approval_id)
            append_audit_event(tx, step, AuditName.SERVICE_KEY_DESTROYED, subject, "intended")
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            objects = tx.rotations.destroy(step.service, step.version)
            append_audit_event(tx, step, AuditName.SERVICE_KEY_DESTROYED, subject, "refused" if objects else "success")
        if objects:
            raise KeyVersionInUse(step.service, step.version, f"objects encrypted under it: {objects}")

    def _enter(self, step: RotationStep, stage: RotationPhase) -> RotationRow:
        with self._database.tenant_tx(step.tenant_id) as tx:
            return tx.rotations.enter(step.number, stage)


def _require_known(tx: TenantTransaction) -> TenantRow:
    tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    return tenant


def _newer_root_key_version(tx: TenantTransaction) -> int | None:
    """Return the newest version of the root key when a wrap has an older one."""
    versions = tx.root_keys.versions()
    return versions.newest if versions is not None and versions.older else None


def _version(service: str, version: int) -> str:
    return f"{service} version {version}"
