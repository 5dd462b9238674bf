"""Each schema rule is violated once, in a transaction that is rolled back, and must report the violation."""

from collections.abc import Iterator

import psycopg
import pytest

from database.schema.lint import RULES, findings
from tests.database.fixtures import Field, Server, clone

SEEDS = {
    "row-security-not-forced": "alter table okcm.key no force row level security",
    "reachable-without-tenant-id": "grant select (version) on okcm.schema_migration to okcm_operator",
    "tenant-id-unchecked": "alter table okcm.key drop constraint key_tenant_id_check",
    "signed-policy-missing": "alter policy signed on okcm.route using (true)",
    "permissive-policy-for-everybody": "alter policy own_rows on okcm.key to public",
    "permissive-policy-not-by-tenant": "create policy admin on okcm.key for select to okcm_worker using"
    " (tenant_id = (select current_setting('app.tenant_id', true)) or current_setting('app.admin', true) = 'on')",
    "partition-reachable": "grant select on okcm.audit_event_07 to okcm_worker",
    "view-with-owners-rights": "create view okcm.open with (security_barrier) as select * from okcm.key",
    "materialized-view": "create materialized view okcm.stored as select * from okcm.key",
    "foreign-table": "create extension postgres_fdw; create server elsewhere foreign data wrapper postgres_fdw;"
    "create foreign table okcm.far (x int) server elsewhere",
    "function-search-path-open": "alter function okcm.ctx_ok() set search_path = public, pg_catalog",
    "function-for-everybody": "create function okcm.open() returns int language sql as 'select 1'",
    "function-leakproof": "alter function okcm.ctx_ok() leakproof",
    "key-not-led-by-tenant": "create unique index global_serial on okcm.certificate_authority (serial)",
    "reference-not-led-by-tenant": "create unique index one on okcm.key (name); alter table okcm.outbox"
    " add foreign key (subject) references okcm.key (name)",
    "right-past-row-security": "grant references on okcm.key to okcm_marketplace",
    "granted-to-everybody": "grant select on okcm.key to public",
    "role-too-powerful": "alter role okcm_worker bypassrls",
    "role-missing": "alter role okcm_worker rename to another",
    "owner-can-act": "alter role okcm_owner login",
    "owned-by-another": "create table okcm.stray ()",
    "audit-not-append-only": "alter table okcm.audit_event_03 disable trigger no_truncate",
}
MORE = [
    ("row-security-not-forced", "alter table okcm.audit_event_05 disable row level security"),
    ("signed-policy-missing", "alter policy signed on okcm.route to okcm_worker"),
    ("signed-policy-missing", "create table okcm.fresh (tenant_id text primary key)"),
    ("permissive-policy-not-by-tenant", ("create policy every on okcm.key for select to okcm_worker using"
     " ((select current_setting('app.tenant_id', true)) = '*')")),
    ("permissive-policy-not-by-tenant", "alter policy own_rows on okcm.key with check (true)"),
    ("view-with-owners-rights", "create view okcm.open as select 1"),
    ("function-search-path-open", "alter function okcm.audit_append_all reset search_path"),
    ("role-too-powerful", "grant okcm_owner to okcm_operator"),
    ("role-too-powerful", "grant create on schema okcm to okcm_worker"),
    ("role-too-powerful", "alter role okcm_marketplace inherit"),
    ("audit-not-append-only", "alter table okcm.audit_signed_head enable trigger append_only"),
    ("audit-not-append-only", "drop trigger append_only on okcm.audit_event"),
    ("audit-not-append-only", "alter table okcm.audit_key disable trigger append_only"),
    # The one key that spans tenants is permitted by its name, and only while no role can reach it.
    ("key-not-led-by-tenant", "grant select (recorded_at) on okcm.key_fingerprint to okcm_worker"),
    ("key-not-led-by-tenant", "create unique index another on okcm.key_fingerprint (fingerprint)"),
    ("granted-to-everybody", "grant select on okcm.key_fingerprint to public"),
    ("reachable-without-tenant-id", "grant select on okcm.audit_key to okcm_dashboard"),
]  # fmt: skip


@pytest.fixture(scope="module")
def schema(server: Server, template: str) -> Iterator[Field]:
    with clone(server, template) as field:
        yield field


@pytest.fixture
def seeded(schema: Field) -> Iterator[psycopg.Connection]:
    with schema.administrator() as administrator, administrator.transaction(force_rollback=True):
        yield administrator


def test_current_schema_has_no_findings(seeded: psycopg.Connection) -> None:
    assert findings(seeded) == ()


def test_every_rule_has_a_violation() -> None:
    assert SEEDS.keys() == RULES.keys()


@pytest.mark.parametrize(("rule", "violation"), [*SEEDS.items(), *MORE])
def test_violation_is_reported_by_its_rule(seeded: psycopg.Connection, rule: str, violation: str) -> None:
    seeded.execute(violation)
    assert rule in {finding.rule for finding in findings(seeded)}
