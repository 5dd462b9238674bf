"""The offboarding of a tenant.

Restore and destruction both lock the tenant's row first, so each sees the result of the other. A table constraint
prevents a restore after the destruction has begun.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from core.errors.platform import DatabaseRefused
from core.errors.tenants import DestructionStarted, GracePeriodActive, RestorePending, TenantUnknown
from core.tenants.lifecycle import State, Transition, transition, transitions_from
from core.tenants.provisioning import EventKind
from database.postgres.deadline import PAUSE_SECONDS
from database.repository import Repository
from database.tenants import LOCK

if TYPE_CHECKING:
    from openkcm.verification.erasure_certificate import DestroyedKind

_ROW = (
    "select state, leaving_since, leaves_at, returns_to, destroying_at, offboarded_at, erased from okcm.tenant"
    " where tenant_id = %s"
)
# By the time of the event at the marketplace, which delivers events again and in any order. A time after the acceptance
# is wrong and would outrank every later event. A restore revokes the disable before it.
_OF_LAST_EVENT = (
    " from okcm.marketplace_event e join okcm.tenant t using (tenant_id) where t.tenant_id = %s"
    " and e.kind in ('service_enabled', 'service_disabled')"
    " order by least(e.occurred_at, e.accepted_at) desc, e.accepted_at desc, e.event_id desc limit 1"
)
_LAST_WORD = (
    "select case when e.kind = 'service_enabled' or t.restored_at is null or e.accepted_at > t.restored_at"
    f" then e.kind end{_OF_LAST_EVENT}"
)
_ENABLED_MEANWHILE = f"select e.kind = 'service_enabled' and e.accepted_at > t.leaving_since{_OF_LAST_EVENT}"
_KEYS_TO_DESTROY = "select kind, name, versions, fingerprint, destroyed_at from okcm.destruction"
_CERTIFICATE = "select statement, signature, key, issued_at from okcm.shred_certificate"


class OffboardingRow(NamedTuple):
    """The progress of an offboarding; each time is None until it is reached."""

    state: State
    since: datetime | None
    until: datetime | None
    returns_to: State | None
    destroying_at: datetime | None
    offboarded_at: datetime | None
    erased: Mapping[str, int]

    @property
    def immediate(self) -> bool:
        """Whether the tenant is offboarded without a grace period, so that it cannot be restored."""
        return self.since is not None and self.until is not None and self.until <= self.since


class KeyToDestroyRow(NamedTuple):
    """One item that is to be destroyed or is destroyed; see `openkcm.verification.erasure_certificate.Destroyed`."""

    kind: "DestroyedKind"
    name: str
    versions: str
    fingerprint: str
    destroyed_at: datetime | None = None


class ErasureCertificateRow(NamedTuple):
    """The signed statement of what was destroyed (see `openkcm.verification.erasure_certificate`)."""

    statement: str
    signature: str
    key: str
    issued_at: datetime


class Leaving(Repository):
    """The offboarding of one tenant. Several roles can read it; only the worker changes it."""

    def get(self) -> OffboardingRow | None:
        """Return the progress; None if the tenant does not exist."""
        found = self.connection.execute(_ROW, [self.tenant_id]).fetchone()
        if found is None:
            return None
        state, since, until, returns_to, destroying_at, offboarded_at, erased = found
        back_to = None if returns_to is None else State(returns_to)
        return OffboardingRow(State(state), since, until, back_to, destroying_at, offboarded_at, erased or {})

    def keys_to_destroy(self) -> Sequence[KeyToDestroyRow]:
        """Return the items to be destroyed, by kind and name; empty until they are recorded."""
        return [KeyToDestroyRow(*row) for row in self.connection.execute(f"{_KEYS_TO_DESTROY} order by kind, name")]

    def certificate(self) -> ErasureCertificateRow | None:
        found = self.connection.execute(_CERTIFICATE).fetchone()
        return None if found is None else ErasureCertificateRow(*found)

    def last_word(self) -> EventKind | None:
        """Return the kind of the marketplace's last event that enables or disables the tenant.

        None if there is no such event, or if a restore revoked it.
        """
        found = self.connection.execute(_LAST_WORD, [self.tenant_id]).fetchone()
        return None if found is None or found[0] is None else EventKind(found[0])

    def enabled_meanwhile(self) -> bool:
        """Return whether the last word is to enable the tenant, accepted after its offboarding began."""
        return self.connection.execute(_ENABLED_MEANWHILE, [self.tenant_id]).fetchone() == (True,)

    def is_restored_after(self, time: datetime) -> bool:
        """Return whether the tenant was restored after a time of PostgreSQL's clock."""
        found = self.connection.execute("select restored_at > %s from okcm.tenant", [time]).fetchone()
        return found == (True,)

    def begin(self, grace: timedelta) -> OffboardingRow:
        """Start the offboarding with a grace period; an offboarding that already runs is unchanged.

        Raises:
            InvalidTransition, TenantUnknown
        """
        row = self._locked()
        if row.state is not State.LEAVING:
            # Locks stay: they apply again when the tenant is restored.
            self.connection.execute(
                "update okcm.tenant set state = %s, returns_to = %s, leaving_since = now(), leaves_at = now() + %s",
                [transition(row.state, Transition.LEAVE), row.state, grace],
            )
        return self._existing()

    def extend(self, until: datetime) -> bool:
        """Move the end of the grace period to a later time; return False if that is not possible or not later."""
        row = self._locked()
        if row.state is not State.LEAVING or row.destroying_at is not None or row.until is None or row.until >= until:
            return False
        self.connection.execute("update okcm.tenant set leaves_at = %s", [until])
        return True

    def restore(self) -> State:
        """Return the tenant to its former state, with its locks; a restored tenant is unchanged.

        Raises:
            DestructionStarted, InvalidTransition, TenantUnknown
        """
        row = self._locked()
        if row.destroying_at is not None:
            raise DestructionStarted
        if Transition.LEAVE in transitions_from(row.state):
            return row.state
        state = transition(row.state, Transition.RESTORE, row.returns_to)
        self.connection.execute(
            "update okcm.tenant set state = %s, returns_to = null, leaving_since = null, leaves_at = null,"
            " restored_at = clock_timestamp()",
            [state],
        )
        return state

    def begin_destruction(self, now: datetime) -> bool:
        """Begin the irreversible destruction; return True if it has begun, False if the tenant is not offboarding.

        Raises:
            GracePeriodActive
            RestorePending: the marketplace's last event is in force, also while no workflow could receive it.
        """
        # Against references, too: an event that is stored at this moment is seen below, or sees `destroying_at`.
        self.connection.execute("select from okcm.tenant for update")
        row = self._locked()
        if row.destroying_at is not None:
            return True
        if row.state is not State.LEAVING:
            return False
        # A timer of an offboarding that was undone and started again may still fire; it fires before `until`.
        if row.until is None or now < row.until:
            raise GracePeriodActive
        if self.enabled_meanwhile():
            raise RestorePending
        self.connection.execute("update okcm.tenant set destroying_at = clock_timestamp()")
        return True

    def gather(self, rows: Sequence[KeyToDestroyRow]) -> None:
        """Record the items to be destroyed; recorded items are unchanged."""
        self.connection.execute(
            "insert into okcm.destruction (tenant_id, kind, name, versions, fingerprint)"
            " select %s, * from unnest(%s::text[], %s::text[], %s::text[], %s::text[]) on conflict do nothing",
            [
                self.tenant_id,
                [row.kind for row in rows],
                [row.name for row in rows],
                [row.versions for row in rows],
                [row.fingerprint for row in rows],
            ],
        )

    def unwrapped(self, services: Sequence[str]) -> Sequence[KeyToDestroyRow]:
        """Return each key of the services that still has a wrap, with the SHA-256 of the wrap."""
        rows = self.connection.execute(
            "select service || ' ' || version, version::text, encode(sha256(wrapped), 'hex') from okcm.service_key"
            " where service = any(%s) and wrapped is not null order by service, version",
            [list(services)],
        )
        return [KeyToDestroyRow("service key", *row) for row in rows]

    def destroy_service_keys(self, services: Sequence[str]) -> int:
        """Delete the wraps of all keys of the services, including staged ones, and return their number."""
        return self.connection.execute(
            "update okcm.service_key set state = 'destroyed', destroyed_at = clock_timestamp(), wrapped = null,"
            " staged_for = null, staged_wrapped = null where service = any(%s) and wrapped is not null",
            [list(services)],
        ).rowcount

    def destroyed(self, kind: "DestroyedKind") -> int:
        """Mark all items of a kind as destroyed and return the number of items that were not marked."""
        return self.connection.execute(
            "update okcm.destruction set destroyed_at = clock_timestamp() where kind = %s and destroyed_at is null",
            [kind],
        ).rowcount

    def erase(self, at_most: int) -> bool:
        """Erase up to `at_most` rows; return True if none remain.

        Raises:
            DatabaseRefused: before all items are destroyed.
        """
        return self.connection.execute("select okcm.erase_tenant(%s)", [at_most]).fetchone() == (True,)

    def certify(self, row: ErasureCertificateRow) -> ErasureCertificateRow:
        """Store the signed statement and return the stored one, which is the first."""
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
        """Set the tenant's final state, once; raise InvalidTransition from any other state."""
        row = self._locked()
        if row.state is not State.OFFBOARDED:
            self.connection.execute(
                "update okcm.tenant set state = %s, offboarded_at = clock_timestamp()",
                [transition(row.state, Transition.OFFBOARD)],
            )
        return State.OFFBOARDED

    def _locked(self) -> OffboardingRow:
        self.connection.execute(LOCK, [f"{PAUSE_SECONDS}s", self.tenant_id]).fetchone()
        return self._existing()

    def _existing(self) -> OffboardingRow:
        row = self.get()
        if row is None:
            raise TenantUnknown
        return row
