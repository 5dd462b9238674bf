"""The part of a tenant's entity that moves its standing: suspended or not, locked or not."""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.standing import StandingActivities
    from core.errors.tenants import IllegalMove
    from core.messages.tenants import StandingInput, StandingMove, StandingRequest
    from core.tenants.lifecycle import Move, moves_from
    from workflows.boundaries import BOUNDARIES_REPORTED
    from workflows.entity import LIVE, Entity
    from workflows.refusals import code_of, refusal, refusal_of
    from workflows.root_keys import ROOT_KEY_REPORTED
    from workflows.steps import note


class StandingPart(Entity):
    @workflow.update(name="change-standing", description="Suspend, resume, lock or unlock the tenant")
    async def change_standing(self, request: StandingRequest) -> None:
        await self._move(request)

    @change_standing.validator
    def _may_change_standing(self, request: StandingRequest) -> None:
        if self._memory.state not in LIVE:
            # What clears a breach unlocks, as the life of a tenant has it.
            move = Move.UNLOCK if request.move is StandingMove.CLEAR_BREACH else Move(request.move)
            raise refusal(IllegalMove(self._memory.state, move, moves_from(self._memory.state)))

    async def _move(self, request: StandingRequest) -> None:
        async with self._standing:
            step = StandingInput(**self._step(request.move).model_dump(), **request.model_dump())
            try:
                self._stand(step, await note(StandingActivities.change_standing, step, f"{step.move} the tenant"))
            except ActivityError as failed:
                raise refusal_of(failed) from None

    @workflow.signal(name=BOUNDARIES_REPORTED, description="The newest examination of the tenant found a breach")
    async def boundaries_reported(self) -> None:
        async with self._standing:
            step = self._step("boundaries")
            try:
                self._stand(step, await note(StandingActivities.follow_boundaries, step, "follow the examination"))
            except ActivityError as failed:
                workflow.logger.warning("standing not changed", extra={"code": code_of(failed)})

    @workflow.signal(name=ROOT_KEY_REPORTED, description="The root key's health asks for another standing")
    async def root_key_reported(self) -> None:
        await self._follow_root_key()

    async def _follow_root_key(self) -> None:
        async with self._standing:
            step = self._step("root-key-health")
            try:
                self._stand(step, await note(StandingActivities.follow_root_key, step, "follow the root key"))
            except ActivityError as failed:
                workflow.logger.warning("standing not changed", extra={"code": code_of(failed)})
