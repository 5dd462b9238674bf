"""What the pages may ask of the outside; `wiring` chooses who answers."""

from typing import Any, Protocol

from database.interfaces import AuditDatabase, OperatorQuestions, TenantDatabase
from tenancy.leaving_messages import LeaveRequest
from tenancy.messages import StandingMove
from tenancy.policy import TenantPolicy
from tenancy.rotation_messages import RotateRequest


class Door(Protocol):
    """Requests to workflows. Every call waits for its answer and is safe to repeat.

    Raises, all of them: TemporalUnavailable, NotDoneInTime, and UpdateRefused with the workflow's own words.
    """

    def connect_service(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        """Connect a service as the stored request says; its certificate is on record when this returns."""
        ...

    def renew_service(self, tenant_id: str, region: str, service: str) -> None: ...

    def disconnect_service(self, tenant_id: str, region: str, service: str) -> None: ...

    def change_standing(self, tenant_id: str, move: StandingMove) -> None:
        """Suspend, resume, lock or unlock a tenant; it is so when this returns."""
        ...

    def preflight_root_key(self, tenant_id: str, request_id: str) -> None:
        """Try the root key of a stored request; what was found is on record when this returns."""
        ...

    def change_root_key(self, tenant_id: str, request_id: str) -> None:
        """Put every service key under the root key of a stored request; it is in force when this returns.

        Refused with the code of what stopped it, after which the former key is in force; NotDoneInTime: it goes on.
        """
        ...

    def rotate_keys(self, tenant_id: str, request: RotateRequest) -> None:
        """Rotate keys of a tenant; it is done when this returns, and what became of it is on record.

        Refused with the code of what stopped it, after which every key that worked works; NotDoneInTime: it goes on.
        """
        ...

    def retire_service_key(self, tenant_id: str, service: str, version: int) -> None:
        """Destroy a version of a service key that encrypts nothing any more, for good."""
        ...

    def roll_authority(self, tenant_id: str) -> None:
        """Have new certificates come from another authority; those of the one before go on until they expire."""
        ...

    def offboard(self, tenant_id: str, request: LeaveRequest) -> None:
        """Let a tenant leave; nothing of it works when this returns, and until the grace is over it can be restored."""
        ...

    def restore(self, tenant_id: str) -> None:
        """Bring a tenant back that is leaving; it stands as before when this returns."""
        ...

    def change_policy(self, tenant_id: str, policy: TenantPolicy) -> None:
        """Put another policy in force; it is so when this returns."""
        ...

    def propose(self, tenant_id: str, approval_id: str) -> None:
        """Let a stored request wait for a second person; it does when this returns."""
        ...

    def decide(self, tenant_id: str, approval_id: str) -> None:
        """Do what the votes on a request say; what was approved is done when this returns."""
        ...

    def make_report(self, tenant_id: str, region: str, report_id: str) -> None:
        """Have a stored request made into a report; its files are on record when this returns.

        NotDoneInTime: it is made all the same, or waits for what is down. The same id again makes no other.
        """
        ...

    def retry(self, tenant_id: str) -> None:
        """Provision a failed tenant again."""
        ...


class MarketplaceSender(Protocol):
    """The platform's marketplace, played; for development. Raises ComponentFailed and the endpoint's own refusals."""

    def enable(self, tenant_id: str, organization: str, region: str) -> None:
        """Send the signed event of the one click."""
        ...

    def status(self, tenant_id: str) -> dict[str, Any]:
        """Return the endpoint's status document of a tenant; refused as tenant_unknown when there is none."""
        ...


__all__ = ["AuditDatabase", "Door", "MarketplaceSender", "OperatorQuestions", "TenantDatabase"]
