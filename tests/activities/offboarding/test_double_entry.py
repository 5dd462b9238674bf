"""Reconciliation detects a step that omits an audit record, by name, in the key server's log."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import audit as reconciling
from activities import provisioning as keys
from activities import services
from activities.audit import ReconcileActivities
from activities.offboarding import destruction
from activities.rotation import steps as rotation
from activities.runtime.audit_trail import append_audit_event
from compliance.reconciliation.ledger import RecordedStream, ServerLog, our_records, reconcile_all
from compliance.reconciliation.model import CHECKING, LATE, DiscrepancyKind, KeyOperation
from compliance.reconciliation.vault_log import read_log
from core import names as ids
from core.errors.platform import DatabaseUnavailable
from core.keys.root_keys import credentials_context
from core.keys.rotation import RotationScope
from core.tenants.provisioning import Step
from openkcm.contract.audit_events import AuditName
from tests.activities.counting import UNCOUNTED, Counted, counting
from tests.activities.isolation.attacking import attacks_of
from tests.activities.isolation.test_assessment import HELD
from tests.activities.isolation.test_daily import RealControls
from tests.activities.provisioning import Provisioning, run_steps
from tests.activities.rotation.rotating import Rotating
from tests.vault import server as openbao
from worker.wiring import utc_now

Differences = Callable[[Provisioning], list[tuple[DiscrepancyKind, str]]]


@pytest.fixture
def log(key_server: openbao.Server) -> Callable[..., ServerLog]:
    """Return a reader of the key server's log of this test; MUST be requested before the tenant is created."""
    begun = datetime.now(UTC)

    def read(_since: datetime = begun, progress: Callable[[int], None] = lambda _: None) -> ServerLog:
        log = read_log([key_server.folder / "logs" / "audit.log"], begun, progress)
        log.begin = begun - timedelta(minutes=5)  # so that the records of the test are compared
        return log

    return read


@pytest.fixture
def differences(log: Callable[..., ServerLog]) -> Differences:
    """Return a function that finds the discrepancies of a tenant; MUST be requested before the tenant is created."""

    def found(tenant: Provisioning) -> list[tuple[DiscrepancyKind, str]]:
        read = log()
        records = our_records(tenant.database, tenant.tenant_id, None)
        closed = reconcile_all(read, {tenant.tenant_id: records}, read.begin, datetime.now(UTC))
        return [(one.kind, one.what) for one in closed.tenants[tenant.tenant_id]]

    return found


def forgetting(name: AuditName) -> Callable[..., None]:
    """Return an `append_audit_event` that omits one event."""

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
def test_rotation_without_its_record_is_detected(differences, rotating, monkeypatch, name, what) -> None:
    monkeypatch.setattr(rotation, "append_audit_event", forgetting(name))
    rotating.rotate(rotating.wants(services=RotationScope.ALL, compromised=True))
    found = differences(rotating.tenant)
    assert (DiscrepancyKind.UNRECORDED_CHANGE, f"{ids.l2_key(rotating.tenant_id)} {what}") in found
    # The test of the new version belongs to an operation that has other records.
    assert len(found) == 1


def test_forged_uses_after_failed_operations_are_detected(log, rotating, bao) -> None:
    change = rotating.ask(bao.place(), bao.token())
    rotating.run("register-root-key", change)
    stolen = rotating.read(lambda tx: tx.root_keys.sealed(change.request_id))
    rotating.abandon(change, "root_key_refused", "preflight-root-key")
    rotation = rotating.wants()
    rotating.rotate(rotation, until="rotate-tenant-key")
    rotating.give_up(rotation, "vault_unavailable", "prepare-service-keys")
    row, inner = rotating.copies()[0]
    honest = log()
    rotating.tenant_keys.decrypt(credentials_context(rotating.tenant_id, change.request_id), stolen.credentials)
    rotating.tenant_keys.rewrap([(rotating.context(row), inner.decode("ascii"))])
    known = {event.request_id for event in honest.events[rotating.tenant_id]}
    forged = [event for event in log().events[rotating.tenant_id] if event.request_id not in known]
    assert {event.act for event in forged} == {KeyOperation.DECRYPTED, KeyOperation.REWRAPPED}
    later = datetime.now(UTC) + 2 * LATE
    honest.events[rotating.tenant_id] += [replace(event, at=later) for event in forged]
    records = our_records(rotating.tenant.database, rotating.tenant_id, None)
    found = reconcile_all(honest, {rotating.tenant_id: records}, honest.begin, later).tenants[rotating.tenant_id]
    unexplained = [one for one in found if one.at == later]
    assert {one.kind for one in unexplained} == {DiscrepancyKind.UNRECORDED_USE}
    assert {one.reference for one in unexplained} == {event.request_id for event in forged}


def test_unrecorded_certificate_is_detected(differences, rotating, monkeypatch) -> None:
    monkeypatch.setattr(services, "append_audit_event", forgetting(AuditName.SERVICE_CERTIFICATE_ISSUED))
    rotating.connection.ask()
    rotating.connection.connect()
    ((kind, what),) = differences(rotating.tenant)
    assert (kind, what) == (
        DiscrepancyKind.UNRECORDED_CHANGE,
        f"data was signed with {ids.ca_key(rotating.tenant_id)}",
    )


def test_unrecorded_creation_of_a_key_is_detected(differences, tenant, monkeypatch) -> None:
    monkeypatch.setattr(keys, "append_audit_event", forgetting(AuditName.PAYLOAD_KEY_CREATED))
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS])
    assert differences(tenant) == [
        (DiscrepancyKind.UNRECORDED_CHANGE, f"{ids.payload_key(tenant.tenant_id)} was created")
    ]


def test_unrecorded_destruction_of_keys_is_detected(differences, leaving, monkeypatch) -> None:
    monkeypatch.setattr(destruction, "append_audit_event", forgetting(AuditName.KEY_DESTROYED))
    leaving.leave(now=True)
    leaving.through()
    key = ids.l2_key(leaving.tenant_id)
    found = {what for _, what in differences(leaving.tenant)}
    assert found >= {f"{key} was made deletable", f"{key} was deleted"}


def test_record_of_a_daily_isolation_check_needs_no_attack_and_that_of_a_complete_one_does(
    differences, active, settings
) -> None:
    keys = attacks_of(active.parts, settings)
    checked = RealControls(active, keys)
    checked.suites = {"complete": (lambda _tenant_id: HELD,), "daily": (keys.attack_record,)}
    assert [checked.run("examination-first"), checked.run("examination-daily")] == [["complete"], ["daily"]]
    complete, daily = checked.records(AuditName.BOUNDARY_CHECKED)
    assert daily["details"]["scope"] == "daily"
    # The complete assessment has scripted results, so the key server's log has none of its attacks.
    ((kind, what),) = differences(active)
    assert kind is DiscrepancyKind.MISSING_USE
    assert what.startswith(f"record {complete['seq']} states isolation.checked")


# ── by schedule ──────────────────────────────────────────────────────────────────────────────────────────────────────


def reconcile(rotating: Rotating, log: Callable[..., ServerLog]) -> Counted:
    """Run the scheduled step later and return its counters."""
    database, later = rotating.tenant.database, CHECKING + timedelta(seconds=1)
    read = log, partial(our_records, database), lambda: datetime.now(UTC) + later
    activities = ReconcileActivities(database, *read, UNCOUNTED)
    return counting(activities.reconcile_audit)


def details_of(rotating: Rotating, name: AuditName) -> list[dict[str, Any]]:
    return [record["details"] | record for record in rotating.records(name)]


def test_schedule_records_a_day_without_discrepancies(log, rotating, monkeypatch) -> None:
    monkeypatch.setattr(reconciling, "_HEARTBEAT_BYTES", 1000)  # so that it sends heartbeats
    rotating.rotate(rotating.wants(compromised=True))
    reconcile(rotating, log)
    (day,) = details_of(rotating, AuditName.AUDIT_RECONCILED)
    assert (day["outcome"], day["differences"]) == ("success", "0")
    assert int(day["requests"]) > 10
    assert details_of(rotating, AuditName.AUDIT_DIFFERENCE) == []


def test_schedule_records_and_counts_each_discrepancy_once(log, rotating, vault_admin) -> None:
    key = ids.l2_key(rotating.tenant_id)
    vault_admin.write(f"transit/keys/{key}/rotate")
    reconcile(rotating, log)
    counted = reconcile(rotating, log).of("openkcm_audit_discrepancies")
    found = details_of(rotating, AuditName.AUDIT_DIFFERENCE)
    assert {(one["subject"], one["severity"], one["what"]) for one in found} == {
        ("unrecorded-change", "alarm", f"{key} was rotated, version 2"),
        ("unknown-identity", "alarm", f"{key} was rotated, version 2 by approle test-admin, which is not authorized"),
    }
    assert len(found) == 2
    (day,) = details_of(rotating, AuditName.AUDIT_RECONCILED)
    assert (day["outcome"], day["differences"]) == ("failure", "2")
    assert {"kind": "unrecorded-change"} in counted
    assert {"kind": "unknown-identity"} in counted


def test_tenant_whose_stream_cannot_be_read_delays_no_other(log, rotating, request_tenant) -> None:
    failing = request_tenant()
    run_steps(failing, [Step.OPEN_RECORDS, Step.CREATE_KEYS])
    rotating.rotate(rotating.wants())

    def read(tenant_id: str, since: datetime) -> RecordedStream:
        if tenant_id == failing.tenant_id:
            raise DatabaseUnavailable
        return our_records(rotating.tenant.database, tenant_id, since)

    later = CHECKING + timedelta(seconds=1)
    activities = ReconcileActivities(rotating.tenant.database, log, read, lambda: datetime.now(UTC) + later, UNCOUNTED)
    with pytest.raises(DatabaseUnavailable):
        ActivityEnvironment().run(activities.reconcile_audit)
    (day,) = details_of(rotating, AuditName.AUDIT_RECONCILED)
    assert (day["outcome"], day["differences"]) == ("success", "0")
    assert failing.records(AuditName.AUDIT_RECONCILED) == []


def test_reconciliation_without_a_log_does_nothing(tenant: Provisioning) -> None:
    activities = ReconcileActivities(tenant.database, None, lambda *_: pytest.fail("read"), utc_now, UNCOUNTED)
    ActivityEnvironment().run(activities.reconcile_audit)
