"""A tenant's leaving (migrations/0016_leaving.sql).

Its row decides. Who restores and who destroys both lock it first, so that one of them finds what the other did; and a
check of the table lets no tenant out of leaving once its destruction has begun.

What is on record of a tenant that leaves; part of `interfaces`, which hands it out. Imports no psycopg.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import Connection
from psycopg.rows import TupleRow

from core.errors.platform import DatabaseRefused
from core.errors.tenants import DestructionStarted, GracePeriodActive, TenantUnknown
from core.tenants.lifecycle import DECRYPTS, State, Transition, transition
from openkcm.verification.erasure_certificate import DestroyedKind

_ROW = (
    "select state, leaving_since, leaves_at, returns_to, destroying_at, offboarded_at, erased from okcm.tenant"
    " where tenant_id = %s"
)
_LAST_WORD = (
    "select e.kind = 'service_disabled' and (t.restored_at is null or e.accepted_at > t.restored_at)"
    " from okcm.marketplace_event e join okcm.tenant t using (tenant_id) where t.tenant_id = %s"
    " order by e.accepted_at desc, e.event_id limit 1"
)
_DOOMED = "select kind, name, versions, fingerprint, destroyed_at from okcm.destruction"
_CERTIFICATE = "select statement, signature, key, issued_at from okcm.shred_certificate"


@dataclass(frozen=True, slots=True)
class OffboardingRow:
    """How far a tenant's leaving is; every time is None before it is reached."""

    state: State
    since: datetime | None
    until: datetime | None
    returns_to: State | None
    destroying_at: datetime | None
    offboarded_at: datetime | None
    erased: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class KeyToDestroyRow:
    """One thing that is to be destroyed, or is; see `openkcm.verification.erasure_certificate.Destroyed`."""

    kind: DestroyedKind
    name: str
    versions: str
    fingerprint: str
    destroyed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ErasureCertificateRow:
    """The signed statement of what was destroyed (client/src/openkcm/verification/erasure_certificate.py)."""

    statement: str
    signature: str
    key: str
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class Leaving:
    """The tenant's leaving: the first three are for everybody who may look, the rest for the worker."""

    connection: Connection[TupleRow]
    tenant_id: str

    def get(self) -> OffboardingRow | None:
        """Return how far it is; None when there is no such tenant."""
        found = self.connection.execute(_ROW, [self.tenant_id]).fetchone()
        if found is None:
            return None
        state, since, until, returns_to, destroying_at, offboarded_at, erased = found
        back_to = None if returns_to is None else State(returns_to)
        return OffboardingRow(State(state), since, until, back_to, destroying_at, offboarded_at, erased or {})

    def doomed(self) -> Sequence[KeyToDestroyRow]:
        """Return what is to be destroyed, by kind and name; empty before it was gathered."""
        return [KeyToDestroyRow(*row) for row in self.connection.execute(f"{_DOOMED} order by kind, name")]

    def certificate(self) -> ErasureCertificateRow | None:
        found = self.connection.execute(_CERTIFICATE).fetchone()
        return None if found is None else ErasureCertificateRow(*found)

    def asked_by_marketplace(self) -> bool:
        """Whether the marketplace's last word is that the tenant leaves, and was said since it was last restored."""
        return self.connection.execute(_LAST_WORD, [self.tenant_id]).fetchone() == (True,)

    def begin(self, grace: timedelta) -> OffboardingRow:
        """Let the tenant leave, for good after `grace`; one that is leaving already goes on as it was.

        Raises InvalidTransition, TenantUnknown.
        """
        row = self._locked()
        if row.state is not State.LEAVING:
            # Locks and what they open to stay where they are: they are those of the tenant that comes back.
            self.connection.execute(
                "update okcm.tenant set state = %s, returns_to = %s, leaving_since = now(), leaves_at = now() + %s",
                [transition(row.state, Transition.LEAVE), row.state, grace],
            )
        return self._existing()

    def restore(self) -> State:
        """Bring the tenant back to where it was, with its locks; one that is back already stays there.

        Raises DestructionStarted, InvalidTransition, TenantUnknown.
        """
        row = self._locked()
        if row.destroying_at is not None:
            raise DestructionStarted
        if row.state in DECRYPTS | {State.LOCKED}:
            return row.state
        state = transition(row.state, Transition.RESTORE, row.returns_to)
        self.connection.execute(
            "update okcm.tenant set state = %s, returns_to = null, leaving_since = null, leaves_at = null,"
            " restored_at = clock_timestamp()",
            [state],
        )
        return state

    def begin_destruction(self, now: datetime) -> bool:
        """Pass the point of no return; True again when it was passed, False when the tenant is not leaving any more.

        Raises GracePeriodActive.
        """
        row = self._locked()
        if row.destroying_at is not None:
            return True
        if row.state is not State.LEAVING:
            return False
        # Of a leaving that somebody undid and began anew there can still be an old timer; it is told by the time.
        if row.until is None or now < row.until:
            raise GracePeriodActive
        self.connection.execute("update okcm.tenant set destroying_at = clock_timestamp()")
        return True

    def gather(self, rows: Sequence[KeyToDestroyRow]) -> None:
        """Write down what is to be destroyed; what is on record stays as it is."""
        for row in rows:
            self.connection.execute(
                "insert into okcm.destruction (tenant_id, kind, name, versions, fingerprint)"
                " values (%s, %s, %s, %s, %s) on conflict do nothing",
                [self.tenant_id, row.kind, row.name, row.versions, row.fingerprint],
            )

    def unwrapped(self) -> Sequence[KeyToDestroyRow]:
        """Return each service key that has a wrap, with the SHA-256 of it."""
        rows = self.connection.execute(
            "select service || ' ' || version, version::text, encode(sha256(wrapped), 'hex') from okcm.service_key"
            " where wrapped is not null order by service, version"
        )
        return [KeyToDestroyRow("service key", *row) for row in rows]

    def destroy_service_keys(self) -> int:
        """Overwrite the wraps of all service keys, staged ones too, and return of how many."""
        return self.connection.execute(
            "update okcm.service_key set state = 'destroyed', destroyed_at = clock_timestamp(), wrapped = null,"
            " staged_for = null, staged_wrapped = null where wrapped is not null"
        ).rowcount

    def destroyed(self, kind: DestroyedKind) -> None:
        """Mark all of a kind destroyed that is not yet."""
        self.connection.execute(
            "update okcm.destruction set destroyed_at = clock_timestamp() where kind = %s and destroyed_at is null",
            [kind],
        )

    def erase(self, at_most: int) -> bool:
        """Erase a part of the rows; True when all are gone. Raises DatabaseRefused before everything is destroyed."""
        return self.connection.execute("select okcm.erase_tenant(%s)", [at_most]).fetchone() == (True,)

    def certify(self, row: ErasureCertificateRow) -> ErasureCertificateRow:
        """Keep the signed statement and return the one on record, which is the first."""
        self.connection.execute(
            "insert into okcm.shred_certificate (tenant_id, statement, signature, key, issued_at)"
            " values (%s, %s, %s, %s, %s) on conflict do nothing",
            [self.tenant_id, row.statement, row.signature, row.key, row.issued_at],
        )
        kept = self.certificate()
        if kept is None:
            raise DatabaseRefused
        return kept

    def end(self) -> State:
        """Move the tenant to its last state, once; raises InvalidTransition."""
        row = self._locked()
        if row.state is not State.OFFBOARDED:
            self.connection.execute(
                "update okcm.tenant set state = %s, offboarded_at = clock_timestamp()",
                [transition(row.state, Transition.OFFBOARD)],
            )
        return State.OFFBOARDED

    def _locked(self) -> OffboardingRow:
        self.connection.execute(
            "select from okcm.tenant where tenant_id = %s for no key update", [self.tenant_id]
        ).fetchone()
        return self._existing()

    def _existing(self) -> OffboardingRow:
        row = self.get()
        if row is None:
            raise TenantUnknown
        return row
