import re

import pytest

from compliance.isolation.postgres.row_security import RowSecuritySuite
from core.errors.compliance import CanaryMissing
from core.errors.platform import DatabaseUnavailable, SchemaOutdated
from core.isolation import breaches
from database.connection.database import Database
from tests.database.builders import a_leaving
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants


def fill(field: Field) -> None:
    two_tenants(root_keys=True)(field)
    for tenant in ("acme", "beta"):
        a_leaving(field, tenant)


template = filled_template(fill)


@pytest.fixture
def probe(worker: Database) -> RowSecuritySuite:
    return RowSecuritySuite(worker)


def found(probe: RowSecuritySuite) -> set[str]:
    forth, back = probe.attack_each_other("acme", "beta")
    return {*breaches(tuple(forth)), *breaches(tuple(back))}


def test_every_attack_is_rejected_in_both_directions(probe: RowSecuritySuite) -> None:
    forth, back = probe.attack_each_other("acme", "beta")
    assert breaches((*forth, *back)) == ()
    assert [result.name for result in forth] == [result.name for result in back]
    assert {result.clause for result in forth} == {"M1", "M2"}
    assert len({result.name for result in forth}) == 11


def test_attacks_leave_no_data(probe: RowSecuritySuite, field: Field) -> None:
    counts = "select (select count(*) from okcm.key), (select count(*) from okcm.audit_event), max(xmin::text),"
    counts += " (select count(*) from okcm.service), (select count(*) from okcm.service_key)"
    counts += " from okcm.tenant"
    with field.administrator() as administrator:
        before = administrator.execute(counts).fetchone()
        probe.attack_each_other("acme", "beta")
        assert administrator.execute(counts).fetchone() == before


@pytest.mark.parametrize("pair", [("acme", "missing"), ("missing", "acme")], ids=["victim", "attacker"])
def test_a_tenant_without_rows_proves_nothing(probe: RowSecuritySuite, pair: tuple[str, str]) -> None:
    with pytest.raises(CanaryMissing):
        probe.attack_each_other(*pair)


@pytest.mark.parametrize(
    ("weakness", "breached"),
    [
        ("drop policy signed on okcm.tenant; drop policy signed on okcm.key", "switched-setting-write"),
        ("drop policy signed on okcm.audit_event", "switched-setting-read"),
        ("alter table okcm.key disable row level security", "plain-write"),
        ("alter table okcm.outbox disable row level security", "plain-read"),
        ("create policy hole on okcm.route for select to okcm_worker using (true)", "plain-read"),
        ("alter table okcm.route drop constraint route_tenant_id_l2_key_fkey", "refer-to-foreign-key"),
        ("alter table okcm.service_key drop constraint service_key_tenant_id_l2_key_fkey", "refer-to-foreign-key"),
        ("alter table okcm.service_key disable row level security", "plain-read"),
        ("drop policy signed on okcm.managed_object", "switched-setting-read"),
        ("create policy hole on okcm.usage_minute for select to okcm_worker using (true)", "plain-read"),
    ],
)
def test_missing_control_is_detected(probe: RowSecuritySuite, field: Field, weakness: str, breached: str) -> None:
    with field.administrator() as administrator:
        administrator.execute(weakness)
    assert f"row-security-{breached}" in found(probe)


@pytest.mark.parametrize(
    ("bound_to", "instead", "pretence"),
    [
        ("pg_backend_pid()", "pg_backend_pid() + 1", "other-session"),
        ("transaction_timestamp())", "transaction_timestamp()) - 0.000001", "other-transaction"),
    ],
)
def test_context_of_another_transaction_is_detected_when_the_database_accepts_it(
    probe: RowSecuritySuite, field: Field, bound_to: str, instead: str, pretence: str
) -> None:
    with field.administrator() as administrator:
        [definition] = administrator.execute("select pg_get_functiondef('okcm.ctx_ok()'::regprocedure)").fetchone() or (
            "",
        )
        [(_, check)] = re.findall(r"(return )(exists.*?);\nend", definition, re.DOTALL)
        weak = definition.replace(check, f"{check} or {check.replace(bound_to, instead)}")
        assert weak.count(instead) == 1
        administrator.execute(weak)
    assert found(probe) == {f"row-security-{pretence}-context-{access}" for access in ("read", "write")}


def test_unexpected_error_is_raised_and_never_counts_as_held(probe: RowSecuritySuite, field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.outbox rename to somewhere_else")
    with pytest.raises(SchemaOutdated, match="42P01"):
        probe.attack_each_other("acme", "beta")


def test_unreachable_database_raises_unavailable(field: Field, probe: RowSecuritySuite) -> None:
    with field.server.offline(field.name), pytest.raises(DatabaseUnavailable):
        probe.attack_each_other("acme", "beta")
    assert found(probe) == set()
