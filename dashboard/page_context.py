"""The context of a page: user, tenant and dependencies. Created at each rerun.

Also the steps that surround each action of a page: the permission check and the audit records before and after.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import uuid4

from core.errors.tenants import PermissionDenied, SessionEnded
from core.tenants.roles import Permission, Person
from dashboard.components.navigation import Navigation
from dashboard.workflow_bridge import WorkflowBridge
from database.connection.database import Database
from database.platform.operators import Operations
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome
from openkcm.errors import OpenKcmError


@dataclass(frozen=True, slots=True)
class ServiceUrls:
    """Addresses of the platform for users and services. `temporal_ui` is None without a configured address."""

    dashboard: str
    marketplace: str
    crypto_https: str
    crypto_kmip: str
    temporal_ui: str | None
    enrolment: str = ""
    """Address at which agents enrol."""


@dataclass(frozen=True, slots=True)
class PageContext:
    """`tenant_id` is the tenant of the route, which the authorizer has verified; OPERATORS on the operations page.

    `platform` spans tenants and is therefore None for every role but operator.
    """

    person: Person
    tenant_id: str
    source: str
    database: Database
    workflows: WorkflowBridge
    addresses: ServiceUrls
    now: Callable[[], datetime]
    provisioning_slo_seconds: float = 180.0
    """The provisioning SLO, from the click to ready; the setting of the same name."""
    grace_seconds: float = 60.0
    """How long a root key may be unreachable before its tenant is locked; the setting `root_key_grace_seconds`."""
    approval_ttl_hours: float = 24.0
    """How long a request waits for a second person; the setting of the same name."""
    offboard_grace_days: float = 30.0
    """How long an offboarding tenant can be restored; the setting of the same name."""
    root_key_shards: int = 1
    """The parts of root key monitoring; the setting of the same name."""
    intake_key: str = ""
    """The public key (PEM) that encrypts credentials of root keys; only the worker can decrypt them."""
    aws_principal: str | None = None
    """The principal that customers' AWS roles trust; the setting of the same name."""
    plain_webhooks: bool = False
    """Whether webhooks without TLS may be added: only where the setting `webhook_networks` permits a network."""
    present: Callable[[], bool] = lambda: True
    """Whether the session is still valid; counts as activity. Raises DatabaseUnavailable.

    Dialogs and fragments rerun without the authorizer, so they call this before they show or do anything.
    """
    admitted: Callable[[], bool] = lambda: False
    """Whether the authorizer has admitted the user in the present run: then its fragments need no second check."""
    left: Callable[[], bool] = lambda: False
    """Whether the session has ended, without counting as activity: for automatic reruns, which must not prevent the
    idle timeout. Raises DatabaseUnavailable.
    """
    platform: Operations | None = None
    navigation: Navigation = field(default_factory=Navigation)
    """Links to the other pages of the route."""

    def may(self, permission: Permission) -> bool:
        """Return whether the user has the permission; pages hide actions without it."""
        return self.person.may(permission)

    def event(self, name: AuditName, subject: str, outcome: Outcome, **details: str) -> AuditEvent:
        """Return an audit event with this user as actor, for the stream of the transaction that appends it."""
        event_id = f"dashboard/{uuid4().hex}"
        return AuditEvent(
            event_id=event_id,
            name=name,
            actor_kind="human",
            actor=self.person.subject,
            subject=subject,
            outcome=outcome,
            correlation_id=event_id,
            source=self.source,
            details=details,
        )


def require(context: PageContext, permission: Permission, name: AuditName, subject: str) -> None:
    """Raise SessionEnded when the session is over; record and raise PermissionDenied when the role lacks it."""
    if not context.present():
        raise SessionEnded
    if context.may(permission):
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.audit.append(context.event(AuditName.ACTION_REFUSED, subject, "refused", action=name))
    raise PermissionDenied


def ask(context: PageContext, name: AuditName, subject: str, send: Callable[[], None], **details: str) -> None:
    """Send a request to a workflow and record its result."""
    try:
        send()
    except OpenKcmError as failed:
        with context.database.tenant_tx(context.tenant_id) as tx:
            tx.audit.append(context.event(name, subject, "failure", code=failed.code, **details))
        raise
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.audit.append(context.event(name, subject, "success", **details))
