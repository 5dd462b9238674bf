"""Audit records of commands: each command on a tenant is recorded in its stream with its intent and its outcome.

The operator's role may append only such records (`okcm.audit_append_command`). The recorded user comes from the
operating system and is not authenticated.
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
    """Run the block between two audit records: its intent before, its outcome after.

    If the intent cannot be recorded, the block does not run. If the outcome cannot be recorded, the error of the block
    is raised and its effect remains.

    Raises:
        TenantUnknown: no tenant has this id.
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
