"""Seats for the tests of pages: a person of ACME at their tenant, on a real database."""

from datetime import UTC, datetime

from core.tenants.roles import Person, PersonRole
from dashboard.page_context import PageContext, ServiceUrls
from dashboard.workflow_bridge import WorkflowBridge
from database.connection.database import Database

TENANT = "acme-corp-12345"
ADDRESSES = ServiceUrls("http://127.0.0.1:1", "http://127.0.0.1:2", "https://127.0.0.1:3", "127.0.0.1:4", None)


class ClosedDoor:
    """A door for pages that ask nothing of a workflow: whoever tries fails."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"nobody asks for {name} here")


def a_seat(
    database: Database, role: PersonRole = PersonRole.AUDITOR, door: WorkflowBridge | None = None
) -> PageContext:
    person = Person("ada", "Ada", TENANT, frozenset({role}))
    return PageContext(
        person, TENANT, "192.0.2.7", database, door or ClosedDoor(), ADDRESSES, lambda: datetime.now(UTC)
    )
