"""What a command does to a tenant, or hands out of it, is in the tenant's stream: what was asked, and how it ended.

The operator's role may append such records and no others (`okcm.audit_append_command`). Who sat at the terminal is what
the machine says; it is told, and nobody has proven it.
"""

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from core.correlation import correlated, correlation_id
from core.errors.tenants import TenantUnknown
from database.connection.database import Database
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome
from openkcm.errors import CallerError, OpenKcmError

ACTOR = "operator"
_LONGEST = 100


def command_event(name: AuditName, subject: str, outcome: Outcome, **details: str) -> AuditEvent:
    """Return the record of what an operator does, by the correlation id of the command that does it."""
    event_id = f"command/{uuid4().hex}"
    return AuditEvent(
        event_id=event_id,
        name=name,
        actor_kind="human",
        actor=ACTOR,
        subject=subject,
        outcome=outcome,
        correlation_id=correlation_id.get() or event_id,
        details={"user": _user(), "machine": socket.gethostname()[:_LONGEST]} | details,
    )


@contextmanager
def on_record(database: Database, tenant_id: str, name: AuditName, subject: str = "", **details: str) -> Iterator[None]:
    """Do something that an operator asks for, on record as intended beforehand and with its outcome afterwards.

    Whoever is not on record has nothing to ask of: raises TenantUnknown. Of what could not be recorded beforehand
    nothing is done; when the outcome cannot be recorded, what was done is done and its error is the one raised.
    """
    subject = subject or tenant_id
    with correlated(f"command/{uuid4().hex}"):
        with database.tenant_tx(tenant_id) as tx:
            if tx.tenants.get() is None:
                raise TenantUnknown
            tx.audit.append_command(command_event(name, subject, "intended", **details))
        try:
            yield
        except OpenKcmError as failed:
            outcome: Outcome = "refused" if isinstance(failed, CallerError) else "failure"
            with suppress(OpenKcmError), database.tenant_tx(tenant_id) as tx:
                tx.audit.append_command(command_event(name, subject, outcome, code=failed.code, **details))
            raise
        with database.tenant_tx(tenant_id) as tx:
            tx.audit.append_command(command_event(name, subject, "success", **details))


def _user() -> str:
    try:
        return getpass.getuser()[:_LONGEST]
    except (KeyError, OSError):  # a user id without a name
        return ""
