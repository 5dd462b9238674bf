"""What the pages may ask of the outside; `wiring` chooses who answers."""

from typing import Protocol

from database.interfaces import TenantDatabase


class Door(Protocol):
    """Requests to workflows. Every call waits for its answer and is safe to repeat.

    Raises, all of them: TemporalUnavailable, NotDoneInTime, and UpdateRefused with the workflow's own words.
    """

    def connect_service(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        """Connect a service as the stored request says; its certificate is on record when this returns."""
        ...

    def renew_service(self, tenant_id: str, region: str, service: str) -> None: ...

    def disconnect_service(self, tenant_id: str, region: str, service: str) -> None: ...

    def retry(self, tenant_id: str) -> None:
        """Provision a failed tenant again."""
        ...


__all__ = ["Door", "TenantDatabase"]
