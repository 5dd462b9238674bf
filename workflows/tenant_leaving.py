"""The part of a tenant's entity that lets it leave, brings it back within the grace, and ends with it.

The grace and what comes after it are a workflow of their own (`OffboardTenant`), which outlives this one. Who comes
first, restoring or destroying, is decided by the tenant's row; what is remembered here only refuses early.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from activities.leaving import LeavingActivities
    from core import names as ids
    from core.errors.tenants import IllegalMove
    from core.messages.tenants import LeaveInput, LeaveReason, LeaveRequest, LeavingResult, OffboardInput
    from core.tenants.lifecycle import Move, State, moves_from
    from core.tenants.provisioning import EventKind
    from workflows import priorities
    from workflows.entity import LIVE
    from workflows.offboard import OffboardTenant
    from workflows.refusals import code_of, refusal, refusal_of
    from workflows.service import TENANT_GONE
    from workflows.steps import note
    from workflows.tenant_standing import StandingPart

LEAVING = "leaving"
_STILL_ENDING = timedelta(seconds=1)
"""How long the run of a leaving that was undone is given to end before the next one is tried to be begun again."""


class LeavingPart(StandingPart):
    _gone = False

    @workflow.update(name="offboard", description="Let the tenant leave: a grace, then its keys are destroyed for good")
    async def offboard(self, request: LeaveRequest) -> None:
        with self._at_work(LEAVING):
            await self._leave_on_demand(request)

    async def _leave_on_demand(self, request: LeaveRequest) -> None:
        try:
            await self._leave(request)
        except ActivityError as failed:
            raise refusal_of(failed) from None

    @offboard.validator
    def _may_offboard(self, request: LeaveRequest) -> None:
        del request
        self._refuse_while_at_work()
        if self._memory.state not in LIVE | {State.LEAVING}:
            raise refusal(IllegalMove(self._memory.state, Move.LEAVE, moves_from(self._memory.state)))

    @workflow.update(name="restore", description="Bring a tenant that is leaving back to where it was")
    async def restore(self) -> None:
        try:
            await self._come_back()
        except ActivityError as failed:
            raise refusal_of(failed) from None

    @restore.validator
    def _may_restore(self) -> None:
        self._refuse_while_at_work()
        if self._memory.state is not State.LEAVING:
            raise refusal(IllegalMove(self._memory.state, Move.RESTORE, moves_from(self._memory.state)))

    @workflow.signal(name=TENANT_GONE, description="Everything of the tenant is destroyed and erased")
    def tenant_gone(self) -> None:
        if self._memory.state is State.LEAVING:
            self._enter(State.OFFBOARDED)
            self._gone = True

    @property
    def _may_follow_wish(self) -> bool:
        """Whether the marketplace's last word waits and nothing hinders it."""
        return self._memory.wish is not None and self._operation is None

    def _wish_for(self, kind: EventKind) -> None:
        """Keep the marketplace's last word: nobody is there to be refused, so it waits for what runs."""
        self._remember(wish=kind)

    async def _follow_wish(self) -> None:
        wish = self._memory.wish
        self._remember(wish=None)
        try:
            if wish is EventKind.SERVICE_DISABLED and self._memory.state in LIVE:
                with self._at_work(LEAVING):
                    await self._leave(LeaveRequest(reason=LeaveReason.MARKETPLACE))
            elif wish is EventKind.SERVICE_ENABLED and self._memory.state is State.LEAVING:
                # A customer who enables again within the grace wants the same tenant back.
                await self._come_back()
        except ActivityError as failed:
            workflow.logger.warning("event of the marketplace not followed", extra={"code": code_of(failed)})

    async def _leave(self, request: LeaveRequest) -> None:
        """Leave, or join a leaving that is under way; its workflow is begun again should somebody have ended it."""
        async with self._standing:
            anew = self._memory.state is not State.LEAVING
            if anew:
                self._remember(leavings=self._memory.leavings + 1)
            step = LeaveInput(**self._step("leave").model_dump(), **request.model_dump())
            begun = await note(LeavingActivities.begin_leaving, step, "1 · leave")
            self._stand(step, begun)
            while not await self._begin_offboarding(begun) and anew:
                await workflow.sleep(_STILL_ENDING, summary="the leaving before this one is ending")

    async def _begin_offboarding(self, begun: LeavingResult) -> bool:
        """Begin the workflow of the grace; False when there is one."""
        tenant = self._tenant
        try:
            child = await workflow.start_child_workflow(
                OffboardTenant.run,
                OffboardInput(
                    tenant_id=tenant.tenant_id,
                    region=tenant.region,
                    number=self._memory.leavings,
                    since=begun.since,
                    until=begun.until,
                ),
                id=ids.offboard_workflow(tenant.tenant_id),
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                priority=priorities.service(tenant.tenant_id),
                # No static summary: that would lie under this workflow's own key, which does not outlive it.
                search_attributes=self._found_by(),
            )
        except WorkflowAlreadyStartedError:
            return False
        # It ends as it may, cancelled for one; how is on record and not looked at here.
        child.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return True

    async def _come_back(self) -> None:
        async with self._standing:
            step = self._step("restore")
            self._stand(step, await note(LeavingActivities.restore_tenant, step, "restore the tenant"))
            # Before anybody else's turn: a leaving that was begun anew must not be what is ended.
            try:
                await workflow.get_external_workflow_handle(ids.offboard_workflow(self._tenant.tenant_id)).cancel()
            except ApplicationError:
                workflow.logger.info("no leaving to end")
        # Whether the root key does its part was not looked at while nothing could be opened anyway.
        await self._follow_root_key()
