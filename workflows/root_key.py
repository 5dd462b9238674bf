"""ChangeRootKey: every service key under another root key, with the former one in force until the last moment.

The steps carry the numbers of docs/root-keys.md, which argues their order. Whatever ends it early ends it without
effect: nothing is switched before every service key was opened from its new wrap, and then all are switched at once.
"""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from activities.root_keys import RootKeyActivities
    from core.messages.base import AnnounceInput
    from core.messages.keys import AbandonInput, ChangeRootKeyInput, ChangeRootKeyResult, RootKeyStep, SwitchResult
    from workflows import timing
    from workflows.refusals import code_of
    from workflows.steps import note, perform


@workflow.defn(name="ChangeRootKey")
class ChangeRootKey:
    @workflow.init
    def __init__(self, change: ChangeRootKeyInput) -> None:
        self._step = RootKeyStep(
            tenant_id=change.tenant_id,
            operation_id=f"root-key-{change.number}",
            request_id=change.request_id,
            approval_id=change.approval_id,
            number=change.number,
        )

    @workflow.run
    async def run(self, change: ChangeRootKeyInput) -> ChangeRootKeyResult:
        step = self._step
        workflow.set_current_details(f"**Changing** to the root key of request `{change.request_id}`")
        try:
            await perform(RootKeyActivities.admit_root_key, step, "1 · record the change and take the credentials")
            checked = await perform(
                RootKeyActivities.preflight_root_key, step, "2 · try the new root key", timing.PREFLIGHT_ATTEMPT
            )
            if checked.problems:
                await self._abandon(checked.code, "preflight-root-key")
                return ChangeRootKeyResult(code=checked.code, problems=checked.problems)
            switched = await self._switch()
        except ActivityError as failed:
            switched = await self._abandon(code_of(failed), failed.activity_type)
            if not switched.switched:
                return ChangeRootKeyResult(code=code_of(failed))
        await self._announce(switched)
        return ChangeRootKeyResult(mode=switched.mode)

    async def _switch(self) -> SwitchResult:
        """Wrap and switch; a service that was connected in between has its key wrapped in another round."""
        while True:
            progress = await perform(
                RootKeyActivities.wrap_service_keys,
                self._step,
                "3 · wrap every service key under the new root key too, and open it from there",
                timing.WRAP_ATTEMPT,
                timing.WRAP_PATIENCE,
                timing.WRAP_HEARTBEAT,
            )
            workflow.set_current_details(f"**{progress.wrapped} of {progress.total}** service keys are wrapped")
            switched = await perform(
                RootKeyActivities.switch_root_key,
                self._step,
                "4 · switch all of them at once",
                patience=timing.WRAP_PATIENCE,
            )
            if switched.switched:
                return switched

    async def _abandon(self, code: str, reason: str) -> SwitchResult:
        """End it without effect, unless it was switched in an attempt that was given up too soon."""
        workflow.set_current_details(f"**Not changed:** `{code}`. The former root key is in force.")
        return await note(
            RootKeyActivities.abandon_root_key,
            AbandonInput(**self._step.model_dump(), code=code, reason=reason),
            "ended · forget the new wraps and the credentials",
        )

    async def _announce(self, switched: SwitchResult) -> None:
        if switched.told is None:
            return
        try:
            await perform(
                NotificationActivities.announce,
                AnnounceInput(tenant_id=self._step.tenant_id, operation_id=self._step.operation_id, kind=switched.told),
                "5 · announce",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("announcement left to the outbox sweep")
