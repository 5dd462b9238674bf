"""The queries that run often, or for each tenant or each page, in a database with many tenants in operation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import md5

from config.secrets import Role
from core.audit import AuditFilter
from core.isolation import LATE
from core.names import l2_key
from core.notifications import Channel
from core.retention import DELETED
from core.scheduled import ScheduledTask
from core.tenants.policy import TenantPolicy
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.operators import Operations, Problem, TenantFilter
from database.platform.retention import RetentionQueries
from database.platform.scheduled import PlatformQueries
from database.platform.status import measure
from database.root_keys import RootKeyRead
from openkcm.contract.audit_events import AuditEvent, AuditName

TENANT = "load-000777"
"""One of the tenants of `many.add_operating_tenants`."""
_PAGE = 200
_SERIAL = md5(f"{TENANT}orders4".encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class HotQuery:
    """A query of a process; `of_tenant` reads one tenant only, the others find tenants.

    `rows` is the number of rows of each tenant that one scan of a table may read. An hourly query is not urgent.
    """

    role: Role
    run: Callable[[Database], object]
    of_tenant: bool = False
    rows: int = 1
    hourly: bool = False


def _tenant(role: Role, run: Callable[[TenantTransaction], object]) -> HotQuery:
    def in_transaction(database: Database) -> object:
        with database.tenant_tx(TENANT) as tx:
            return run(tx)

    return HotQuery(role, in_transaction, of_tenant=True)


def _platform(role: Role, run: Callable[[PlatformQueries], object], *, rows: int = 1, hourly: bool = False) -> HotQuery:
    return HotQuery(role, lambda database: run(PlatformQueries(database)), rows=rows, hourly=hourly)


def _operators(run: Callable[[Operations], object], *, rows: int = 1) -> HotQuery:
    return HotQuery(Role.DASHBOARD, lambda database: run(Operations(database, 180)), rows=rows)


def _expired(table: str) -> HotQuery:
    days = DELETED[table].days

    def run(database: Database) -> object:
        return RetentionQueries(database).tenants_with_expired_rows(table, days, 100)

    # The newest operation and the newest rotations stay, so their rows are read again each time.
    return HotQuery(Role.WORKER, run, rows={"operation_step": 7, "rotation": 4}.get(table, 1), hourly=True)


def _event() -> AuditEvent:
    return AuditEvent(
        event_id=f"hot/{datetime.now(UTC).timestamp()}",
        name=AuditName.CRYPTO_USED,
        actor_kind="service",
        actor="orders",
        subject="orders",
        outcome="success",
        correlation_id="hot",
    )


def _read_changes(database: Database) -> object:
    with database.raw_tx("*") as connection:
        return connection.execute(
            "select * from okcm.cache_changes(pg_snapshot_xmin(pg_current_snapshot()))"
        ).fetchall()


_TODAY = datetime.now(UTC).date()
_MONTH = timedelta(days=30)
_LATELY = datetime.now(UTC) - timedelta(days=1)
_OF_SERVICE = AuditFilter(services=frozenset({"orders"}), operations=frozenset({"decrypt"}), since=_LATELY)

HOT_QUERIES: Mapping[str, HotQuery] = {
    # crypto service, for each connection, key and batch of records
    "caller": _tenant(Role.CRYPTO, lambda tx: tx.services.caller(_SERIAL)),
    "newest certificate": _tenant(Role.CRYPTO, lambda tx: tx.services.leaf("orders")),
    "service key with root key": _tenant(Role.CRYPTO, lambda tx: tx.services.key_and_root("orders")),
    "authorities": _tenant(Role.CRYPTO, lambda tx: tx.certificates.authorities()),
    "last use of services": _tenant(Role.CRYPTO, lambda tx: tx.services.seen(["orders", "users"], datetime.now(UTC))),
    "managed object": _tenant(Role.CRYPTO, lambda tx: tx.objects.get("orders", "orders-1")),
    "managed object by name": _tenant(Role.CRYPTO, lambda tx: tx.objects.named("orders", "name-1")),
    "audit append": _tenant(Role.CRYPTO, lambda tx: tx.audit.append_all([_event()])),
    "change feed": HotQuery(Role.CRYPTO, _read_changes),
    "client authorities": _platform(Role.CRYPTO, lambda platform: platform.client_authorities(("0", ""), _PAGE)),
    "services to re-encrypt": _platform(Role.CRYPTO, lambda platform: platform.stale_services(("", ""), _PAGE)),
    # worker, for each operation of a tenant
    "tenant": _tenant(Role.WORKER, lambda tx: tx.tenants.get()),
    "tenant key": _tenant(Role.WORKER, lambda tx: tx.keys.get(l2_key(TENANT))),
    "tenant lock": _tenant(Role.WORKER, lambda tx: tx.tenants.lock()),
    "scheduled attempt": _tenant(Role.WORKER, lambda tx: tx.tenants.record_attempt(ScheduledTask.EXPIRY)),
    "key versions": _tenant(Role.WORKER, lambda tx: tx.services.keys()),
    "rotations": _tenant(Role.WORKER, lambda tx: tx.rotations.all()),
    "due keys": _tenant(Role.WORKER, lambda tx: tx.rotations.due(TenantPolicy())),
    "steps": _tenant(Role.WORKER, lambda tx: tx.steps.latest()),
    "notification": _tenant(Role.WORKER, lambda tx: tx.outbox.claim(Channel.CALLBACK, timedelta(seconds=1))),
    "trial ciphertext": _tenant(Role.WORKER, lambda tx: tx.fingerprints.probe()),
    "lineage of objects": _tenant(Role.WORKER, lambda tx: tx.objects.some_ids(2)),
    # every open page of a tenant, every two seconds
    "status of a tenant": _tenant(Role.DASHBOARD, lambda tx: measure(tx, 4, datetime.now(UTC))),
    "last uses of services": _tenant(Role.DASHBOARD, lambda tx: tx.usage.last_uses(_LATELY)),
    # pages of a tenant
    "course of the usage": _tenant(Role.DASHBOARD, lambda tx: tx.usage.course(_LATELY)),
    "uses of a day": _tenant(Role.DASHBOARD, lambda tx: tx.usage.totals(_LATELY)),
    "assessment": _tenant(Role.DASHBOARD, lambda tx: tx.boundaries.examination()),
    "results of a run": _tenant(Role.DASHBOARD, lambda tx: tx.boundaries.latest_run()),
    "audit ends": _tenant(Role.DASHBOARD, lambda tx: tx.audit.ends()),
    "audit search": _tenant(
        Role.DASHBOARD,
        lambda tx: tx.audit.found(AuditFilter(text="used"), range(1, 11), 10, newest_first=True),
    ),
    "audit search by service": _tenant(
        Role.DASHBOARD,
        lambda tx: [
            tx.audit.found(_OF_SERVICE, part, 10, newest_first=True)
            for part in tx.audit.parts(_OF_SERVICE, range(1, 11))
        ],
    ),
    "audit records by hour": _tenant(Role.DASHBOARD, lambda tx: tx.audit.hours(AuditFilter(since=_LATELY))),
    "audit choices": _tenant(Role.DASHBOARD, lambda tx: tx.audit.services_and_operations()),
    "usage of a month": _tenant(Role.DASHBOARD, lambda tx: tx.usage.days(_TODAY - _MONTH, _TODAY)),
    "object counts": _tenant(Role.DASHBOARD, lambda tx: tx.objects.counts()),
    "approvals": _tenant(Role.DASHBOARD, lambda tx: tx.approvals.latest()),
    "reports": _tenant(Role.DASHBOARD, lambda tx: tx.reports.latest()),
    # marketplace relays, every second
    "unstarted events": _platform(Role.MARKETPLACE, lambda platform: platform.unstarted_events(_PAGE)),
    "pending enrolments": _platform(Role.MARKETPLACE, lambda platform: platform.pending_enrolments(_PAGE)),
    # schedules, from each minute to each hour
    "due assessments": _platform(Role.WORKER, lambda platform: platform.due_examinations("", _PAGE)),
    "newest breach": _platform(Role.WORKER, lambda platform: platform.newest_breach()),
    "late assessments": _platform(Role.WORKER, lambda platform: platform.troubled_examinations(LATE, 1000)),
    "trial ciphertexts": _platform(Role.WORKER, lambda platform: platform.key_probes(TENANT, 100)),
    "due notifications": _platform(Role.WORKER, lambda platform: platform.due_notifications(Channel.EMAIL, _PAGE)),
    "required workflows": _platform(Role.WORKER, lambda platform: platform.workflow_tenants(TENANT, 500)),
    "required service workflows": _platform(
        Role.WORKER, lambda platform: platform.workflow_services((TENANT, ""), 500), rows=2
    ),
    "unsigned streams": _platform(Role.WORKER, lambda platform: platform.unsigned_streams(_PAGE)),
    "monitored root keys": _platform(
        Role.WORKER,
        lambda platform: platform.monitored_root_keys(
            RootKeyRead(
                region="eu-west-1",
                shard=0,
                shards=1,
                lately=timedelta(minutes=2),
                since="999999999",
                tenants=(),
                after="",
                limit=_PAGE,
            )
        ),
    ),
    "root key versions": _platform(Role.WORKER, lambda platform: platform.numbered_root_keys(), rows=3, hourly=True),
    "due rotations": _platform(Role.WORKER, lambda platform: platform.due_rotations(_PAGE), rows=3, hourly=True),
    "stalled rotations": _platform(
        Role.WORKER,
        lambda platform: platform.stuck_rotations(timedelta(hours=4), timedelta(days=1), _PAGE),
        rows=3,
        hourly=True,
    ),
    "due authorities": _platform(Role.WORKER, lambda platform: platform.due_authorities(_PAGE), hourly=True),
    "ended authorities": _platform(Role.WORKER, lambda platform: platform.outlived_authorities(_PAGE), hourly=True),
    "revocation lists": _platform(
        Role.WORKER, lambda platform: platform.stale_revocation_lists(timedelta(hours=12), _PAGE)
    ),
    "expiring certificates": _platform(Role.WORKER, lambda platform: platform.expiring(_PAGE), rows=8, hourly=True),
    "untaken credentials": _platform(Role.WORKER, lambda platform: platform.untaken_credentials(_PAGE)),
    "archivable streams": HotQuery(
        Role.WORKER,
        lambda database: RetentionQueries(database).archivable_streams(datetime.now(UTC) - 13 * _MONTH, 100),
        hourly=True,
    ),
    **{f"expired rows: {table}": _expired(table) for table in sorted(DELETED)},
    # pages of operators
    "tenant counts": _operators(lambda operators: operators.counts()),
    "tenant page": _operators(lambda operators: operators.page(TenantFilter(), TENANT, 50)),
    "tenant search": _operators(lambda operators: operators.page(TenantFilter(search="zation 9999"), "", 50)),
    "tenants with problems": _operators(
        lambda operators: operators.page(TenantFilter(problem=Problem.ANY), "", 50), rows=2
    ),
    "counts of problems": _operators(lambda operators: operators.problems(), rows=2),
    "backlog": _operators(lambda operators: operators.backlog(), rows=2),
    "stuck tenants": _operators(lambda operators: operators.stuck(50)),
    "undelivered notifications": _operators(lambda operators: operators.undelivered(50)),
    "provisioning times": _operators(lambda operators: operators.times(1000)),
}
