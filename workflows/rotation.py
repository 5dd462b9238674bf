"""RotateKeys: new versions of the tenant key and of service keys, and everything that lay under older ones.

A version of the root key is made where that is held; here what lay under the older ones is wrapped anew.

The steps carry the numbers of docs/rotation.md, which argues their order. Whatever ends it early leaves keys that work:
a new version takes over only when it was seen to open, and an older one of the tenant key is retired only when nothing
lies under it. What was left undone the next rotation does.

The part of a tenant's entity that rotates its keys, on demand and when they are due.
"""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

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
    from core.tenants.lifecycle import DECRYPTS
    from workflows.root_keys import RootKeyHandlers
    from workflows.runtime import options as priorities
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity, run_local_activity
    from workflows.runtime.failures import code_of, refusal_of
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
                "1 · write down what is rotated",
            )
            if request.tenant_key:
                await run_activity(RotationActivities.rotate_tenant_key, step, "2 · a new version of the tenant key")
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
            ended = await run_local_activity(RotationActivities.finish_rotation, step, "9 · the end, on record")
        except ActivityError as failed:
            code = code_of(failed)
            workflow.set_current_details(f"**Not finished:** `{code}`. Every key works; the next rotation goes on.")
            await run_local_activity(
                RotationActivities.abandon_rotation,
                RotationFailedStep(**step.model_dump(), code=code, reason=failed.activity_type),
                "ended · what took over stays",
            )
            return RotateResult(code=code)
        if ended.told is not None:
            await self._announce(
                AnnounceInput(tenant_id=step.tenant_id, operation_id=step.operation_id, kind=ended.told)
            )
        return RotateResult()

    async def _rotate_service_keys(self) -> None:
        await run_activity(
            RotationActivities.prepare_service_keys,
            self._step,
            "3 · make new versions of service keys and open each",
            timing.WRAP_ATTEMPT,
            timing.WRAP_PATIENCE,
            timing.WRAP_HEARTBEAT,
        )
        await run_activity(
            RotationActivities.activate_service_keys,
            self._step,
            "4 · the new versions take over, all at once",
            timing.WRAP_ATTEMPT,
            heartbeat=timing.WRAP_HEARTBEAT,
        )

    async def _retire_tenant_key(self) -> None:
        """Wrap anew and retire; what was stored under an older version in between is wrapped in another round."""
        while True:
            progress = await self._rewrap()
            if progress.total:
                await workflow.sleep(timing.SETTLE, summary="whoever has read an old wrap opens it")
            retired = await run_activity(
                RotationActivities.retire_tenant_key, self._step, "6 · retire the older versions of the tenant key"
            )
            if retired.retired:
                return

    async def _rewrap(self) -> RotationProgress:
        progress = await run_activity(
            RotationActivities.rewrap_keys,
            self._step,
            "5 · wrap everything under the newest versions of tenant key and root key, and open it from there",
            timing.WRAP_ATTEMPT,
            timing.WRAP_PATIENCE,
            timing.WRAP_HEARTBEAT,
        )
        workflow.set_current_details(f"**{progress.done} of {progress.total}** service keys are wrapped anew")
        return progress

    async def _destroy_service_keys(self) -> None:
        """Destroy what is compromised; after a while, what holds objects still is left to a later rotation."""
        deadline = workflow.now() + timing.RESEAL_PATIENCE
        while True:
            left = await run_activity(
                RotationActivities.destroy_compromised_keys,
                self._step,
                "8 · destroy compromised service keys that nothing is sealed under",
            )
            if not left.objects or workflow.now() >= deadline:
                return
            workflow.set_current_details(f"**{left.objects} objects** are still sealed under compromised service keys")
            await workflow.sleep(timing.RESEAL_PAUSE, summary="the crypto service seals them anew")

    async def _announce(self, announce: AnnounceInput) -> None:
        try:
            await run_activity(
                NotificationActivities.announce,
                announce,
                "10 · announce",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("announcement left to the outbox sweep")


@workflow.defn(name="RotateDueKeys")
class RotateDueKeys:
    """Tells those concerned; whether and what is rotated is each tenant's entity's to decide."""

    @workflow.run
    async def run(self) -> None:
        if workflow.patched("stuck-rotations"):
            await self._tell_of_stuck_rotations()
        due = await workflow.execute_activity_method(
            RotationActivities.find_due_rotations,
            summary="find whose keys are older than they want",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            retry_policy=timing.RETRY,
        )
        await asyncio.gather(*(signal_tenant(tenant_id, ROTATION_DUE) for tenant_id in due.tenants))

    async def _tell_of_stuck_rotations(self) -> None:
        """Before they are tried again; but that nobody can be told keeps no key from being rotated."""
        try:
            await workflow.execute_activity_method(
                StalledRotationActivities.check_rotations,
                summary="raise the alarm for rotations that did not come to their end",
                start_to_close_timeout=timing.HEADS_ATTEMPT,
                schedule_to_close_timeout=timing.ALARM_PATIENCE,
                heartbeat_timeout=timing.HEARTBEAT,
                retry_policy=timing.RETRY,
            )
        except ActivityError:
            workflow.logger.warning("stuck rotations were not told of")


ROTATION, RETIREMENT = "a rotation of keys", "the end of a version of a service key"


class RotationHandlers(RootKeyHandlers):
    @workflow.update(name="rotate-keys", description="Make new versions of keys and wrap everything under them")
    async def rotate_keys(self, request: RotateRequest) -> None:
        with self._at_work(ROTATION):
            await self._rotate_on_demand(request)

    async def _rotate_on_demand(self, request: RotateRequest) -> None:
        result = await self._rotate(request, scheduled=False)
        if result.code:
            raise ApplicationError(
                "the rotation did not get to its end; every key that worked works\n"
                f"openkcmctl tenant show {self._tenant.tenant_id} says how far it got; once mended, ask for it again",
                type=result.code,
                non_retryable=True,
            )

    @rotate_keys.validator
    def _may_rotate_keys(self, request: RotateRequest) -> None:
        del request
        self._refuse_while_at_work()
        self._refuse_unless_in(DECRYPTS)

    @workflow.update(name="retire-service-key", description="Destroy a version of a service key that encrypts nothing")
    async def retire_service_key(self, request: RetireVersionRequest) -> None:
        with self._at_work(RETIREMENT):
            await self._retire(request)

    @retire_service_key.validator
    def _may_retire_service_key(self, request: RetireVersionRequest) -> None:
        del request
        self._refuse_while_at_work()
        self._refuse_unless_in(DECRYPTS)

    @workflow.signal(name=ROTATION_DUE, description="A key is older than it may be, or its root key has a new version")
    async def rotation_due(self) -> None:
        # Whoever is at work is left alone; what is due then still is an hour later.
        if self._operation is not None or self._memory.state not in DECRYPTS:
            return
        with self._at_work(ROTATION):
            try:
                due = await run_local_activity(
                    RotationActivities.look_for_due_rotation, self._step("due"), "look what is due"
                )
                if due.request is not None:
                    await self._rotate(due.request, scheduled=True)
            except (ActivityError, ChildWorkflowError):
                workflow.logger.warning("keys that are due were not rotated")

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
            priority=priorities.service(tenant.tenant_id),
            static_summary=f"rotate keys of {tenant.tenant_id}",
            search_attributes=self._found_by(),
        )
