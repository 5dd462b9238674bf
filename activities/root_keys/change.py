"""The steps of a preflight and of ChangeRootKey (docs/root-keys.md).

A change unwraps only the outer layer of a service key with the former root key and wraps it with the new one. The inner
layer stays encrypted under the tenant's L2, so the worker never has a service key in memory.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence

import structlog
from temporalio import activity

from activities.approvals import require_approval
from activities.keys import context_of, require_active_version, unwrap_service_key, verify_wrapped_key
from activities.lock_records import LockRecorder
from activities.notifications import NotificationOutbox
from activities.runtime.audit_trail import append_audit_event
from activities.runtime.concurrency import ContextThreadPool, Pace
from activities.tenants import release_root_key_lock
from core import names as ids
from core.errors.keys import RootKeyRefused, RootKeyTimeout
from core.errors.tenants import TenantNotOperational, TenantUnknown
from core.keys.root_keys import (
    Credentials,
    Place,
    PlatformKeyRef,
    Problem,
    RootKeyMode,
    credentials_context,
    probe_context,
    refuse_incomplete,
)
from core.messages.keys import AbandonInput, PreflightResult, RootKeyStep, SwitchResult, WrapProgress
from core.messages.tenants import StatusChangeResult
from core.notifications import NotificationKind
from core.tenants.approvals import Action
from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import LockReason, may_change_root_key
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.keys import EncryptedRootKeyRow, ServiceKeyRow
from database.root_keys import RootKeyRequestRow
from database.tenants import TenantRow
from kms.interfaces import RootKey
from kms.key_cache import RootKeyCache
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError
from vault.transit.keys import ciphertext_version
from vault.transit.tenant_keys import TransitTenantKeys

_PROBE_BYTES = 32
_PREFLIGHT_SECONDS = 25.0
"""The longest test of a root key. An attempt has 30 seconds, so the result of a slow server is stored in time."""
_BATCH = 32
"""Service keys wrapped between two commits: the most that a crash loses."""
_THREADS = 4

log = structlog.get_logger()

Unseal = Callable[[str, str, str], Credentials]
"""Decrypts the credentials of a request, by tenant, request and ciphertext; raises RootKeyRefused."""


class RootKeyActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        tenant_keys: TransitTenantKeys,
        root_key_cache: RootKeyCache,
        unseal: Unseal,
        outbox: NotificationOutbox,
        locks: LockRecorder,
        pace: Pace,
    ) -> None:
        """`pace` limits the time of one attempt to wrap service keys."""
        self._database = database
        self._tenant_keys = tenant_keys
        self._root_keys = root_key_cache
        self._unseal = unseal
        self._outbox = outbox
        self._locks = locks
        self._pace = pace

    @activity.defn(name="register-root-key")
    def admit_root_key(self, step: RootKeyStep) -> None:
        """Step 1: record the intended change, and store the credentials encrypted under the tenant's L2."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant = _require_changeable(tx)
            request, known = tx.root_keys.requested(step.request_id), tx.root_keys.held(step.request_id)
        place = request.place
        admitted: EncryptedRootKeyRow | None = None
        if known is None and not isinstance(place, PlatformKeyRef):
            credentials = self._credentials(step, place, request.sealed)
            context = credentials_context(step.tenant_id, step.request_id)
            stored = self._tenant_keys.encrypt(context, credentials.dump())
            admitted = EncryptedRootKeyRow(step.request_id, place, stored)
        name = ids.root_key(tenant.region) if isinstance(place, PlatformKeyRef) else place.name
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            if isinstance(place, PlatformKeyRef):
                argument = {"request_id": step.request_id}
                require_approval(tx, step, Action.ROOT_KEY_TO_PLATFORM, argument, step.approval_id)
            if admitted is not None:
                l2_version = ciphertext_version(admitted.credentials)
                require_active_version(tx, l2_version)
                tx.root_keys.admit(admitted, l2_version)
            root_key_id = None if isinstance(place, PlatformKeyRef) else step.request_id
            change = tx.root_keys.begin(step.number, place.provider, name, root_key_id)
            append_audit_event(
                tx,
                step,
                AuditName.ROOT_KEY_CHANGED,
                name,
                "intended",
                before=f"{change.from_mode} {change.from_name}",
                after=f"{change.to_mode} {change.to_name}",
            )

    @activity.defn(name="preflight-root-key")
    def preflight_root_key(self, step: RootKeyStep) -> PreflightResult:
        """Step 2: test every permission that the new root key needs, and store the problems found.

        For a new root key a canary ciphertext is stored, with which its health is checked afterwards.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant = _require_known(tx)
            request, known = tx.root_keys.requested(step.request_id), tx.root_keys.sealed(step.request_id)
            found = tx.root_keys.problems(step.request_id)
        if not step.number and known is None and request.sealed is None and found is not None:
            return _result(found)  # of an earlier attempt, which used up the credentials
        canary = b""
        probe = os.urandom(_PROBE_BYTES)
        try:
            wrong, canary = _run_preflight(lambda: self._test(step, tenant, request, known, probe))
            if isinstance(request.place, PlatformKeyRef) and wrong and wrong[0].retryable:
                raise wrong[0]  # an unreachable platform server ends no change; a customer's may be a wrong address
            problems = [_as_problem(problem) for problem in wrong]
        except OpenKcmError as problem:
            if problem.retryable and step.number:
                raise
            problems = [_as_problem(problem)]
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.root_keys.found(step.request_id, problems)
            if canary:
                tx.root_keys.prove(step.request_id, canary, hashlib.sha256(probe).digest())
            append_audit_event(
                tx,
                step,
                AuditName.ROOT_KEY_CHECKED,
                request.place.name,
                "failure" if problems else "success",
                provider=request.place.provider,
                problems=", ".join(problem.code for problem in problems),
            )
        return _result(problems)

    @activity.defn(name="wrap-service-keys")
    def wrap_service_keys(self, step: RootKeyStep) -> WrapProgress:
        """Step 3: store for each wrap a tested wrap under the new root key; existing ones are kept.

        Returns the progress of this and earlier attempts when all are wrapped or the time slice ends.
        """
        started = time.monotonic()
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant, progress = _require_known(tx), tx.root_keys.stage(step.number, ())
        new = self._by_id(tenant, progress.root_key_id)
        # The same key with new credentials unwraps its own wraps, also when the former credentials are invalid.
        same = (progress.to_mode, progress.to_name) == (progress.from_mode, progress.from_name)
        former: dict[str | None, RootKey] = {}

        def wrapped(row: ServiceKeyRow) -> tuple[ServiceKeyRow, bytes]:
            context = context_of(step.tenant_id, row.service, row.version)
            return row, verify_wrapped_key(new, context, former[row.root_key_id].unwrap(context, row.wrapped))

        with ContextThreadPool(_THREADS, thread_name_prefix="wrap") as pool:
            while True:
                activity.heartbeat(progress.wrapped)
                with self._database.tenant_tx(step.tenant_id) as tx:
                    rows = tx.root_keys.unstaged(step.number, _BATCH)
                if not rows:
                    return WrapProgress(total=progress.total, wrapped=progress.wrapped)
                for root_key_id in {row.root_key_id for row in rows} - former.keys():
                    former[root_key_id] = new if same else self._by_id(tenant, root_key_id)
                wraps: list[tuple[ServiceKeyRow, bytes]] = []
                for wrap in pool.map(wrapped, rows):
                    activity.heartbeat(progress.wrapped + len(wraps))
                    wraps.append(wrap)
                with self._database.tenant_tx(step.tenant_id) as tx:
                    progress = tx.root_keys.stage(step.number, wraps)
                if self._pace.is_over(started):
                    return WrapProgress(total=progress.total, wrapped=progress.wrapped, more=True)

    @activity.defn(name="switch-root-key")
    def switch_root_key(self, step: RootKeyStep) -> SwitchResult:
        """Step 4: test the new root key once more, then switch every service key and the tenant in one transaction.

        The tenant's row lock, which the creation of a service key takes too, ensures that none keeps the former key.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant, change = _require_known(tx), tx.root_keys.change(step.number)
            staged = tx.root_keys.staged(step.number)
        if change is None:
            raise RootKeyRefused("the change was never started", "request it again")
        if staged is not None:
            row, wrap = staged
            self._by_id(tenant, change.root_key_id).unwrap(context_of(step.tenant_id, row.service, row.version), wrap)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant = tx.tenants.lock()
            if tenant.state not in DECRYPTS | {State.LOCKED}:
                raise TenantNotOperational(tenant.state)
            before = tx.root_keys.change(step.number) or change
            if not tx.root_keys.switch(step.number):
                return SwitchResult(state=tenant.state, switched=False, mode=change.to_mode)
            status = StatusChangeResult(state=tenant.state)
            # The former key caused this lock, because the new one works; after the switch it would be the new one's.
            if LockReason.ROOT_KEY in tenant.locks and before.state != "done":
                status = release_root_key_lock(tx, step, self._outbox, self._locks)
            append_audit_event(
                tx,
                step,
                AuditName.ROOT_KEY_CHANGED,
                change.to_name,
                before=f"{change.from_mode} {change.from_name}",
                after=f"{change.to_mode} {change.to_name}",
                service_keys=str(change.total),
            )
            stored = self._outbox.store(tx, step, tenant, NotificationKind.ROOT_KEY_CHANGED)
        self._root_keys.forget(step.tenant_id)
        if status.state is State.LOCKED:
            self._locks.record_soon(step.tenant_id)
        return SwitchResult(
            state=status.state,
            switched=True,
            mode=change.to_mode,
            notification=NotificationKind.ROOT_KEY_CHANGED if stored else status.notification,
        )

    @activity.defn(name="abandon-root-key")
    def abandon_root_key(self, failure: AbandonInput) -> SwitchResult:
        """End a change without effect: the former root key stays active, and nothing of the new one is kept.

        A completed switch stays in force; its workflow may not have received that result.
        """
        with self._database.tenant_tx(failure.tenant_id) as tx:
            tenant = tx.tenants.lock()
            change = tx.root_keys.change(failure.number)
            tx.root_keys.forget(failure.request_id)
            if change is not None and change.state == "done":
                return SwitchResult(state=tenant.state, switched=True, mode=change.to_mode)
            tx.root_keys.abandon(failure.number, failure.code)
            append_audit_event(
                tx,
                failure,
                AuditName.ROOT_KEY_CHANGED,
                failure.request_id if change is None else change.to_name,
                "failure",
                code=failure.code,
                at=failure.reason,
            )
        self._root_keys.forget(failure.tenant_id)
        return SwitchResult(state=tenant.state, switched=False, mode=RootKeyMode(tenant.root_key_mode))

    def _credentials(self, step: RootKeyStep, place: Place, sealed: str | None) -> Credentials:
        if sealed is None:
            raise RootKeyRefused("the credentials of this request were used already", "enter them again")
        credentials = self._unseal(step.tenant_id, step.request_id, sealed)
        refuse_incomplete(place, credentials)
        return credentials

    def _test(
        self,
        step: RootKeyStep,
        tenant: TenantRow,
        request: RootKeyRequestRow,
        known: EncryptedRootKeyRow | None,
        probe: bytes,
    ) -> "Tested":
        """Return the problems of a root key, and the canary ciphertext of a recorded one without problems."""
        root_key = self._candidate(step, tenant, request.place, request.sealed, known)
        wrong = root_key.validate()
        if wrong or known is None:
            return wrong, b""
        return wrong, verify_wrapped_key(root_key, probe_context(step.tenant_id, known.root_key_id), probe)

    def _candidate(
        self, step: RootKeyStep, tenant: TenantRow, place: Place, sealed: str | None, known: EncryptedRootKeyRow | None
    ) -> RootKey:
        if isinstance(place, PlatformKeyRef):
            return self._root_keys.platform(tenant.region)
        if known is not None:
            return self._root_keys.held(step.tenant_id, known.root_key_id, known.place, known.credentials)
        return self._root_keys.candidate(step.tenant_id, place, self._credentials(step, place, sealed))

    def _by_id(self, tenant: TenantRow, root_key_id: str | None) -> RootKey:
        if root_key_id is None:
            return self._root_keys.platform(tenant.region)
        with self._database.tenant_tx(tenant.tenant_id) as tx:
            row = tx.root_keys.sealed(root_key_id)
        return unwrap_service_key(self._root_keys, tenant.tenant_id, row)


Tested = tuple[Sequence[OpenKcmError], bytes]


def _run_preflight(test: Callable[[], Tested]) -> Tested:
    """Return the result of `test`, or RootKeyTimeout as its only problem after `_PREFLIGHT_SECONDS`.

    Its thread is abandoned then: every call to a key server has a separate timeout.
    """
    pool = ContextThreadPool(1, thread_name_prefix="preflight")
    try:
        return pool.submit(_reject_unexpected, test).result(_PREFLIGHT_SECONDS)
    except TimeoutError:
        slow = f"the preflight did not end within {_PREFLIGHT_SECONDS:g} seconds"
        return (RootKeyTimeout(slow, RootKeyTimeout.hint),), b""
    finally:
        pool.shutdown(wait=False)


def _reject_unexpected(test: Callable[[], Tested]) -> Tested:
    """Convert any other exception to RootKeyRefused: a defect of an adapter fails again in each attempt.

    Only its type is logged, because its text may contain a credential.
    """
    try:
        return test()
    except OpenKcmError:
        raise
    except Exception as failure:  # noqa: BLE001 - each one has the same effect
        workflow_id = activity.info().workflow_id
        log.error("root key not tested", error=type(failure).__name__, workflow_id=workflow_id)  # noqa: TRY400 - see above
        raise RootKeyRefused(
            "the platform cannot test this root key",
            "check its fields; the operator finds the error in the worker's log",
        ) from None


def _require_changeable(tx: TenantTransaction) -> TenantRow:
    tenant = tx.tenants.lock()
    if not may_change_root_key(tenant.state, tenant.locks):
        raise TenantNotOperational(tenant.state)
    return tenant


def _require_known(tx: TenantTransaction) -> TenantRow:
    tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    return tenant


def _result(problems: Sequence[Problem]) -> PreflightResult:
    return PreflightResult(problems=len(problems), code=problems[0].code if problems else "")


def _as_problem(problem: OpenKcmError) -> Problem:
    return Problem(code=problem.code, message=problem.message, hint=problem.hint)
