"""A step that omits an audit record is found in the key server's own log, by name."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import audit as reconciling
from activities import provisioning as keys
from activities import services
from activities.audit import ReconcileActivities
from activities.audit_trail import append_audit_event
from activities.offboarding import destruction
from activities.rotation import steps as rotation
from compliance.reconciliation.ledger import ServerLog, our_records, reconcile_all
from compliance.reconciliation.model import CHECKING, DiscrepancyKind
from compliance.reconciliation.vault_log import read_log
from core import names as ids
from core.keys.rotation import RotationScope
from core.tenants.provisioning import Step
from openkcm.contract.audit_events import AuditName
from tests.activities.counting import UNCOUNTED, Counted, counting
from tests.activities.provisioning import Provisioning, run_steps
from tests.activities.rotating import Rotating
from tests.vault import server as openbao
from worker.wiring import utc_now

Differences = Callable[[Provisioning], list[tuple[DiscrepancyKind, str]]]


@pytest.fixture
def log(key_server: openbao.Server) -> Callable[..., ServerLog]:
    """Return what reads the key server's log of this test; MUST be asked for before the tenant is made."""
    begun = datetime.now(UTC)

    def read(_since: datetime = begun, progress: Callable[[int], None] = lambda _: None) -> ServerLog:
        log = read_log([key_server.folder / "logs" / "audit.log"], begun, progress)
        log.begin = begun - timedelta(minutes=5)  # what the test records is to be judged
        return log

    return read


@pytest.fixture
def differences(log: Callable[..., ServerLog]) -> Differences:
    """Return what finds how the two sides of a tenant differ; MUST be asked for before the tenant is made."""

    def found(tenant: Provisioning) -> list[tuple[DiscrepancyKind, str]]:
        read = log()
        records = our_records(tenant.database, tenant.tenant_id, None)
        closed = reconcile_all(read, {tenant.tenant_id: records}, read.begin, datetime.now(UTC))
        return [(one.kind, one.what) for one in closed.tenants[tenant.tenant_id]]

    return found


def forgetting(name: AuditName) -> Callable[..., None]:
    """Return a `record` that says everything but this."""

    def forgetful(tx: Any, step: Any, said: AuditName, *more: Any, **details: str) -> None:
        if said is not name:
            append_audit_event(tx, step, said, *more, **details)

    return forgetful


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (AuditName.TENANT_KEY_ROTATED, "was rotated, version 2"),
        (AuditName.TENANT_KEY_RETIRED, "had its older versions retired, version 2"),
        (AuditName.TENANT_KEY_TRIMMED, "had its older versions deleted, version 2"),
    ],
    ids=["rotated", "retired", "trimmed"],
)
def test_a_rotation_that_forgets_a_record_is_told(differences, rotating, monkeypatch, name, what) -> None:
    monkeypatch.setattr(rotation, "record", forgetting(name))
    rotating.rotate(rotating.wants(services=RotationScope.ALL, compromised=True))
    found = differences(rotating.tenant)
    assert (DiscrepancyKind.UNRECORDED_CHANGE, f"{ids.l2_key(rotating.tenant_id)} {what}") in found
    # The proof that the new version works belongs to an operation that has other records.
    assert len(found) == 1


def test_a_certificate_that_nobody_wrote_down_is_told(differences, rotating, monkeypatch) -> None:
    monkeypatch.setattr(services, "record", forgetting(AuditName.SERVICE_CERTIFICATE_ISSUED))
    rotating.connection.ask()
    rotating.connection.connect()
    ((kind, what),) = differences(rotating.tenant)
    assert (kind, what) == (
        DiscrepancyKind.UNRECORDED_CHANGE,
        f"something was signed with {ids.ca_key(rotating.tenant_id)}",
    )


def test_a_key_made_without_a_word_is_told(differences, tenant, monkeypatch) -> None:
    monkeypatch.setattr(keys, "record", forgetting(AuditName.PAYLOAD_KEY_CREATED))
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS])
    assert differences(tenant) == [(DiscrepancyKind.UNRECORDED_CHANGE, f"{ids.payload_key(tenant.tenant_id)} was made")]


def test_keys_destroyed_without_a_word_are_told(differences, leaving, monkeypatch) -> None:
    monkeypatch.setattr(destruction, "record", forgetting(AuditName.KEY_DESTROYED))
    leaving.leave(now=True)
    leaving.through()
    key = ids.l2_key(leaving.tenant_id)
    told = {what for _, what in differences(leaving.tenant)}
    assert told >= {f"{key} was made deletable", f"{key} was deleted"}


# ── by the clock ─────────────────────────────────────────────────────────────────────────────────────────────────────


def reconcile(rotating: Rotating, log: Callable[..., ServerLog]) -> Counted:
    """Run the schedule's step a while later and return what it counted."""
    database, later = rotating.tenant.database, CHECKING + timedelta(seconds=1)
    read = log, partial(our_records, database), lambda: datetime.now(UTC) + later
    activities = ReconcileActivities(database, *read, UNCOUNTED)
    return counting(activities.reconcile_audit)


def told(rotating: Rotating, name: AuditName) -> list[dict[str, Any]]:
    return [record["details"] | record for record in rotating.records(name)]


def test_schedule_records_a_day_without_differences(log, rotating, monkeypatch) -> None:
    monkeypatch.setattr(reconciling, "_BEAT_BYTES", 1000)  # so that it sends heartbeats
    rotating.rotate(rotating.wants(compromised=True))
    reconcile(rotating, log)
    (day,) = told(rotating, AuditName.AUDIT_RECONCILED)
    assert (day["outcome"], day["differences"]) == ("success", "0")
    assert int(day["requests"]) > 10
    assert told(rotating, AuditName.AUDIT_DIFFERENCE) == []


def test_schedule_records_and_counts_each_difference_once(log, rotating, vault_admin) -> None:
    key = ids.l2_key(rotating.tenant_id)
    vault_admin.write(f"transit/keys/{key}/rotate")
    reconcile(rotating, log)
    counted = reconcile(rotating, log).of("openkcm_audit_differences")
    found = told(rotating, AuditName.AUDIT_DIFFERENCE)
    assert {(one["subject"], one["severity"], one["what"]) for one in found} == {
        ("unrecorded-change", "alarm", f"{key} was rotated, version 2"),
        ("unknown-identity", "alarm", f"{key} was rotated, version 2 by approle test-admin, for whom it is not"),
    }
    assert len(found) == 2
    (day,) = told(rotating, AuditName.AUDIT_RECONCILED)
    assert (day["outcome"], day["differences"]) == ("failure", "2")
    assert {"kind": "unrecorded-change"} in counted
    assert {"kind": "unknown-identity"} in counted


def test_where_the_log_cannot_be_read_nothing_is_done(tenant: Provisioning) -> None:
    activities = ReconcileActivities(tenant.database, None, lambda *_: pytest.fail("read"), utc_now, UNCOUNTED)
    ActivityEnvironment().run(activities.reconcile_audit)
