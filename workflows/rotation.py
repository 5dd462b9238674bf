"""Workflows of key rotation: RotateKeys, the hourly run, and the handlers of the tenant workflow.

RotateKeys creates new versions of the tenant key and of service keys, and re-wraps what older versions wrap. The holder
of a root key creates its versions; RotateKeys only re-wraps under the newest one.

The step numbers are those of docs/rotation.md, which explains their order. An early end leaves all keys usable: a new
version becomes active only after a test, and an older tenant key version is retired only when no ciphertext needs it.
The next rotation completes an unfinished one.
"""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from activities.rotation.stalled import StalledRotationActivities
    from activities.rotation.steps import RotationActivities
    from core import names as ids
    from core.messages.base import AnnounceInput
    from core.messages.keys import (
        PlanRotationStep,
        RetireVersionRequest,
        RetireVersionStep,
        RotateInput,
        RotateRequest,
        RotateResult,
        RotationFailedStep,
        RotationProgress,
        RotationStep,
    )
    from core.names import ActivityKind
    from core.tenants.lifecycle import DECRYPTS
    from workflows.root_keys import RootKeyHandlers
    from workflows.runtime import options as priorities
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import (
        raise_if_cancelled,
        run_activity,
        run_key_server_activity,
        run_local_activity,
    )
    from workflows.runtime.failures import FAILURES, STOPPED, code_of, refusal_of, step_of
    from workflows.runtime.signals import ROTATION_DUE, signal_tenant


@workflow.defn(name="RotateKeys")
class RotateKeys:
    @workflow.init
    def __init__(self, rotation: RotateInput) -> None:
        self._step = RotationStep(
            tenant_id=rotation.tenant_id, operation_id=f"rotate-{rotation.number}", number=rotation.number
        )

    @workflow.run
    async def run(self, rotation: RotateInput) -> RotateResult:
        step, request = self._step, rotation.request
        try:
            plan = await run_activity(
                RotationActivities.plan_rotation,
                PlanRotationStep(**step.model_dump(), request=request, scheduled=rotation.scheduled),
                "1 · record the intended rotation",
            )
            if request.tenant_key:
                await run_key_server_activity(
                    RotationActivities.rotate_tenant_key, step, "2 · create a new version of the tenant key"
                )
            if plan.services:
                await self._rotate_service_keys()
            if plan.retires:
                await self._retire_tenant_key()
            elif plan.follows:
                await self._rewrap()
            if request.tenant_key and request.compromised:
                await run_activity(
                    RotationActivities.trim_tenant_key, step, "7 · delete the retired versions of the tenant key"
                )
            if plan.destroys:
                await self._destroy_service_keys()
            ended = await run_local_activity(RotationActivities.finish_rotation, step, "9 · record the end")
        except STOPPED as failed:
            code = code_of(failed)
            workflow.set_current_details(f"**Not finished:** `{code}`. Every key works; the next rotation continues.")
            await run_local_activity(
                RotationActivities.abandon_rotation,
                RotationFailedStep(**step.model_dump(), code=code, reason=step_of(failed)),
                "ended · active versions stay",
            )
            return RotateResult(code=code)
        if ended.notification is not None:
            await self._announce(
                AnnounceInput(tenant_id=step.tenant_id, operation_id=step.operation_id, kind=ended.notification)
            )
        return RotateResult()

    async def _rotate_service_keys(self) -> None:
        while True:
            progress = await run_activity(
                RotationActivities.prepare_service_keys,
                self._step,
                "3 · create new versions of service keys and test each",
                timing.WRAP_ATTEMPT,
                timing.WRAP_DEADLINE,
                timing.WRAP_HEARTBEAT,
                ActivityKind.PACED,
            )
            workflow.set_current_details(f"**{progress.done} of {progress.total}** service keys have a new version")
            if not progress.more:
                break
        await run_activity(
            RotationActivities.activate_service_keys,
            self._step,
            "4 · activate all new versions at once",
            timing.WRAP_ATTEMPT,
            heartbeat=timing.WRAP_HEARTBEAT,
            kind=ActivityKind.LONG,
        )

    async def _retire_tenant_key(self) -> None:
        """Re-wrap and retire; another round re-wraps what was stored under an older version meanwhile."""
        while True:
            progress = await self._rewrap()
            if progress.total:
                await workflow.sleep(timing.SETTLE, summary="wait for processes that have read an old wrap")
            retired = await run_activity(
                RotationActivities.retire_tenant_key, self._step, "6 · retire the older versions of the tenant key"
            )
            if retired.retired:
                return

    async def _rewrap(self) -> RotationProgress:
        while True:
            progress = await run_activity(
                RotationActivities.rewrap_keys,
                self._step,
                "5 · re-wrap under the newest versions of tenant key and root key, and test the wraps",
                timing.WRAP_ATTEMPT,
                timing.WRAP_DEADLINE,
                timing.WRAP_HEARTBEAT,
                ActivityKind.PACED,
            )
            workflow.set_current_details(f"**{progress.done} of {progress.total}** service keys are re-wrapped")
            if not progress.more:
                return progress

    async def _destroy_service_keys(self) -> None:
        """Destroy compromised versions; after the deadline a later rotation destroys those with objects."""
        deadline = workflow.now() + timing.RESEAL_DEADLINE
        while True:
            left = await run_activity(
                RotationActivities.destroy_compromised_keys,
                self._step,
                "8 · destroy compromised service keys without objects",
                timing.WRAP_ATTEMPT,
                heartbeat=timing.WRAP_HEARTBEAT,
            )
            if not left.objects or workflow.now() >= deadline:
                return
            workflow.set_current_details(
                f"**{left.objects} objects** are still encrypted under compromised service keys"
            )
            await workflow.sleep(timing.RESEAL_PAUSE, summary="wait until the crypto service re-encrypts them")

    async def _announce(self, announce: AnnounceInput) -> None:
        try:
            await run_activity(
                NotificationActivities.announce,
                announce,
                "10 · notify",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_DEADLINE,
                kind=ActivityKind.LONG,
            )
        except ActivityError:
            workflow.logger.warning("notification not sent; the outbox sweep retries")


@workflow.defn(name="RotateDueKeys")
class RotateDueKeys:
    """Signals tenants with due keys; each tenant workflow decides what to rotate."""

    @workflow.run
    async def run(self) -> None:
        await self._alert_on_stalled_rotations()
        due = await workflow.execute_activity_method(
            RotationActivities.find_due_rotations,
            summary="find tenants with due keys",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        await asyncio.gather(*(signal_tenant(tenant_id, ROTATION_DUE) for tenant_id in due.tenants))

    async def _alert_on_stalled_rotations(self) -> None:
        """Alert before the rotations start again; a failure of the alert does not stop them."""
        try:
            await workflow.execute_activity_method(
                StalledRotationActivities.check_rotations,
                summary="alert on stalled rotations",
                start_to_close_timeout=timing.BUDGET_ATTEMPT,
                schedule_to_close_timeout=timing.ALARM_DEADLINE,
                heartbeat_timeout=timing.HEARTBEAT,
                retry_policy=timing.RETRY,
            )
        except ActivityError as failed:
            raise_if_cancelled(failed)
            workflow.logger.warning("no alert on stalled rotations")


ROTATION, RETIREMENT = "a rotation of keys", "a retirement of a service key version"


class RotationHandlers(RootKeyHandlers):
    @workflow.update(name="rotate-keys", description="Create new versions of keys and re-wrap under them")
    async def rotate_keys(self, request: RotateRequest) -> None:
        if self._is_repeated():
            return
        with self._running(ROTATION):
            await self._rotate_on_demand(request)
        self._complete_update()

    async def _rotate_on_demand(self, request: RotateRequest) -> None:
        try:
            result = await self._rotate(request, scheduled=False)
        except FAILURES as stopped:
            raise refusal_of(stopped) from None
        if result.code:
            raise ApplicationError(
                "the rotation did not complete; all keys still work\n"
                f"openkcmctl tenant show {self._tenant.tenant_id} shows its progress; fix the cause and rotate again",
                type=result.code,
                non_retryable=True,
            )

    @rotate_keys.validator
    def _may_rotate_keys(self, request: RotateRequest) -> None:
        del request
        if self._is_repeated():
            return
        self._require_idle()
        self._require_state(DECRYPTS)

    @workflow.update(name="retire-service-key", description="Destroy a deactivated version of a service key")
    async def retire_service_key(self, request: RetireVersionRequest) -> None:
        with self._running(RETIREMENT):
            await self._retire(request)

    @retire_service_key.validator
    def _may_retire_service_key(self, request: RetireVersionRequest) -> None:
        del request
        self._require_idle()
        self._require_state(DECRYPTS)

    @workflow.signal(name=ROTATION_DUE, description="A key exceeds its cryptoperiod, or its root key has a new version")
    async def rotation_due(self) -> None:
        await self._until_loaded()
        # A running operation is not disturbed; the keys are still due an hour later.
        if self._operation is not None or self._memory.state not in DECRYPTS:
            return
        with self._running(ROTATION):
            try:
                due = await run_local_activity(
                    RotationActivities.look_for_due_rotation, self._step("due"), "find due keys"
                )
                if due.request is not None:
                    await self._rotate(due.request, scheduled=True)
            except FAILURES as stopped:
                workflow.logger.warning("due keys not rotated", extra={"code": code_of(stopped)})

    async def _retire(self, request: RetireVersionRequest) -> None:
        step = RetireVersionStep(**self._step("retire").model_dump(), **request.model_dump())
        try:
            await run_local_activity(RotationActivities.retire_service_key, step, "destroy a version of a service key")
        except ActivityError as failed:
            raise refusal_of(failed) from None

    async def _rotate(self, request: RotateRequest, *, scheduled: bool) -> RotateResult:
        tenant = self._tenant
        self._remember(rotations=self._memory.rotations + 1)
        number = self._memory.rotations
        return await workflow.execute_child_workflow(
            RotateKeys.run,
            RotateInput(
                tenant_id=tenant.tenant_id,
                region=tenant.region,
                number=number,
                request=request,
                scheduled=scheduled,
            ),
            id=ids.rotation_workflow(tenant.tenant_id, number),
            task_queue=ids.operation_queue(tenant.region),
            priority=priorities.service(tenant.tenant_id),
            static_summary=f"rotate keys of {tenant.tenant_id}",
            search_attributes=self._search_attributes(),
        )
