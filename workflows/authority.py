"""RollAuthority: another certificate authority for a tenant, with the one before believed while its leaves last.

The steps carry the numbers of docs/certificates.md, which argues their order. The overlap is no part of this workflow:
when it is over is on record with the leaves, and a schedule ends it (`workflows/certificates.py`). So a roll takes
seconds, its history is short, and the tenant is free for other operations during the days in which two are believed.
"""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.authorities import AuthorityActivities
    from activities.revocation import RevocationActivities
    from core import names as ids
    from core.messages.base import StepInput
    from core.messages.services import (
        AuthorityFailureInput,
        AuthorityPlan,
        AuthorityStep,
        RollAuthorityInput,
        RollAuthorityResult,
    )
    from workflows import timing
    from workflows.refusals import code_of
    from workflows.service import RENEW_SOON
    from workflows.steps import note, perform

_TOLD_AT_ONCE = 50


@workflow.defn(name="RollAuthority")
class RollAuthority:
    @workflow.init
    def __init__(self, roll: RollAuthorityInput) -> None:
        self._step = StepInput(tenant_id=roll.tenant_id, operation_id=f"authority-roll-{roll.number}")

    @workflow.run
    async def run(self, roll: RollAuthorityInput) -> RollAuthorityResult:
        del roll
        workflow.set_current_details("**Rolling** the certificate authority")
        try:
            plan = await note(AuthorityActivities.plan_authority, self._step, "1 · record what is to be made")
        except ActivityError as failed:
            return self._unchanged(code_of(failed))
        ended = await self._make(plan)
        if ended.code:
            return self._unchanged(ended.code)
        workflow.set_current_details(
            f"**Rolled:** certificates come from version {plan.version}. The former authority is believed until its "
            "last certificate has expired, and then ended."
        )
        await self._renew_services()
        await self._publish_list()
        return RollAuthorityResult()

    async def _make(self, plan: AuthorityPlan) -> RollAuthorityResult:
        step = AuthorityStep(**self._step.model_dump(), **plan.model_dump())
        try:
            await perform(
                AuthorityActivities.prepare_authority, step, "2 · make the key's next version, have it signed"
            )
            await perform(AuthorityActivities.verify_authority, step, "3 · let it issue, and verify what it issued")
            await note(AuthorityActivities.activate_authority, step, "4 · let new certificates come from it")
        except ActivityError as failed:
            return await note(
                AuthorityActivities.abandon_authority,
                AuthorityFailureInput(**step.model_dump(), code=code_of(failed), reason=failed.activity_type),
                "ended · what was prepared is never believed",
            )
        return RollAuthorityResult()

    async def _renew_services(self) -> None:
        """Tell the connected services; what fails here is made good by each one's own timer."""
        try:
            found = await perform(
                AuthorityActivities.unrenewed_services, self._step, "5 · whose certificates are to be renewed"
            )
        except ActivityError:
            workflow.logger.warning("services left to their own timers")
            return
        for first in range(0, len(found.services), _TOLD_AT_ONCE):
            await asyncio.gather(*map(self._tell, found.services[first : first + _TOLD_AT_ONCE]))

    async def _tell(self, service: str) -> None:
        handle = workflow.get_external_workflow_handle(ids.service_workflow(self._step.tenant_id, service))
        try:
            await handle.signal(RENEW_SOON)
        except ApplicationError:
            workflow.logger.warning("no workflow to tell of a new authority")

    async def _publish_list(self) -> None:
        try:
            await perform(
                RevocationActivities.publish_revocation_list,
                self._step,
                "6 · publish its revocation list",
                patience=timing.DELIVERY_PATIENCE,
            )
        except ActivityError:
            workflow.logger.warning("revocation list left to the schedule")

    @staticmethod
    def _unchanged(code: str) -> RollAuthorityResult:
        workflow.set_current_details(f"**Not rolled:** `{code}`. The authority before it is in force.")
        return RollAuthorityResult(code=code)
