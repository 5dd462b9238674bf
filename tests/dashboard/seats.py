"""Page contexts for the tests of pages: a user of ACME at their tenant, on a real database."""

from datetime import UTC, datetime

from core.tenants.roles import Person, PersonRole
from dashboard.page_context import PageContext, ServiceUrls
from dashboard.workflow_bridge import WorkflowBridge
from database.connection.database import Database

TENANT = "acme-corp-12345"
ADDRESSES = ServiceUrls("http://127.0.0.1:1", "http://127.0.0.1:2", "https://127.0.0.1:3", "127.0.0.1:4", None)


class UnusedGateway:
    """A gateway for pages that send nothing to a workflow: every request fails."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"unexpected workflow request: {name}")


def a_page_context(
    database: Database, role: PersonRole = PersonRole.AUDITOR, gateway: WorkflowBridge | None = None
) -> PageContext:
    person = Person("ada", "Ada", TENANT, frozenset({role}))
    return PageContext(
        person, TENANT, "192.0.2.7", database, gateway or UnusedGateway(), ADDRESSES, lambda: datetime.now(UTC)
    )
