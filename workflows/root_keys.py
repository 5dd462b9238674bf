"""Workflows of root keys: monitoring, version checks, changes, and the handlers of the tenant workflow.

MonitorRootKeys runs one activity that checks all root keys of a region. The activity ends only when tenants need a
status change, or after an hour, so a check adds no event to the history. Its findings are recorded before this workflow
receives them. A lost signal is sent again, because the monitoring still finds that root key and lock do not match.

ChangeRootKey moves every service key to another root key. The step numbers are those of docs/root-keys.md, which
explains their order. An early end has no effect: the switch of all service keys is one transaction, after each new wrap
was tested. Until then the former root key is active.
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
    from core.names import ActivityKind
    from workflows.runtime import options as priorities
    from workflows.runtime import options as visibility
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import raise_if_cancelled, run_activity, run_local_activity
    from workflows.runtime.failures import FAILURES, STOPPED, code_of, refusal_of, step_of
    from workflows.runtime.signals import ROOT_KEY_REPORTED, ROTATION_DUE, signal_tenant
    from workflows.runtime.tenant_base import LIVE, StatusHandlers
    from workflows.runtime.update_limits import UpdateKind


@workflow.defn(name="MonitorRootKeys")
class MonitorRootKeys:
    @workflow.run
    async def run(self, watch: WatchRootKeysInput) -> None:
        while not workflow.info().is_continue_as_new_suggested():
            try:
                changed = await workflow.execute_activity_method(
                    RootKeyHealthActivities.watch_root_keys,
                    watch,
                    summary="check the root keys of the region's customers",
                    start_to_close_timeout=timing.WATCH_ATTEMPT,
                    heartbeat_timeout=timing.WATCH_HEARTBEAT,
                    retry_policy=timing.RETRY,
                )
            except ActivityError as failed:
                raise_if_cancelled(failed)
                workflow.logger.warning("root keys not checked", extra={"code": code_of(failed)})
                await workflow.sleep(timing.WATCH_PAUSE, summary="check the root keys again")
                continue
            # All signals in one task, because no root key is checked meanwhile.
            await asyncio.gather(*(signal_tenant(tenant_id, ROOT_KEY_REPORTED) for tenant_id in changed.tenants))
        workflow.continue_as_new(watch)


@workflow.defn(name="PurgeUnusedCredentials")
class PurgeUnusedCredentials:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            RootKeyHealthActivities.forget_untaken_credentials,
            summary="erase unused credentials",
            start_to_close_timeout=timing.BUDGET_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="DetectRootKeyVersions")
class DetectRootKeyVersions:
    """Signals tenants whose root key has a newer, recorded version; their workflows re-wrap all keys."""

    @workflow.run
    async def run(self) -> None:
        behind = await workflow.execute_activity_method(
            RootKeyVersionActivities.notice_root_key_versions,
            summary="read the newest version of each root key",
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
            await run_activity(
                RootKeyActivities.admit_root_key,
                step,
                "1 · record the change and store the credentials",
                deadline=timing.PREFLIGHT_DEADLINE,
            )
            checked = await run_activity(
                RootKeyActivities.preflight_root_key,
                step,
                "2 · test the new root key",
                timing.PREFLIGHT_ATTEMPT,
                timing.PREFLIGHT_DEADLINE,
                kind=ActivityKind.LONG,
            )
            if checked.problems:
                await self._abandon(checked.code, "preflight-root-key")
                return ChangeRootKeyResult(code=checked.code, problems=checked.problems)
            switched = await self._switch()
        except STOPPED as failed:
            switched = await self._abandon(code_of(failed), step_of(failed))
            if not switched.switched:
                return ChangeRootKeyResult(code=code_of(failed))
        await self._announce(switched)
        return ChangeRootKeyResult(mode=switched.mode)

    async def _switch(self) -> SwitchResult:
        """Wrap and switch; another round wraps the key of a service that was connected meanwhile."""
        while True:
            progress = await run_activity(
                RootKeyActivities.wrap_service_keys,
                self._step,
                "3 · wrap every service key under the new root key and test the wrap",
                timing.WRAP_ATTEMPT,
                timing.WRAP_DEADLINE,
                timing.WRAP_HEARTBEAT,
                ActivityKind.PACED,
            )
            workflow.set_current_details(f"**{progress.wrapped} of {progress.total}** service keys are wrapped")
            if progress.more:
                continue
            switched = await run_activity(
                RootKeyActivities.switch_root_key,
                self._step,
                "4 · switch all of them at once",
                deadline=timing.WRAP_DEADLINE,
                kind=ActivityKind.LONG,
            )
            if switched.switched:
                return switched

    async def _abandon(self, code: str, reason: str) -> SwitchResult:
        """End the change without effect, unless a timed-out attempt completed the switch."""
        workflow.set_current_details(f"**Not changed:** `{code}`. The former root key stays active.")
        return await run_local_activity(
            RootKeyActivities.abandon_root_key,
            AbandonInput(**self._step.model_dump(), code=code, reason=reason),
            "ended · erase the new wraps and the credentials",
        )

    async def _announce(self, switched: SwitchResult) -> None:
        if switched.notification is None:
            return
        try:
            await run_activity(
                NotificationActivities.announce,
                AnnounceInput(
                    tenant_id=self._step.tenant_id, operation_id=self._step.operation_id, kind=switched.notification
                ),
                "5 · notify",
                timing.DELIVERY_ATTEMPT,
                timing.DELIVERY_DEADLINE,
                kind=ActivityKind.LONG,
            )
        except ActivityError:
            workflow.logger.warning("notification not sent; the outbox sweep retries")


ROOT_KEY_CHANGE = "a change of the root key"


class RootKeyHandlers(StatusHandlers):
    @workflow.update(name="preflight-root-key", description="Run the preflight of a stored request's root key")
    async def preflight_root_key(self, request: RootKeyRequest) -> None:
        step = RootKeyStep(**self._step("preflight").model_dump(), request_id=request.request_id)
        with self._in_flight.counted(UpdateKind.PREFLIGHT):
            try:
                await run_activity(
                    RootKeyActivities.preflight_root_key,
                    step,
                    "test a root key",
                    timing.PREFLIGHT_ATTEMPT,
                    timing.PREFLIGHT_DEADLINE,
                    kind=ActivityKind.LONG,
                )
            except ActivityError as failed:
                raise refusal_of(failed) from None

    @preflight_root_key.validator
    def _may_preflight(self, request: RootKeyRequest) -> None:
        del request
        self._require_state(LIVE)
        self._in_flight.require_capacity(UpdateKind.PREFLIGHT)

    @workflow.update(name="change-root-key", description="Change to the root key of a stored request")
    async def change_root_key(self, request: RootKeyRequest) -> None:
        if self._is_repeated():
            return
        with self._running(ROOT_KEY_CHANGE):
            await self._change(request)
        self._complete_update()

    @change_root_key.validator
    def _may_change_root_key(self, request: RootKeyRequest) -> None:
        del request
        if self._is_repeated():
            return
        self._require_idle()
        self._require_state(LIVE)  # the activity decides by the recorded locks whether a locked tenant may

    async def _change(self, request: RootKeyRequest) -> None:
        tenant = self._tenant
        self._remember(changes=self._memory.changes + 1)
        try:
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
                task_queue=ids.operation_queue(tenant.region),
                priority=priorities.service(tenant.tenant_id),
                static_summary=f"change the root key of {tenant.tenant_id}",
                search_attributes=self._search_attributes(),
            )
        except FAILURES as stopped:
            raise refusal_of(stopped) from None
        if result.mode is None:
            raise ApplicationError(
                "the root key was not changed; the former one stays active\n"
                f"openkcmctl root-key show {tenant.tenant_id} lists the problems",
                type=result.code,
                non_retryable=True,
            )
        workflow.upsert_search_attributes([visibility.ROOT_KEY_MODE.value_set(result.mode)])
        # The status is read from the tenant's row, because it may have changed during the change or just after it.
        await self._follow_root_key()
