"""What somebody does to let an agent enrol: asked again whether they may, and on record by the database itself."""

import secrets
from datetime import timedelta

from core.tenants.roles import Permission
from dashboard.acting import require
from dashboard.seat import Seat
from database.commands import MadeToken, make_join_token
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_service_name
from openkcm.contract.services import ServiceKind


def make_token(seat: Seat, service: str, kind: ServiceKind, lifetime: timedelta) -> MadeToken:
    """Make a join token; its text lies in the caller's hands and nowhere else.

    Raises:
        InvalidName, TenantClosed, ServiceConflict, SessionEnded, ActionRefused: nothing was made.
    """
    name = parse_service_name(service.strip())
    require(seat, Permission.MANAGE_SERVICES, AuditName.JOIN_TOKEN_REQUESTED, name)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        return make_join_token(tx, name, kind, seat.person.subject, lifetime, secrets.token_urlsafe(32))
