"""What a command does to a tenant, or hands out of it, is in the tenant's stream: what was asked, and how it ended.

The operator's role may append such records and no others (`okcm.audit_append_command`). Who sat at the terminal is what
the machine says; it is told, and nobody has proven it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from compliance.audit.operator_events import command_event
from core.correlation import correlated
from core.errors.tenants import TenantUnknown
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName, Outcome
from openkcm.errors import CallerError, OpenKcmError


@contextmanager
def audited(database: Database, tenant_id: str, name: AuditName, subject: str = "", **details: str) -> Iterator[None]:
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
