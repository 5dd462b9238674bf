"""Enrolments of agents, the tokens that prove them, and services that were discovered. Imports no psycopg."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from openkcm.contract.enrolment import EnrolmentState, Proof
from openkcm.contract.services import ServiceKind


@dataclass(frozen=True, slots=True)
class JoinTokenRow:
    """A token to be stored: its hash, and for which service it is good, for how long."""

    token_hash: str = field(repr=False)
    service: str
    kind: ServiceKind
    made_by: str
    lifetime: timedelta


@dataclass(frozen=True, slots=True)
class EnrolmentRow:
    """One request of an agent. `code`, `message` and `hint` say why it was refused; the hashes are SHA-256, hex."""

    enrolment_id: str
    service: str
    kind: ServiceKind
    proof: Proof
    proof_hash: str = field(repr=False)
    key_hash: str
    ticket_hash: str = field(repr=False)
    state: EnrolmentState = EnrolmentState.PENDING
    code: str | None = None
    message: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class DiscoveryRow:
    service: str
    kind: ServiceKind
    discovered_at: datetime
