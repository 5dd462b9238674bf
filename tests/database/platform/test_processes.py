"""Reports of processes, and the facts that a verdict is made from, on a real database."""

from datetime import UTC, datetime, timedelta

import pytest

from core.errors.platform import DatabaseRefused
from core.services import CryptoOperation
from core.tenants.lifecycle import State
from core.tenants.status import ProcessKind, Status, Subject, verdict
from database.connection.database import Database
from database.platform.processes import ProcessReporter, process_reports, watch_name
from database.platform.status import read_facts
from database.usage import UsesRow
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

template = filled_template(two_tenants())

STARTED = datetime(2026, 11, 29, 12, tzinfo=UTC)


def reporter(database: Database, kind: ProcessKind, instance: str = "host/1") -> ProcessReporter:
    return ProcessReporter(database, kind, instance, STARTED)


def test_the_newest_report_of_each_instance_is_returned_with_its_age(field: Field) -> None:
    crypto, worker = field.open("crypto"), field.open("worker")
    reporter(crypto, ProcessKind.CRYPTO).write("vault_unavailable", applied=3)
    reporter(crypto, ProcessKind.CRYPTO).write("ok", faults=["journal_not_writable"], applied=7)
    reporter(crypto, ProcessKind.SHIPPER).write(None)
    reporter(worker, ProcessKind.WORKER, "other/2").write("ok", watches=[watch_name("eu-west-1", 0, 4)])
    for role in ("dashboard", "operator"):
        found = process_reports(field.open(role))
        assert [(one.process, one.host, one.key_server, one.applied) for one in found] == [
            (ProcessKind.CRYPTO, "host", "ok", 7),
            (ProcessKind.SHIPPER, "host", None, None),
            (ProcessKind.WORKER, "other", "ok", None),
        ]
        assert found[0].faults == ("journal_not_writable",)
        assert found[2].watches == ("eu-west-1/0/4",)
        assert all(0 <= one.age < 60 for one in found)


def test_old_reports_are_deleted_and_a_stopping_process_withdraws_its_own(field: Field) -> None:
    crypto = field.open("crypto")
    for instance in ("host/1", "host/2", "host/3"):
        reporter(crypto, ProcessKind.CRYPTO, instance).write("ok")
    with field.administrator() as administrator:
        administrator.execute(
            "update okcm.process_report set reported_at = now() - interval '11 minutes' where instance = 'host/1'"
        )
    reporter(crypto, ProcessKind.CRYPTO, "host/2").withdraw()
    reporter(crypto, ProcessKind.CRYPTO, "host/3").write("ok")
    assert [one.instance for one in process_reports(field.open("dashboard"))] == ["host/3"]


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("crypto", ProcessKind.WORKER),
        ("worker", ProcessKind.CRYPTO),
        ("worker", ProcessKind.SHIPPER),
        ("dashboard", ProcessKind.WORKER),
        ("operator", ProcessKind.CRYPTO),
        ("marketplace", ProcessKind.CRYPTO),
    ],
)
def test_no_process_reports_or_withdraws_for_another_kind(field: Field, role: str, kind: ProcessKind) -> None:
    forger = reporter(field.open(role), kind)
    with pytest.raises(DatabaseRefused):
        forger.write("ok")
    with pytest.raises(DatabaseRefused):
        forger.withdraw()
    assert process_reports(field.open("dashboard")) == []


def test_marketplace_reads_no_reports(field: Field) -> None:
    with pytest.raises(DatabaseRefused):
        process_reports(field.open("marketplace"))


def test_facts_contain_what_was_measured_of_this_tenant_alone(field: Field) -> None:
    crypto, dashboard = field.open("crypto"), field.open("dashboard")
    now = datetime.now(UTC)
    minute = now.replace(second=0, microsecond=0)
    uses = UsesRow(minute, "orders", CryptoOperation.ENCRYPT, "", 10, 100)
    refused = UsesRow(minute, "orders", CryptoOperation.DECRYPT, "vault_unavailable", 2, 0)
    with crypto.tenant_tx("acme") as tx:
        tx.usage.add([uses, refused], "batch")
    with crypto.tenant_tx("beta") as tx:
        tx.usage.add([UsesRow(minute - timedelta(minutes=7), "orders", CryptoOperation.ENCRYPT, "x", 5, 0)], "batch")
    reporter(crypto, ProcessKind.CRYPTO).write("ok")
    reporter(crypto, ProcessKind.SHIPPER).write(None)
    acme, beta = (read_facts(dashboard, tenant, 4, now) for tenant in ("acme", "beta"))
    assert acme is not None
    assert beta is not None
    assert (acme.answered, acme.refused, acme.causes) == (10, 2, ("vault_unavailable",))
    assert (beta.answered, beta.refused, beta.causes) == (0, 0, ())
    assert verdict(acme).of(Subject.REQUESTS).status is Status.DEGRADED
    assert verdict(beta).of(Subject.REQUESTS).status is Status.OPERATIONAL
    assert verdict(beta).of(Subject.CHANGES).status is Status.STOPPED
    assert acme.state is State.PROVISIONING
    assert read_facts(dashboard, "unknown-tenant", 4, now) is None
