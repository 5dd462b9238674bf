"""WatchRootKeys: tries the root keys that a region's customers hold, for ever, and tells those concerned of a change.

One activity tries them all and ends only when a tenant's standing must follow its root key (or once an hour), so that a
check leaves no event behind. What it found is on record before this workflow hears of it; a signal that is lost is sent
again, because the watch goes on to find that root key and standing do not agree.

ChangeRootKey: every service key under another root key, with the former one in force until the last moment.

The steps carry the numbers of docs/root-keys.md, which argues their order. Whatever ends it early ends it without
effect: nothing is switched before every service key was opened from its new wrap, and then all are switched at once.

The part of a tenant's entity that tries and changes its root key.
"""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from activities.root_keys.change import RootKeyActivities
    from activities.root_keys.health import RootKeyHealthActivities
    from activities.root_keys.versions import RootKeyVersionActivities
    from core import names as ids
    from core.messages.base import AnnounceInput
    from core.messages.keys import (
        AbandonInput,
        ChangeRootKeyInput,
        ChangeRootKeyResult,
        RootKeyRequest,
        RootKeyStep,
        SwitchResult,
        WatchRootKeysInput,
    )
    from workflows.runtime import options as priorities
    from workflows.runtime import options as visibility
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity, run_local_activity
    from workflows.runtime.failures import code_of, refusal_of
    from workflows.runtime.signals import ROOT_KEY_REPORTED, ROTATION_DUE, signal_tenant
    from workflows.runtime.tenant_base import LIVE, StatusHandlers


@workflow.defn(name="WatchRootKeys")
class MonitorRootKeys:
    @workflow.run
    async def run(self, watch: WatchRootKeysInput) -> None:
        while not workflow.info().is_continue_as_new_suggested():
            changed = await workflow.execute_activity_method(
                RootKeyHealthActivities.watch_root_keys,
                watch,
                summary="try every root key that a customer of the region holds",
                start_to_close_timeout=timing.WATCH_ATTEMPT,
                heartbeat_timeout=timing.WATCH_HEARTBEAT,
                retry_policy=timing.RETRY,
            )
            # All in one task: nobody's root key is tried while they are told.
            await asyncio.gather(*(signal_tenant(tenant_id, ROOT_KEY_REPORTED) for tenant_id in changed.tenants))
        workflow.continue_as_new(watch)


@workflow.defn(name="ForgetUntakenCredentials")
class PurgeUnusedCredentials:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            RootKeyHealthActivities.forget_untaken_credentials,
            summary="forget credentials that nobody came for",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="NoticeRootKeyVersions")
class DetectRootKeyVersions:
    """Tells those whose root key has a newer version, on record by then; their entities wrap everything anew."""

    @workflow.run
    async def run(self) -> None:
        behind = await workflow.execute_activity_method(
            RootKeyVersionActivities.notice_root_key_versions,
            summary="ask each root key for its newest version",
            start_to_close_timeout=timing.NOTICE_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        await asyncio.gather(*(signal_tenant(tenant_id, ROTATION_DUE) for tenant_id in behind.tenants))


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
            await run_activity(RootKeyActivities.admit_root_key, step, "1 · record the change and take the credentials")
            checked = await run_activity(
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
            progress = await run_activity(
                RootKeyActivities.wrap_service_keys,
                self._step,
                "3 · wrap every service key under the new root key too, and open it from there",
                timing.WRAP_ATTEMPT,
                timing.WRAP_PATIENCE,
                timing.WRAP_HEARTBEAT,
            )
            workflow.set_current_details(f"**{progress.wrapped} of {progress.total}** service keys are wrapped")
            switched = await run_activity(
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
        return await run_local_activity(
            RootKeyActivities.abandon_root_key,
            AbandonInput(**self._step.model_dump(), code=code, reason=reason),
            "ended · forget the new wraps and the credentials",
        )

    async def _announce(self, switched: SwitchResult) -> None:
        if switched.told is None:
            return
        try:
            await run_activity(
                NotificationActivities.announce,
                AnnounceInput(tenant_id=self._step.tenant_id, operation_id=self._step.operation_id, kind=switched.told),
                "5 · announce",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("announcement left to the outbox sweep")


ROOT_KEY_CHANGE = "a change of the root key"


class RootKeyHandlers(StatusHandlers):
    @workflow.update(name="preflight-root-key", description="Try the root key of a stored request, change nothing")
    async def preflight_root_key(self, request: RootKeyRequest) -> None:
        step = RootKeyStep(**self._step("preflight").model_dump(), request_id=request.request_id)
        try:
            await run_activity(RootKeyActivities.preflight_root_key, step, "try a root key", timing.PREFLIGHT_ATTEMPT)
        except ActivityError as failed:
            raise refusal_of(failed) from None

    @preflight_root_key.validator
    def _may_preflight(self, request: RootKeyRequest) -> None:
        del request
        self._refuse_unless_in(LIVE)

    @workflow.update(name="change-root-key", description="Put every service key under the root key of a stored request")
    async def change_root_key(self, request: RootKeyRequest) -> None:
        with self._at_work(ROOT_KEY_CHANGE):
            await self._change(request)

    @change_root_key.validator
    def _may_change_root_key(self, request: RootKeyRequest) -> None:
        del request
        self._refuse_while_at_work()
        self._refuse_unless_in(LIVE)  # whether a locked one may is decided with its locks, which are on record

    async def _change(self, request: RootKeyRequest) -> None:
        tenant = self._tenant
        self._remember(changes=self._memory.changes + 1)
        result = await workflow.execute_child_workflow(
            ChangeRootKey.run,
            ChangeRootKeyInput(
                tenant_id=tenant.tenant_id,
                region=tenant.region,
                number=self._memory.changes,
                request_id=request.request_id,
                approval_id=request.approval_id,
            ),
            id=ids.root_key_workflow(tenant.tenant_id, self._memory.changes),
            priority=priorities.service(tenant.tenant_id),
            static_summary=f"change the root key of {tenant.tenant_id}",
            search_attributes=self._found_by(),
        )
        if result.mode is None:
            raise ApplicationError(
                "the root key was not changed and the former one is in force\n"
                f"openkcmctl root-key show {tenant.tenant_id} says what was found",
                type=result.code,
                non_retryable=True,
            )
        workflow.upsert_search_attributes([visibility.ROOT_KEY_MODE.value_set(result.mode)])
        # How the tenant stands now is asked of its row: it may have been moved while the change ran, or just after.
        await self._follow_root_key()
