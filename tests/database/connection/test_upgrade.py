"""A database of an earlier release gets the later migrations and keeps every row."""

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from core.notifications import Notification
from core.tenants.approvals import Action, Argument
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Person
from database.approvals import Approvals
from database.connection import database
from database.notifications import Outbox
from database.notifications.targets import NotificationTargets
from database.schema import setup
from database.schema.migrate import Migration, read_migrations
from database.services.managed_objects import ManagedObjects, ObjectRow
from database.tenants import Policies
from database.usage import Usage, UsesRow
from openkcm.contract.audit_events import verify_chain
from tests.database.builders import (
    a_connected_service,
    a_leaving,
    a_provisioned_tenant,
    a_root_key,
    an_archive,
    an_audit_event,
)
from tests.database.fixtures import Field, Server, prepare

RELEASED = 1
"""How many migrations the oldest release has that can be upgraded."""
NEXT = Migration(
    9999, "9999_next.sql", "alter table okcm.tenant add column note text; create index note on okcm.tenant (note)"
)
"""A migration of the release under test, so that an upgrade always has one."""


def add_as_released(objects: ManagedObjects, rows: Sequence[ObjectRow]) -> None:
    """Store objects with the columns of that release."""
    for row in rows:
        values = [row.object_id, row.service, row.l2_key, row.object_type, row.state, list(row.names), row.attributes]
        objects.connection.execute(
            "insert into okcm.managed_object (tenant_id, object_id, service, l2_key, object_type, state, names,"
            " attributes, key_version, material, revision) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [objects.tenant_id, *values, row.key_version, row.material, row.revision],
        )


def set_as_released(policies: Policies, policy: TenantPolicy) -> None:
    """Store a policy with the columns of that release."""
    policies.connection.execute(
        "insert into okcm.tenant_policy (tenant_id, tenant_key_days, service_key_days) values (%s, %s, %s)",
        [policies.tenant_id, policy.tenant_key_days, policy.service_key_days],
    )


def notify_as_released(outbox: Outbox, message: Notification) -> None:
    """Store a notification with the columns of that release."""
    outbox.connection.execute(
        "insert into okcm.outbox (tenant_id, message_id, channel, kind, subject, body) values (%s, %s, %s, %s, %s, %s)",
        [message.tenant_id, message.message_id, message.channel, message.kind, message.subject, message.body],
    )


def count_as_released(usage: Usage, rows: Sequence[UsesRow], batch_id: str) -> bool:
    """Store counters in the tables of that release."""
    for row in rows:
        key = [usage.tenant_id, row.minute, row.service, row.operation.value]
        usage.connection.execute(
            "insert into okcm.usage_minute (tenant_id, minute, service, operation, count, refused, bytes)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            [*key, row.count, row.count if row.refusal else 0, row.bytes],
        )
        usage.connection.execute(
            "insert into okcm.usage_day (tenant_id, day, service, operation, refusal, count, bytes, microseconds,"
            " latency) values (%s, %s, %s, %s, %s, %s, %s, 0, %s)",
            [
                *(usage.tenant_id, row.minute.date(), row.service, row.operation.value, row.refusal),
                *(row.count, row.bytes, list(row.latency.counts)),
            ],
        )
    usage.connection.execute(
        "insert into okcm.usage_batch (tenant_id, batch_id) values (%s, %s)", [usage.tenant_id, batch_id]
    )
    return True


def ask_as_released(
    approvals: Approvals, approval_id: str, action: Action, argument: Argument, person: Person, _reason: str
) -> None:
    """Store a request for approval with the columns of that release."""
    approvals.connection.execute(
        "insert into okcm.approval (tenant_id, approval_id, action, argument, requested_by, requested_name)"
        " values (%s, %s, %s, %s, %s, %s)",
        [approvals.tenant_id, approval_id, action, json.dumps(dict(argument)), person.subject, person.name],
    )


def vote_as_released(approvals: Approvals, approval_id: str, person: Person, choice: str) -> None:
    """Store a vote with the columns of that release."""
    approvals.connection.execute(
        "insert into okcm.approval_vote (tenant_id, approval_id, subject, name, roles, choice)"
        " values (%s, %s, %s, %s, %s, %s)",
        [approvals.tenant_id, approval_id, person.subject, person.name, sorted(person.roles), choice],
    )


def add_no_target(*_columns: object) -> None:
    """Add nothing: that release has no notification targets."""


@pytest.fixture
def released(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Field]:
    """A database of that release, with rows in every table."""
    name = f"t_{secrets.token_hex(6)}"
    parts = conninfo_to_dict(server.conninfo)
    with monkeypatch.context() as patched:
        patched.setattr(setup, "read_migrations", lambda: read_migrations()[:RELEASED])
        prepare(server, name)
    # That release did not compare the schema with the process.
    monkeypatch.setattr(database, "require_schema", lambda _connection: None)
    monkeypatch.setattr(ManagedObjects, "add", add_as_released)
    monkeypatch.setattr(Policies, "set", set_as_released)
    monkeypatch.setattr(Outbox, "add", notify_as_released)
    monkeypatch.setattr(Usage, "add", count_as_released)
    monkeypatch.setattr(NotificationTargets, "add", add_no_target)
    monkeypatch.setattr(Approvals, "ask", ask_as_released)
    monkeypatch.setattr(Approvals, "vote", vote_as_released)
    monkeypatch.setattr(setup, "read_migrations", lambda: (*read_migrations(), NEXT))
    field = Field(server, name, f"postgresql://{parts['host']}:{parts['port']}/{name}")
    try:
        a_provisioned_tenant(field.open("worker"), "acme")
        a_connected_service(field, "acme")
        a_root_key(field, "acme")
        a_leaving(field, "acme")
        an_archive(field, "acme")
        yield field
    finally:
        field.close()
        with psycopg.connect(server.conninfo, autocommit=True) as administrator:
            administrator.execute(f"drop database {name} with (force)")


def stored_rows(field: Field) -> dict[str, list[dict[str, Any]]]:
    with field.administrator() as administrator:
        tables = administrator.execute(
            "select relname from pg_class where relnamespace = 'okcm'::regnamespace and relkind in ('r', 'p')"
            " and not relispartition and relname <> 'schema_migration'"
        ).fetchall()
        return {
            table: [row for (row,) in administrator.execute(f"select to_jsonb(t) from okcm.{table} t order by 1")]
            for (table,) in tables
        }


def test_upgrade_applies_later_migrations_and_keeps_every_row(released: Field) -> None:
    before = stored_rows(released)
    later = tuple(migration.name for migration in read_migrations()[RELEASED:])
    assert prepare(released.server, released.name) == (*later, NEXT.name)
    assert prepare(released.server, released.name) == ()
    after = stored_rows(released)
    for table, rows in before.items():
        assert rows, table
        assert len(after[table]) == len(rows), table
        # A later migration may add columns; it changes no value of an existing row.
        assert all(old.items() <= new.items() for old, new in zip(rows, after[table], strict=True)), table


def test_processes_work_after_an_upgrade(released: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    with released.open("worker", max_size=1).tenant_tx("acme") as tx:
        first = tx.audit.append(an_audit_event("before"))
    prepare(released.server, released.name)
    monkeypatch.undo()
    with released.open("crypto").tenant_tx("acme") as tx:
        assert tx.services.caller("1a2b") is not None
        assert [row.object_id for row in tx.objects.of_service("orders")] == ["object-orders"]
        tx.audit.append_all([an_audit_event("after")])
    with released.open("worker", max_size=1).tenant_tx("acme") as tx:
        assert tx.audit.append(an_audit_event("before")) == first
        assert verify_chain(tx.audit.records()) == tx.audit.head()
