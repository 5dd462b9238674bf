"""The status of each component, from reports and counts alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tenants.status import REPORT_SECONDS, ProcessKind, Status
from dashboard.operations import fleet_view
from dashboard.operations.fleet_view import Component, FleetFacts
from database.audit import HourCount
from database.platform.operators import Backlog
from database.platform.processes import ProcessReport, watch_name

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
WATCH = watch_name("eu-west-1", 0, 1)
WORKER = ProcessReport(ProcessKind.WORKER, "host-1/1", NOW, 0.5, "ok", watches=(WATCH,))
CRYPTO = ProcessReport(ProcessKind.CRYPTO, "host-2/2", NOW, 0.5, "ok")
SHIPPER = ProcessReport(ProcessKind.SHIPPER, "host-2/3", NOW, 0.5, None)
NOTHING_WAITS = Backlog(0, None, 0, 0, None)
WELL = FleetFacts(NOW, (WORKER, CRYPTO, SHIPPER), NOTHING_WAITS, ("eu-west-1",), 1)


def status(facts: FleetFacts, name: str) -> Component:
    return next(one for one in fleet_view.components(facts) if one.name == name)


def test_a_measured_fleet_without_faults_is_operational() -> None:
    found = fleet_view.components(WELL)
    assert {one.status for one in found} == {Status.OPERATIONAL}
    assert fleet_view.overall(found) is Status.OPERATIONAL
    assert not any(one.detail for one in found)


@pytest.mark.parametrize(
    ("reports", "name", "wanted", "said"),
    [
        (
            (WORKER._replace(key_server="vault_unavailable"), CRYPTO._replace(key_server="vault_unavailable"), SHIPPER),
            fleet_view.KEY_SERVER,
            Status.STOPPED,
            "Seen by worker host-1/1: vault_unavailable; crypto service host-2/2: vault_unavailable.",
        ),
        (
            (WORKER, CRYPTO._replace(key_server="vault_unavailable"), SHIPPER),
            fleet_view.KEY_SERVER,
            Status.DEGRADED,
            "Not by crypto service host-2/2: vault_unavailable.",
        ),
        (
            (WORKER._replace(faults=("temporal_unavailable",)), CRYPTO, SHIPPER),
            fleet_view.TEMPORAL,
            Status.STOPPED,
            "No worker reaches it.",
        ),
        (
            (WORKER, WORKER._replace(instance="host-4/1", faults=("temporal_unavailable",)), CRYPTO, SHIPPER),
            fleet_view.TEMPORAL,
            Status.DEGRADED,
            "Not reached by host-4/1.",
        ),
        ((CRYPTO, SHIPPER), fleet_view.WORKERS, Status.STOPPED, "Start a worker."),
        ((WORKER._replace(age=20.0), CRYPTO, SHIPPER), fleet_view.WORKERS, Status.STOPPED, "host-1/1 for 20 s."),
        ((CRYPTO, SHIPPER), fleet_view.TEMPORAL, Status.UNKNOWN, "No worker reports"),
        (
            (WORKER, WORKER._replace(instance="host-4/1", age=60.0), CRYPTO, SHIPPER),
            fleet_view.WORKERS,
            Status.DEGRADED,
            "No report: host-4/1 for 1 min 0 s.",
        ),
        (
            (WORKER, CRYPTO._replace(faults=("journal_not_writable",)), SHIPPER),
            fleet_view.CRYPTO_SERVICE,
            Status.STOPPED,
            "Faults: host-2/2: journal_not_writable.",
        ),
        (
            (WORKER, CRYPTO, CRYPTO._replace(instance="host-2/9", age=9.0), SHIPPER),
            fleet_view.CRYPTO_SERVICE,
            Status.DEGRADED,
            "No report: host-2/9 for 9.0 s.",
        ),
        ((WORKER,), fleet_view.CRYPTO_SERVICE, Status.UNKNOWN, "No process of the crypto service is running."),
        ((WORKER, CRYPTO), fleet_view.SHIPPERS, Status.STOPPED, "No shipper reports on host-2"),
        (
            (WORKER, CRYPTO, CRYPTO._replace(instance="host-3/1"), SHIPPER),
            fleet_view.SHIPPERS,
            Status.DEGRADED,
            "No shipper reports on host-3",
        ),
        ((WORKER._replace(watches=()), CRYPTO, SHIPPER), fleet_view.ROOT_KEYS, Status.STOPPED, "eu-west-1/0/1"),
        (
            (WORKER._replace(key_server="vault_sealed"), CRYPTO._replace(key_server="vault_sealed"), SHIPPER),
            fleet_view.ROOT_KEYS,
            Status.UNKNOWN,
            "A check needs the key server",
        ),
    ],
)
def test_a_fault_names_its_component_and_its_processes(
    reports: tuple[ProcessReport, ...], name: str, wanted: Status, said: str
) -> None:
    facts = replace(WELL, reports=reports)
    one = status(facts, name)
    assert one.status is wanted
    assert said in one.detail
    assert fleet_view.overall(fleet_view.components(facts)) is not Status.OPERATIONAL


def test_each_part_of_root_key_monitoring_needs_a_worker() -> None:
    one = status(replace(WELL, regions=("eu-west-1", "us-east-1"), shards=1), fleet_view.ROOT_KEYS)
    assert (one.status, one.words) == (Status.DEGRADED, "1 of 2 parts monitored")
    assert "No worker monitors us-east-1/0/1" in one.detail
    assert status(replace(WELL, regions=()), fleet_view.ROOT_KEYS).status is Status.UNKNOWN


def test_waiting_and_dead_notifications_are_counted() -> None:
    fresh = Backlog(2, NOW - timedelta(seconds=5), 0, 0, None)
    assert status(replace(WELL, backlog=fresh), fleet_view.NOTIFICATIONS).words == "2 in delivery"
    late = status(replace(WELL, backlog=Backlog(2, NOW - timedelta(minutes=5), 1, 0, None)), fleet_view.NOTIFICATIONS)
    assert (late.status, late.words) == (
        Status.DEGRADED,
        "2 waiting, the oldest for 5 min 0 s, 1 no longer attempted",
    )


@pytest.mark.parametrize(("days", "wanted"), [(10, Status.DEGRADED), (-1, Status.STOPPED)])
def test_an_authority_that_ends_soon_is_reported(days: int, wanted: Status) -> None:
    ending = Backlog(0, None, 0, 1, NOW + timedelta(days=days))
    assert status(replace(WELL, backlog=ending), fleet_view.AUTHORITIES).status is wanted


@pytest.mark.parametrize(
    ("hours", "outcome", "wanted"),
    [(3, "success", Status.OPERATIONAL), (3, "failure", Status.DEGRADED), (30, "success", Status.UNKNOWN)],
)
def test_the_newest_reconciliation_is_shown_with_its_age(hours: int, outcome: str, wanted: Status) -> None:
    recorded = (
        HourCount(NOW - timedelta(hours=60), "success", 1),
        HourCount(NOW - timedelta(hours=hours), outcome, 1),
    )
    one = status(replace(WELL, reconciliations=recorded), fleet_view.RECONCILIATION)
    assert one.status is wanted
    assert f"{hours} hours ago" in one.words or "1 day ago" in one.words


def test_without_the_database_only_the_database_has_a_status() -> None:
    found = fleet_view.unreadable()
    assert [one.name for one in found if one.status is not Status.UNKNOWN] == [fleet_view.DATABASE]
    assert {one.name for one in fleet_view.components(WELL)} <= {one.name for one in found}
    assert fleet_view.overall(found) is Status.STOPPED


_REPORTS = st.lists(
    st.builds(
        ProcessReport,
        st.sampled_from(ProcessKind),
        st.sampled_from(["host-1/1", "host-2/2"]),
        st.just(NOW),
        st.floats(REPORT_SECONDS, 600, exclude_min=True),
        st.sampled_from(["ok", "vault_unavailable", None]),
        watches=st.just((WATCH,)),
    ),
    max_size=6,
)


@given(_REPORTS)
def test_old_reports_make_no_component_operational_that_only_processes_measure(reports: list[ProcessReport]) -> None:
    read_now = {fleet_view.DATABASE, fleet_view.NOTIFICATIONS, fleet_view.AUTHORITIES}
    found = fleet_view.components(replace(WELL, reports=reports))
    assert {one.name for one in found if one.status is Status.OPERATIONAL} == read_now


def test_each_process_has_a_row_with_its_status() -> None:
    rows = fleet_view.process_rows((WORKER, CRYPTO._replace(key_server="vault_sealed"), SHIPPER._replace(age=30.0)))
    assert [(row["Process"], row["Status"]) for row in rows] == [
        ("Worker", "Reports"),
        ("Crypto service", "Fault"),
        ("Audit shipper", "Silent"),
    ]
