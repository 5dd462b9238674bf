"""What is done inside one transaction, put together from one module per table."""

from psycopg import Connection
from psycopg.rows import TupleRow

from database.agents import Agents
from database.approvals import Approvals
from database.audit_log import AuditStream
from database.boundaries import Boundaries
from database.certificates import Certificates
from database.enrolments import Enrolments
from database.fingerprints import Fingerprints
from database.inbox import Inbox
from database.keys import Keys
from database.leaving import Leaving
from database.objects import ManagedObjects
from database.outbox import Outbox
from database.policies import Policies
from database.protection import Protection
from database.reports import Reports
from database.root_keys import RootKeys
from database.rotations import Rotations
from database.routes import Routes
from database.services import Services
from database.sessions import Sessions
from database.steps import Steps
from database.tenants import Tenants
from database.usage import Usage


class TenantTransaction:
    """One transaction over one tenant's rows."""

    def __init__(self, connection: Connection[TupleRow], tenant_id: str) -> None:
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
        self.outbox: Outbox = Outbox(connection, tenant_id)
        self.services: Services = Services(connection, tenant_id)
        self.enrolments: Enrolments = Enrolments(connection, tenant_id)
        self.objects: ManagedObjects = ManagedObjects(connection, tenant_id)
        self.usage: Usage = Usage(connection, tenant_id)
        self.agents: Agents = Agents(connection, tenant_id)
        self.protection: Protection = Protection(connection, tenant_id)
        self.reports: Reports = Reports(connection, tenant_id)
        self.sessions: Sessions = Sessions(connection, tenant_id)
