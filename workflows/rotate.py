"""RotateKeys: new versions of the tenant key and of service keys, and everything that lay under older ones.

A version of the root key is made where that is held; here what lay under the older ones is wrapped anew.

The steps carry the numbers of docs/rotation.md, which argues their order. Whatever ends it early leaves keys that work:
a new version takes over only when it was seen to open, and an older one of the tenant key is retired only when nothing
lies under it. What was left undone the next rotation does.
"""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from activities.rotation import RotationActivities
    from core.messages.base import AnnounceInput
    from core.messages.keys import (
        PlanRotationStep,
        RotateInput,
        RotateResult,
        RotationFailedStep,
        RotationProgress,
        RotationStep,
    )
    from workflows import timing
    from workflows.refusals import code_of
    from workflows.steps import note, perform

ROTATION_DUE = "rotation-due"
"""The signal by which a tenant's entity is asked to look at the age of its keys."""


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
            plan = await perform(
                RotationActivities.plan_rotation,
                PlanRotationStep(**step.model_dump(), request=request, scheduled=rotation.scheduled),
                "1 · write down what is rotated",
            )
            if request.tenant_key:
                await perform(RotationActivities.rotate_tenant_key, step, "2 · a new version of the tenant key")
            if plan.services:
                await self._rotate_service_keys()
            if plan.retires:
                await self._retire_tenant_key()
            elif plan.follows:
                await self._rewrap()
            if request.tenant_key and request.compromised:
                await perform(
                    RotationActivities.trim_tenant_key, step, "7 · delete the retired versions of the tenant key"
                )
            if plan.destroys:
                await self._destroy_service_keys()
            ended = await note(RotationActivities.finish_rotation, step, "9 · the end, on record")
        except ActivityError as failed:
            code = code_of(failed)
            workflow.set_current_details(f"**Not finished:** `{code}`. Every key works; the next rotation goes on.")
            await note(
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
        await perform(
            RotationActivities.prepare_service_keys,
            self._step,
            "3 · make new versions of service keys and open each",
            timing.WRAP_ATTEMPT,
            timing.WRAP_PATIENCE,
            timing.WRAP_HEARTBEAT,
        )
        await perform(
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
            retired = await perform(
                RotationActivities.retire_tenant_key, self._step, "6 · retire the older versions of the tenant key"
            )
            if retired.retired:
                return

    async def _rewrap(self) -> RotationProgress:
        progress = await perform(
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
            left = await perform(
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
            await perform(
                NotificationActivities.announce,
                announce,
                "10 · announce",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("announcement left to the outbox sweep")
