"""The part of a tenant's entity that rotates its keys, on demand and when they are due."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from activities.rotation import RotationActivities
    from core import names as ids
    from core.messages.keys import RetireVersionRequest, RetireVersionStep, RotateInput, RotateRequest, RotateResult
    from core.tenants.lifecycle import DECRYPTS
    from workflows import priorities
    from workflows.refusals import refusal_of
    from workflows.rotate import ROTATION_DUE, RotateKeys
    from workflows.steps import note
    from workflows.tenant_root_key import RootKeyPart

ROTATION, RETIREMENT = "a rotation of keys", "the end of a version of a service key"


class RotationPart(RootKeyPart):
    @workflow.update(name="rotate-keys", description="Make new versions of keys and wrap everything under them")
    async def rotate_keys(self, request: RotateRequest) -> None:
        with self._at_work(ROTATION):
            await self._rotate_on_demand(request)

    async def _rotate_on_demand(self, request: RotateRequest) -> None:
        result = await self._rotate(request, scheduled=False)
        if result.code:
            raise ApplicationError(
                "the rotation did not get to its end; every key that worked works\n"
                f"openkcm tenant show {self._tenant.tenant_id} says how far it got; once mended, ask for it again",
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
                due = await note(RotationActivities.look_for_due_rotation, self._step("due"), "look what is due")
                if due.request is not None:
                    await self._rotate(due.request, scheduled=True)
            except (ActivityError, ChildWorkflowError):
                workflow.logger.warning("keys that are due were not rotated")

    async def _retire(self, request: RetireVersionRequest) -> None:
        step = RetireVersionStep(**self._step("retire").model_dump(), **request.model_dump())
        try:
            await note(RotationActivities.retire_service_key, step, "destroy a version of a service key")
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
