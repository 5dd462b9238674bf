"""What this process needs of the others: the door into Temporal, and its part of the database."""

from collections.abc import Sequence
from typing import Protocol

from database.interfaces import TenantDatabase


class WorkflowDoor(Protocol):
    """The part of `workflows.gateway.Gateway` that the endpoint uses."""

    async def enable(self, tenant_id: str, region: str, event_id: str) -> None:
        """Start or signal the tenant's workflow, safe to repeat; raises TemporalUnavailable."""
        ...

    async def disable(self, tenant_id: str, event_id: str) -> None:
        """Tell the tenant's workflow; raises TenantUnknown while it is not there, and TemporalUnavailable."""
        ...

    async def discover_service(self, tenant_id: str, region: str, service: str) -> None:
        """Have the workflow of a service wait for its agent, safe to repeat; raises TemporalUnavailable."""
        ...

    async def connect_service(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        """Connect a service as the stored request says; again with the same request joins what runs.

        Raises:
            TemporalUnavailable, NotDoneInTime: not done yet.
            CallerError: refused, with the code, message and hint of the refusal.
        """
        ...


class EventDatabase(TenantDatabase, Protocol):
    """The database as the role `marketplace` sees it."""

    def unstarted_events(self, limit: int) -> Sequence[tuple[str, str, str, str]]:
        """Return (tenant id, event id, region, kind) of accepted events no workflow has yet, oldest first."""
        ...

    def pending_enrolments(self, limit: int) -> Sequence[tuple[str, str, str, str]]:
        """Return (tenant id, enrolment id, region, service) of enrolments that have no answer yet, oldest first."""
        ...
