"""Enrolments of agents, the tokens that prove them, and services that were discovered. Imports no psycopg."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from tenancy.enrolment import EnrolmentState, Proof
from tenancy.services import ServiceKind


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


class Enrolments(Protocol):
    def add_token(self, token: JoinTokenRow) -> datetime:
        """Store a token, which the database puts on record in the audit stream; return when it expires."""
        ...

    def use_token(self, token_hash: str, service: str, kind: ServiceKind, enrolment_id: str) -> bool:
        """Let an enrolment use a token; False when it is not there, is for another service, expired or was used."""
        ...

    def begin(self, enrolment: EnrolmentRow) -> bool:
        """Store an enrolment as pending; False when its proof was used before."""
        ...

    def of_proof(self, proof_hash: str) -> EnrolmentRow | None:
        """Return the enrolment that used a proof."""
        ...

    def get(self, enrolment_id: str) -> EnrolmentRow | None: ...

    def settle(self, enrolment_id: str, refused: tuple[str, str, str] | None = None) -> None:
        """Say once what became of an enrolment: issued, or refused with code, message and hint."""
        ...

    def known_kind(self, service: str) -> ServiceKind | None:
        """Return as what kind a service is on record or was discovered."""
        ...

    def discover(self, service: str, kind: ServiceKind) -> None:
        """Put on record that a service is there; again changes nothing."""
        ...

    def discovered(self) -> Sequence[DiscoveryRow]:
        """Return what was discovered, by name, whether it was connected since or not."""
        ...
