"""Enrolments of agents, their join tokens, and discovered services."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from core.errors.platform import DatabaseRefused
from database.repository import Repository
from openkcm.contract.enrolment import EnrolmentState, Proof
from openkcm.contract.services import ServiceKind

_ENROLMENT = (
    "select enrolment_id, service, kind, proof, proof_hash, key_hash, ticket_hash, state, code, message, hint"
    " from okcm.enrolment"
)
_CODE, _TEXT = 60, 500


@dataclass(frozen=True, slots=True)
class JoinTokenRow:
    """A join token to be stored: its hash, its service and its lifetime."""

    token_hash: str = field(repr=False)
    service: str
    kind: ServiceKind
    made_by: str
    lifetime: timedelta


@dataclass(frozen=True, slots=True)
class EnrolmentRow:
    """An enrolment request. `code`, `message` and `hint` explain a rejection; the hashes are SHA-256, hex."""

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


class DiscoveryRow(NamedTuple):
    service: str
    kind: ServiceKind
    discovered_at: datetime


class Enrolments(Repository):
    def add_token(self, token: JoinTokenRow) -> datetime:
        """Store a token and return its expiry; the database logs it in the audit stream."""
        # now() is the start of the transaction, so the expiry is never later than the limit after `made_at`.
        made = self.connection.execute(
            "insert into okcm.join_token (tenant_id, token_hash, service, kind, made_by, expires_at)"
            " values (%s, %s, %s, %s, %s, now() + %s) returning expires_at",
            [self.tenant_id, token.token_hash, token.service, token.kind, token.made_by, token.lifetime],
        ).fetchone()
        if made is None:
            raise DatabaseRefused
        expires_at: datetime = made[0]
        return expires_at

    def use_token(self, token_hash: str, service: str, kind: ServiceKind, enrolment_id: str) -> bool:
        """Bind a token to an enrolment; return False if it is unknown, for another service, expired or used."""
        # Of two concurrent uses, the second waits for the first's commit and then finds the token used.
        used = self.connection.execute(
            "update okcm.join_token set used_at = clock_timestamp(), enrolment_id = %s"
            " where token_hash = %s and service = %s and kind = %s and used_at is null"
            " and expires_at > clock_timestamp()",
            [enrolment_id, token_hash, service, kind],
        )
        return used.rowcount == 1

    def begin(self, enrolment: EnrolmentRow) -> bool:
        """Store an enrolment as pending; return False if its attestation was used before."""
        stored = self.connection.execute(
            "insert into okcm.enrolment"
            " (tenant_id, enrolment_id, service, kind, proof, proof_hash, key_hash, ticket_hash)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                self.tenant_id,
                enrolment.enrolment_id,
                enrolment.service,
                enrolment.kind,
                enrolment.proof,
                enrolment.proof_hash,
                enrolment.key_hash,
                enrolment.ticket_hash,
            ],
        )
        return stored.rowcount == 1

    def of_proof(self, proof_hash: str) -> EnrolmentRow | None:
        """Return the enrolment that used an attestation."""
        return self._one("proof_hash = %s", proof_hash)

    def get(self, enrolment_id: str) -> EnrolmentRow | None:
        return self._one("enrolment_id = %s", enrolment_id)

    def settle(self, enrolment_id: str, refused: tuple[str, str, str] | None = None) -> None:
        """Store the outcome of an enrolment once: issued, or rejected with code, message and hint."""
        state = EnrolmentState.ISSUED if refused is None else EnrolmentState.REFUSED
        code, message, hint = refused or (None, None, None)
        self.connection.execute(
            "update okcm.enrolment set state = %s, settled_at = clock_timestamp(), code = %s, message = %s, hint = %s"
            " where enrolment_id = %s and state = 'pending'",
            [state, code and code[:_CODE], message and message[:_TEXT], hint and hint[:_TEXT], enrolment_id],
        )

    def known_kind(self, service: str) -> ServiceKind | None:
        """Return the kind of a recorded or discovered service; None if it is unknown."""
        found = self.connection.execute(
            "select kind from okcm.service where service = %s"
            " union all select kind from okcm.discovery where service = %s limit 1",
            [service, service],
        ).fetchone()
        return None if found is None else ServiceKind(found[0])

    def discover(self, service: str, kind: ServiceKind) -> None:
        """Record a discovered service; a repeated call changes nothing."""
        self.connection.execute(
            "insert into okcm.discovery (tenant_id, service, kind) values (%s, %s, %s) on conflict do nothing",
            [self.tenant_id, service, kind],
        )

    def discovered(self) -> Sequence[DiscoveryRow]:
        """Return the discovered services by name, connected or not."""
        rows = self.connection.execute("select service, kind, discovered_at from okcm.discovery order by service")
        return [DiscoveryRow(service, ServiceKind(kind), at) for service, kind, at in rows]

    def _one(self, condition: str, value: str) -> EnrolmentRow | None:
        found = self.connection.execute(f"{_ENROLMENT} where {condition}", [value]).fetchone()
        return None if found is None else _enrolment(found)


def _enrolment(row: tuple[Any, ...]) -> EnrolmentRow:
    enrolment_id, service, kind, proof, proof_hash, key_hash, ticket_hash, state, *problem = row
    return EnrolmentRow(
        enrolment_id,
        service,
        ServiceKind(kind),
        Proof(proof),
        proof_hash,
        key_hash,
        ticket_hash,
        EnrolmentState(state),
        *problem,
    )
