"""The part of a tenant's entity that rolls its certificate authority and has its revocation lists made anew."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.revocation import RevocationActivities
    from core import names as ids
    from core.messages.services import RollAuthorityInput, RollAuthorityResult
    from core.messages.tenants import TenantInput
    from workflows import priorities, timing
    from workflows.authority import RollAuthority
    from workflows.certificates import AUTHORITY_DUE
    from workflows.entity import LIVE, Entity
    from workflows.service import CERTIFICATES_REVOKED
    from workflows.steps import perform

_OPERATION = "a roll of the certificate authority"


class AuthorityPart(Entity):
    def __init__(self, tenant: TenantInput) -> None:
        super().__init__(tenant)
        self._listing = asyncio.Lock()
        self._unlisted = False

    @workflow.update(name="roll-authority", description="Have certificates come from another authority of the tenant")
    async def roll_authority(self) -> None:
        with self._at_work(_OPERATION):
            result = await self._roll()
        if result.code:
            raise ApplicationError(
                "the authority was not rolled and the one before it is in force\n"
                f"openkcm tenant show {self._tenant.tenant_id} says which there are, the workflow what stopped it",
                type=result.code,
                non_retryable=True,
            )

    @roll_authority.validator
    def _may_roll_authority(self) -> None:
        self._refuse_while_at_work()
        self._refuse_unless_in(LIVE)

    @workflow.signal(name=AUTHORITY_DUE, description="A third of the authority's life is left")
    async def authority_due(self) -> None:
        # Whoever is busy or away is told again within the hour, with a third of a year to go.
        if self._operation is None and self._memory.state in LIVE:
            with self._at_work(_OPERATION):
                await self._roll()

    @workflow.signal(name=CERTIFICATES_REVOKED, description="Certificates of a service were revoked")
    async def certificates_revoked(self) -> None:
        """Publish once for all that were revoked until then: a list takes in everything that is on record."""
        self._unlisted = True
        async with self._listing:
            if not self._unlisted:
                return
            self._unlisted = False
            try:
                await perform(
                    RevocationActivities.publish_revocation_list,
                    self._step("revocation-list"),
                    "publish the revocation list",
                    patience=timing.DELIVERY_PATIENCE,
                )
            except ActivityError:
                workflow.logger.warning("revocation list left to the schedule")

    async def _roll(self) -> RollAuthorityResult:
        tenant = self._tenant
        self._remember(rolls=self._memory.rolls + 1)
        return await workflow.execute_child_workflow(
            RollAuthority.run,
            RollAuthorityInput(tenant_id=tenant.tenant_id, region=tenant.region, number=self._memory.rolls),
            id=ids.authority_workflow(tenant.tenant_id, self._memory.rolls),
            priority=priorities.service(tenant.tenant_id),
            static_summary=f"roll the certificate authority of {tenant.tenant_id}",
            search_attributes=self._found_by(),
        )
