"""The repositories of one transaction, one per table.

A `TenantTransaction` reads and writes the rows of one tenant only. PostgreSQL enforces that, by row-level security with
a signed context. All changes of one transaction are committed together or not at all: the row, its audit record, the
provisioning step and the notification.
"""

from functools import cached_property
from typing import TYPE_CHECKING

from psycopg import Connection
from psycopg.rows import TupleRow

from database.approvals import Approvals
from database.audit import AuditStream
from database.certificates import Certificates
from database.isolation import Boundaries
from database.keys import Fingerprints, Keys
from database.offboarding import Leaving
from database.provisioning import Inbox, Routes, Steps
from database.root_keys import RootKeys
from database.rotation import Rotations
from database.services.repository import Services
from database.tenants import Policies, Sessions, Tenants
from database.usage import Usage

if TYPE_CHECKING:
    from database.notifications import NotificationTargets, Outbox
    from database.reports import Reports
    from database.services.agents import Agents
    from database.services.enrolment import Enrolments
    from database.services.managed_objects import ManagedObjects
    from database.services.protected_fields import Protection


class TenantTransaction:
    """One transaction over the rows of one tenant.

    A repository that no verdict over a tenant needs is loaded when it is first used: a command waits for each module.
    """

    def __init__(self, connection: Connection[TupleRow], tenant_id: str) -> None:
        self._connection = connection
        self.tenant_id = tenant_id
        self.tenants: Tenants = Tenants(connection, tenant_id)
        self.leaving: Leaving = Leaving(connection, tenant_id)
        self.policy: Policies = Policies(connection, tenant_id)
        self.approvals: Approvals = Approvals(connection, tenant_id)
        self.audit: AuditStream = AuditStream(connection, tenant_id)
        self.steps: Steps = Steps(connection, tenant_id)
        self.keys: Keys = Keys(connection, tenant_id)
        self.fingerprints: Fingerprints = Fingerprints(connection, tenant_id)
        self.certificates: Certificates = Certificates(connection, tenant_id)
        self.routes: Routes = Routes(connection, tenant_id)
        self.root_keys: RootKeys = RootKeys(connection, tenant_id)
        self.rotations: Rotations = Rotations(connection, tenant_id)
        self.boundaries: Boundaries = Boundaries(connection, tenant_id)
        self.inbox: Inbox = Inbox(connection, tenant_id)
        self.services: Services = Services(connection, tenant_id)
        self.usage: Usage = Usage(connection, tenant_id)
        self.sessions: Sessions = Sessions(connection, tenant_id)

    @cached_property
    def outbox(self) -> "Outbox":
        from database.notifications import Outbox  # noqa: PLC0415 - loaded at its first use

        return Outbox(self._connection, self.tenant_id)

    @cached_property
    def targets(self) -> "NotificationTargets":
        from database.notifications import NotificationTargets  # noqa: PLC0415 - loaded at its first use

        return NotificationTargets(self._connection, self.tenant_id)

    @cached_property
    def enrolments(self) -> "Enrolments":
        from database.services.enrolment import Enrolments  # noqa: PLC0415 - loaded at its first use

        return Enrolments(self._connection, self.tenant_id)

    @cached_property
    def objects(self) -> "ManagedObjects":
        from database.services.managed_objects import ManagedObjects  # noqa: PLC0415 - loaded at its first use

        return ManagedObjects(self._connection, self.tenant_id)

    @cached_property
    def agents(self) -> "Agents":
        from database.services.agents import Agents  # noqa: PLC0415 - loaded at its first use

        return Agents(self._connection, self.tenant_id)

    @cached_property
    def protection(self) -> "Protection":
        from database.services.protected_fields import Protection  # noqa: PLC0415 - loaded at its first use

        return Protection(self._connection, self.tenant_id)

    @cached_property
    def reports(self) -> "Reports":
        from database.reports import Reports  # noqa: PLC0415 - loaded at its first use

        return Reports(self._connection, self.tenant_id)
