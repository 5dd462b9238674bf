"""The part of a tenant's entity that tries and changes its root key."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.root_keys import RootKeyActivities
    from core import names as ids
    from core.messages.keys import ChangeRootKeyInput, RootKeyRequest, RootKeyStep
    from workflows import priorities, timing, visibility
    from workflows.entity import LIVE
    from workflows.refusals import refusal_of
    from workflows.root_key import ChangeRootKey
    from workflows.steps import perform
    from workflows.tenant_standing import StandingPart

ROOT_KEY_CHANGE = "a change of the root key"


class RootKeyPart(StandingPart):
    @workflow.update(name="preflight-root-key", description="Try the root key of a stored request, change nothing")
    async def preflight_root_key(self, request: RootKeyRequest) -> None:
        step = RootKeyStep(**self._step("preflight").model_dump(), request_id=request.request_id)
        try:
            await perform(RootKeyActivities.preflight_root_key, step, "try a root key", timing.PREFLIGHT_ATTEMPT)
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
                f"openkcm root-key show {tenant.tenant_id} says what was found",
                type=result.code,
                non_retryable=True,
            )
        workflow.upsert_search_attributes([visibility.ROOT_KEY_MODE.value_set(result.mode)])
        # How the tenant stands now is asked of its row: it may have been moved while the change ran, or just after.
        await self._follow_root_key()
