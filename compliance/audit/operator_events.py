"""Audit events of commands that operators run."""

import getpass
import socket
from uuid import uuid4

from core.correlation import correlation_id
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome

ACTOR = "operator"
_LONGEST = 100


def command_event(name: AuditName, subject: str, outcome: Outcome, **details: str) -> AuditEvent:
    """Return the audit event of an operator's command, with the correlation id of the command."""
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


def _user() -> str:
    try:
        return getpass.getuser()[:_LONGEST]
    except (KeyError, OSError):  # a user id without a name
        return ""
