"""Where somebody sits: who they are, at which tenant, and what a page may use. Made anew at each rerun.

What every action of a page does around what it asks for: whether somebody may, and the record before and after.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from core.errors.tenants import PermissionDenied, SessionEnded
from core.tenants.roles import Permission, Person
from dashboard.workflow_bridge import WorkflowBridge
from database.connection.database import Database
from database.platform.operators import Operations
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome
from openkcm.errors import OpenKcmError


@dataclass(frozen=True, slots=True)
class ServiceUrls:
    """Where things are, as people and services reach them. `temporal_ui` is None where nobody said where it is."""

    dashboard: str
    marketplace: str
    crypto_https: str
    crypto_kmip: str
    temporal_ui: str | None
    enrolment: str = ""
    """Where agents find the platform and enrol."""


@dataclass(frozen=True, slots=True)
class PageContext:
    """`tenant_id` is the place's tenant, which the guard has seen to be the person's own; OPERATORS at their desk.

    `platform` spans tenants and is therefore None for everybody but operators.
    """

    person: Person
    tenant_id: str
    source: str
    database: Database
    door: WorkflowBridge
    addresses: ServiceUrls
    now: Callable[[], datetime]
    promise_seconds: float = 180.0
    """What tenants are promised, from the click to ready; the setting of the same name."""
    grace_seconds: float = 60.0
    """For how long a root key may be out of reach before its tenant is locked; the setting `root_key_grace_seconds`."""
    approval_hours: float = 24.0
    """How long what takes two people waits for the second; the setting of the same name."""
    offboard_grace_days: float = 30.0
    """How long a tenant that leaves can be restored; the setting of the same name."""
    intake_key: str = ""
    """The public key (PEM) to which credentials of root keys are sealed at once; only the worker opens them."""
    aws_principal: str | None = None
    """Whom customers' roles at AWS trust; the setting of the same name."""
    present: Callable[[], bool] = lambda: True
    """Whether the sign-on still holds, which counts as a use of it; raises DatabaseUnavailable.

    Dialogs and parts of pages rerun without the guard, so they ask before they show or do something.
    """
    left: Callable[[], bool] = lambda: False
    """Whether the sign-on has ended, asked without using it: for what reruns by itself, or nobody would be idle."""
    platform: Operations | None = None

    def may(self, permission: Permission) -> bool:
        """Return whether the person may do something here; what they may not do is not offered to them."""
        return self.person.may(permission)

    def event(self, name: AuditName, subject: str, outcome: Outcome, **details: str) -> AuditEvent:
        """Return an audit event in which this person acts, for the stream of the transaction it is appended in."""
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


def require(seat: PageContext, permission: Permission, name: AuditName, subject: str) -> None:
    """Raise SessionEnded when the session is over, and PermissionDenied, recorded, when the role lacks it."""
    if not seat.present():
        raise SessionEnded
    if seat.may(permission):
        return
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(AuditName.ACTION_REFUSED, subject, "refused", action=name))
    raise PermissionDenied


def ask(seat: PageContext, name: AuditName, subject: str, what: Callable[[], None], **details: str) -> None:
    """Ask a workflow and put on record what became of it."""
    try:
        what()
    except OpenKcmError as failed:
        with seat.database.tenant_tx(seat.tenant_id) as tx:
            tx.audit.append(seat.event(name, subject, "failure", code=failed.code, **details))
        raise
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(name, subject, "success", **details))
