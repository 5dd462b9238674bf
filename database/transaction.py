"""What is done inside one transaction, put together from one module per table."""

from psycopg import Connection
from psycopg.rows import TupleRow

from database import interfaces
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


class Transaction:
    """Implements `interfaces.TenantTransaction` on a connection whose context is set."""

    def __init__(self, connection: Connection[TupleRow], tenant_id: str) -> None:
        self.tenant_id = tenant_id
        self.tenants: interfaces.Tenants = Tenants(connection, tenant_id)
        self.leaving: interfaces.Leaving = Leaving(connection, tenant_id)
        self.policy: interfaces.Policies = Policies(connection, tenant_id)
        self.approvals: interfaces.Approvals = Approvals(connection, tenant_id)
        self.audit: interfaces.AuditStream = AuditStream(connection, tenant_id)
        self.steps: interfaces.Steps = Steps(connection, tenant_id)
        self.keys: interfaces.Keys = Keys(connection, tenant_id)
        self.fingerprints: interfaces.Fingerprints = Fingerprints(connection, tenant_id)
        self.certificates: interfaces.Certificates = Certificates(connection, tenant_id)
        self.routes: interfaces.Routes = Routes(connection, tenant_id)
        self.root_keys: interfaces.RootKeys = RootKeys(connection, tenant_id)
        self.rotations: interfaces.Rotations = Rotations(connection, tenant_id)
        self.boundaries: interfaces.Boundaries = Boundaries(connection, tenant_id)
        self.inbox: interfaces.Inbox = Inbox(connection, tenant_id)
        self.outbox: interfaces.Outbox = Outbox(connection, tenant_id)
        self.services: interfaces.Services = Services(connection, tenant_id)
        self.enrolments: interfaces.Enrolments = Enrolments(connection, tenant_id)
        self.objects: interfaces.ManagedObjects = ManagedObjects(connection, tenant_id)
        self.usage: interfaces.Usage = Usage(connection, tenant_id)
        self.agents: interfaces.Agents = Agents(connection, tenant_id)
        self.protection: interfaces.Protection = Protection(connection, tenant_id)
        self.reports: interfaces.Reports = Reports(connection, tenant_id)
        self.sessions: interfaces.Sessions = Sessions(connection, tenant_id)
