"""Queries across tenants: each is one SQL function, granted to the role of the process that calls it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg.rows import TupleRow

from core.certificates import ExpiringItem
from core.keys.rotation import StallReason
from core.notifications import Channel, NotificationKind
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from database.certificates import ExpiringRow
from database.connection.database import Database
from database.isolation import FailedAssessment
from database.notifications import MessageQueue, UndeliveredNotification
from database.postgres.access import PLATFORM
from database.postgres.deadline import CALL_SECONDS
from database.root_keys import MonitoredRootKey, RootKeyChanges, RootKeyRead, VersionedRootKey
from database.rotation import StalledRotationRow
from database.tenants import COLUMNS, TenantRow, tenant_row


class UnsignedStream(NamedTuple):
    """The end of an audit stream that has records after its newest checkpoint."""

    tenant_id: str
    seq: int
    chain_hash: bytes


class WorkflowTenantRow(NamedTuple):
    """A tenant that is not offboarded, and its offboarding if one has started.

    `destroying` means after the point of no return.
    """

    tenant_id: str
    region: str
    leaving_since: datetime | None
    leaves_at: datetime | None
    destroying: bool


class WorkflowServiceRow(NamedTuple):
    """A connected service with its newest certificate that is not revoked."""

    tenant_id: str
    region: str
    service: str
    generation: int
    not_before: datetime
    not_after: datetime


class ClientAuthorityRow(NamedTuple):
    """The certificate of a CA that issues client certificates. `xid` and `serial` are its position.

    The next read of new rows starts at transaction `until`; it may return rows again.
    """

    until: str
    xid: str
    serial: str
    certificate_pem: str


class PlatformQueries:
    """Queries of one process; other roles are rejected. All raise DatabaseUnavailable and DatabaseRefused."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def unstarted_events(self, limit: int) -> Sequence[tuple[str, str, str, str]]:
        """Return (tenant id, event id, region, kind) of events without a workflow, oldest first (marketplace)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select tenant_id, event_id, region, kind from okcm.unstarted_events(%s)", [limit]
            )
            return [(tenant_id, event_id, region, kind) for tenant_id, event_id, region, kind in rows]

    def denied_locks(self) -> Mapping[str, tuple[State, frozenset[str]]]:
        """Return state and locks of each tenant that is locked, offboarding or offboarded, in order (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select tenant_id, state, locks from okcm.denied_locks()")
            return {tenant: (State(state), frozenset(locks)) for tenant, state, locks in rows}

    def pending_enrolments(self, limit: int) -> Sequence[tuple[str, str, str, str]]:
        """Return (tenant id, enrolment id, region, service) of pending enrolments, oldest first (marketplace).

        The limit holds for each region.
        """
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select tenant_id, enrolment_id, region, service from okcm.pending_enrolments(%s)", [limit]
            )
            return [(tenant_id, enrolment_id, region, service) for tenant_id, enrolment_id, region, service in rows]

    def unknown_serials(self, serials: Sequence[str]) -> Sequence[str]:
        """Return those serials that are recorded for no tenant (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select okcm.unknown_serials(%s::text[])", [list(serials)])
            return [serial for (serial,) in rows]

    def unsigned_streams(self, limit: int) -> Sequence[UnsignedStream]:
        """Return streams with records after their newest checkpoint, the oldest signature first (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.unsigned_streams(%s)", [limit])
            return [UnsignedStream(*row) for row in rows]

    def audit_keys(self) -> Mapping[str, str]:
        """Return `key:version` → PEM of every recorded public key (operator, dashboard, worker, crypto)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select key, public_key_pem from okcm.audit_keys()")
            return {str(key): str(pem) for key, pem in rows}

    def record_audit_keys(self, keys: Mapping[str, str]) -> None:
        """Record public keys permanently (worker); raise DatabaseRefused if a name has another key."""
        with self._database.raw_tx(PLATFORM) as connection:
            for key, pem in keys.items():
                connection.execute("select okcm.record_audit_key(%s, %s)", [key, pem])

    def due_notifications(self, channel: Channel, limit: int) -> Sequence[str]:
        """Return tenants whose oldest unsent message on a channel is due, the longest waiting first (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select okcm.due_notifications(%s, %s)", [channel, limit])
            return [tenant for (tenant,) in rows]

    def due_deliveries(self, limit: int) -> Sequence[tuple[str, MessageQueue]]:
        """Return queues of targets, with their tenants, whose oldest unsent message is due (worker).

        The longest waiting comes first.
        """
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.due_deliveries(%s)", [limit])
            return [
                (tenant_id, MessageQueue(Channel(channel), target_id, of_tests))
                for tenant_id, channel, target_id, of_tests in rows
            ]

    def tenants_with_webhooks(self, after: str, limit: int) -> Sequence[str]:
        """Return tenants with a signing secret in order of id, from the first behind `after` (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select okcm.tenants_with_webhooks(%s, %s)", [after, limit])
            return [tenant for (tenant,) in rows]

    def undelivered_notifications(self, since: timedelta, limit: int) -> Sequence[UndeliveredNotification]:
        """Return messages that their receivers did not accept (operator, dashboard).

        Those that expired within `since` come first, the newest first; then those still attempted, the oldest first.
        """
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.undelivered_notifications(%s, %s)", [since, limit])
            return [
                UndeliveredNotification(tenant_id, message_id, Channel(channel), NotificationKind(kind), *rest)
                for tenant_id, message_id, channel, kind, *rest in rows
            ]

    def monitored_root_keys(self, read: RootKeyRead, *, call_seconds: float = CALL_SECONDS) -> RootKeyChanges:
        """Return customers' root keys in use, and changes of what decides about their checks (worker)."""
        with self._database.raw_tx(PLATFORM, call_seconds=call_seconds) as connection:
            # Before the read: a transaction that it does not see yet is read again.
            [until] = connection.execute("select pg_snapshot_xmin(pg_current_snapshot())::text").fetchone() or ("",)
            rows = connection.execute(
                "select * from okcm.monitored_root_keys(%s, %s, %s, %s, %s::xid8, %s::text[], %s, %s)",
                [
                    *(read.region, read.shard, read.shards, read.lately),
                    *(read.since, list(read.tenants), read.after, read.limit),
                ],
            ).fetchall()
        found = {row[0]: _monitored_root_key(row) for row in rows}
        return RootKeyChanges(until, found, sorted(tenant_id for tenant_id, listed, *_ in rows if listed))

    def numbered_root_keys(self) -> Sequence[VersionedRootKey]:
        """Return healthy root keys in use that have numbered versions, of tenants in use (worker).

        Tenants with the oldest attempt come first, as in all queries for a `ScheduledTask`.
        """
        with self._database.raw_tx(PLATFORM) as connection:
            return [VersionedRootKey(*row) for row in connection.execute("select * from okcm.numbered_root_keys()")]

    def untaken_credentials(self, limit: int) -> Sequence[str]:
        """Return tenants with encrypted credentials that were not collected within 15 minutes (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            return [tenant for (tenant,) in connection.execute("select okcm.untaken_credentials(%s)", [limit])]

    def stale_services(self, after: tuple[str, str], limit: int) -> Sequence[tuple[str, str]]:
        """Return (tenant id, service) that may have objects to re-encrypt, in order, after `after` (crypto)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.stale_services(%s, %s, %s)", [*after, limit])
            return [(tenant_id, service) for tenant_id, service in rows]

    def client_authorities(self, after: tuple[str, str], limit: int) -> Sequence[ClientAuthorityRow]:
        """Return the certificates of the CAs after a position (transaction, serial), in order (crypto)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select until::text, xid::text, serial, certificate_pem from okcm.client_authorities(%s::xid8, %s, %s)",
                [*after, limit],
            )
            return [ClientAuthorityRow(*row) for row in rows]

    def due_rotations(self, limit: int) -> Sequence[str]:
        """Return tenants with a key that exceeds its cryptoperiod or an unfinished rotation (worker)."""
        default = TenantPolicy()
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select okcm.due_rotations(%s, %s, %s)", [default.tenant_key_days, default.service_key_days, limit]
            )
            return [tenant for (tenant,) in rows]

    def stuck_rotations(self, unfinished: timedelta, overdue: timedelta, limit: int) -> Sequence[StalledRotationRow]:
        """Return rotations that failed, run longer than `unfinished` or are overdue by `overdue` (worker)."""
        default = TenantPolicy()
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select * from okcm.stuck_rotations(%s, %s, %s, %s, %s)",
                [default.tenant_key_days, default.service_key_days, unfinished, overdue, limit],
            )
            return [StalledRotationRow(tenant, StallReason(why), *rest) for tenant, why, *rest in rows]

    def key_probes(self, after: str, limit: int) -> Sequence[tuple[str, str]]:
        """Return (tenant id, test ciphertext) after `after`, then from the start up to it (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select tenant_id, ciphertext from okcm.key_probes(%s, %s)", [after, limit])
            return [(tenant_id, ciphertext) for tenant_id, ciphertext in rows]

    def due_authorities(self, limit: int) -> Sequence[str]:
        """Return tenants whose CA has at most a third of its validity left and can be renewed (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            return [tenant for (tenant,) in connection.execute("select okcm.due_authorities(%s)", [limit])]

    def outlived_authorities(self, limit: int) -> Sequence[str]:
        """Return tenants whose former CA has only expired certificates (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            return [tenant for (tenant,) in connection.execute("select okcm.outlived_authorities(%s)", [limit])]

    def stale_revocation_lists(self, oldest: timedelta, limit: int) -> Sequence[str]:
        """Return tenants with a CRL that is missing, older than `oldest`, or lacks a revocation (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select okcm.stale_revocation_lists(%s, %s)", [oldest, limit])
            return [tenant for (tenant,) in rows]

    def expiring(self, limit: int) -> Sequence[ExpiringRow]:
        """Return late or expired items of tenants that were activated and are not offboarded (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.expiring(%s)", [limit])
            return [ExpiringRow(tenant, region, ExpiringItem(kind), *rest) for tenant, region, kind, *rest in rows]

    def due_examinations(self, after: str, limit: int) -> Sequence[tuple[str, str]]:
        """Return (tenant id, region) whose isolation assessment is due, in order, after `after` (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.due_examinations(%s, %s)", [after, limit])
            return [(tenant_id, region) for tenant_id, region in rows]

    def newest_breach(self) -> datetime | None:
        """Return the start of the newest complete assessment of any tenant that found a breach (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            found = connection.execute("select okcm.newest_breach()").fetchone()
            return None if found is None else found[0]

    def troubled_examinations(self, late: timedelta, limit: int) -> Sequence[FailedAssessment]:
        """Return tenants with a breach, or whose assessment is overdue by more than `late` (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.troubled_examinations(%s, %s)", [late, limit])
            return [FailedAssessment(*row) for row in rows]

    def workflow_tenants(self, after: str, limit: int) -> Sequence[WorkflowTenantRow]:
        """Return tenants that are not offboarded, in order of id, after `after` (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.workflow_tenants(%s, %s)", [after, limit])
            return [WorkflowTenantRow(*row) for row in rows]

    def workflow_services(self, after: tuple[str, str], limit: int) -> Sequence[WorkflowServiceRow]:
        """Return connected services whose certificates are renewed, in order, after (tenant id, service) (worker)."""
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select * from okcm.workflow_services(%s, %s, %s)", [*after, limit])
            return [WorkflowServiceRow(*row) for row in rows]

    def list_tenants(self, after: str, limit: int) -> Sequence[TenantRow]:
        """Return tenants in order of id, starting after `after` (operator)."""
        query = f"select {COLUMNS} from okcm.tenant where tenant_id > %s order by tenant_id limit %s"  # noqa: S608 - a constant
        with self._database.raw_tx(PLATFORM) as connection:
            return [tenant_row(row) for row in connection.execute(query, [after, limit])]


def _monitored_root_key(row: TupleRow) -> MonitoredRootKey | None:
    tenant_id, _, root_key_id, endpoint, health, health_since, held, used_seconds = row
    if root_key_id is None:
        return None
    return MonitoredRootKey(tenant_id, root_key_id, endpoint, health, health_since, held, used_seconds or 0.0)
