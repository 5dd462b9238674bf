"""The receivers of notifications that a tenant chose. The dashboard changes them; the worker reads them to send."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.errors.notifications import TargetsFull, TargetUnknown
from core.errors.platform import Superseded
from core.notifications.targets import MAX_TARGETS, NotificationTarget, TargetKind, shown_address
from database.repository import Repository

_COLUMNS = "target_id, kind, label, shown_address, muted, paused, secret_number, former_until, created_at"
_ADDRESS = (
    "target_id, kind, address, paused, secret_number, sealed,"
    " case when former_until > clock_timestamp() then former_sealed end"
)


@dataclass(frozen=True, slots=True)
class TargetAddress:
    """What the worker needs to send to a target. The encrypted secrets are None for an e-mail address.

    `former_sealed` has the number before `secret_number`; the database returns it only while it is valid.
    """

    target_id: str
    kind: TargetKind
    address: str = field(repr=False)
    paused: bool
    secret_number: int
    sealed: str | None = field(repr=False)
    former_sealed: str | None = field(repr=False)


class NotificationTargets(Repository):
    def all(self) -> Sequence[NotificationTarget]:
        """Return the targets in the order of their creation."""
        rows = self.connection.execute(
            f"select {_COLUMNS} from okcm.notification_target order by created_at, target_id"  # noqa: S608 - a constant
        )
        return [_target(row) for row in rows]

    def get(self, target_id: str, *, lock: bool = False) -> NotificationTarget:
        """Return a target, with `lock` unchanged by others until the end of the transaction; raises TargetUnknown."""
        row = self.connection.execute(
            f"select {_COLUMNS} from okcm.notification_target where target_id = %s"  # noqa: S608 - constants
            f"{' for no key update' if lock else ''}",
            [target_id],
        ).fetchone()
        if row is None:
            raise TargetUnknown
        return _target(row)

    def addresses(self) -> dict[str, str]:
        """Return the full address of each target by its id (dashboard, worker)."""
        rows = self.connection.execute("select target_id, address from okcm.notification_target")
        return {str(target_id): str(address) for target_id, address in rows}

    def add(  # noqa: PLR0913, PLR0917 - one for each column
        self, target_id: str, kind: TargetKind, label: str, address: str, muted: frozenset[str], sealed: str | None
    ) -> None:
        """Store a target (dashboard). Raises TargetsFull, or DatabaseRefused when two fill the last place at once."""
        row = self.connection.execute(
            "insert into okcm.notification_target"
            " (tenant_id, target_id, number, kind, label, address, shown_address, muted, sealed)"
            " select %s, %s, min(free), %s, %s, %s, %s, %s, %s from generate_series(1, %s) as free"
            " where free not in (select number from okcm.notification_target) having min(free) is not null"
            " returning number",
            [
                *(self.tenant_id, target_id, kind, label, address, shown_address(kind, address)),
                *(sorted(muted), sealed, MAX_TARGETS),
            ],
        ).fetchone()
        if row is None:
            raise TargetsFull

    def mute(self, target_id: str, muted: frozenset[str]) -> None:
        """Replace the events that a target does not get (dashboard); raises TargetUnknown."""
        self._change(target_id, "muted = %s", sorted(muted))

    def pause(self, target_id: str, *, paused: bool) -> None:
        """Pause or resume a target (dashboard); raises TargetUnknown."""
        self._change(target_id, "paused = %s", paused)

    def replace_secret(self, target_id: str, number: int, sealed: str) -> None:
        """Store the secret with the next number (dashboard); the former one is valid for SECRET_OVERLAP.

        Raises:
            TargetUnknown: it was removed.
            Superseded: another secret has this number.
        """
        if self.get(target_id, lock=True).secret_number != number - 1:
            raise Superseded
        self._change(target_id, "secret_number = %s, sealed = %s", number, sealed)

    def remove(self, target_id: str) -> None:
        """Delete a target (dashboard); raises TargetUnknown."""
        gone = self.connection.execute("delete from okcm.notification_target where target_id = %s", [target_id])
        if not gone.rowcount:
            raise TargetUnknown

    def address_of(self, target_id: str) -> TargetAddress | None:
        """Return the address and the encrypted secrets of a target (worker); None after its removal."""
        row = self.connection.execute(
            f"select {_ADDRESS} from okcm.notification_target where target_id = %s",  # noqa: S608 - a constant
            [target_id],
        ).fetchone()
        return None if row is None else _address(row)

    def webhooks(self) -> Sequence[TargetAddress]:
        """Return the addresses and encrypted secrets of all webhooks, locked in this transaction (worker)."""
        rows = self.connection.execute(
            f"select {_ADDRESS} from okcm.notification_target where kind = 'webhook' for no key update"  # noqa: S608 - a constant
        )
        return [_address(row) for row in rows]

    def encrypt_again(self, target_id: str, sealed: str, former_sealed: str | None) -> None:
        """Replace the ciphertexts of the same secrets (worker); an expired former secret is deleted."""
        self.connection.execute(
            "update okcm.notification_target set sealed = %s, former_sealed = %s,"
            " former_until = case when %s then former_until end where target_id = %s",
            [sealed, former_sealed, former_sealed is not None, target_id],
        )

    def _change(self, target_id: str, assignments: str, *values: Any) -> None:
        changed = self.connection.execute(
            f"update okcm.notification_target set {assignments} where target_id = %s",  # noqa: S608 - constants
            [*values, target_id],
        )
        if not changed.rowcount:
            raise TargetUnknown


def _target(row: Sequence[Any]) -> NotificationTarget:
    target_id, kind, label, shown, muted, paused, number, former_until, created_at = row
    until: datetime | None = former_until
    return NotificationTarget(
        target_id, TargetKind(kind), label, shown, frozenset(muted), paused, number, until, created_at
    )


def _address(row: Sequence[Any]) -> TargetAddress:
    target_id, kind, *rest = row
    return TargetAddress(target_id, TargetKind(kind), *rest)
