"""The part of a tenant's entity that changes what the tenant asks of its keys."""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.policies import PolicyActivities
    from core.errors.tenants import PolicyRefused
    from core.messages.tenants import PolicyInput, PolicyRequest
    from core.tenants.policy import parse_policy
    from workflows.entity import LIVE
    from workflows.refusals import refusal, refusal_of
    from workflows.steps import note
    from workflows.tenant_root_key import RootKeyPart


class PolicyPart(RootKeyPart):
    @workflow.update(name="change-policy", description="Change how old keys may become and what needs two people")
    async def change_policy(self, request: PolicyRequest) -> None:
        await self._set_policy(request)

    @change_policy.validator
    def _may_change_policy(self, request: PolicyRequest) -> None:
        self._refuse_unless_in(LIVE)
        try:
            parse_policy(request.tenant_key_days, request.service_key_days, request.four_eyes)
        except PolicyRefused as refused:
            raise refusal(refused) from None

    async def _set_policy(self, request: PolicyRequest) -> None:
        step = PolicyInput(**self._step("policy").model_dump(), **request.model_dump())
        try:
            await note(PolicyActivities.change_policy, step, "change the policy")
        except ActivityError as failed:
            raise refusal_of(failed) from None
