"""The verdict over measured facts: nothing is operational that was not measured, or that rejects requests."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from core.tenants.status import (
    CHECK_AGE,
    OPERATION,
    REPORT_SECONDS,
    CertificateFacts,
    CoverageFacts,
    Facts,
    IsolationFacts,
    ProcessFacts,
    ProcessKind,
    RootKeyFacts,
    Status,
    Subject,
    verdict,
)

NOW = datetime(2026, 11, 29, 17, 14, tzinfo=UTC)
WATCH = "eu-west-1/0/4"
UNREACHABLE = "root_key_unreachable"
ONE, ALL = CertificateFacts(2, expired=("ledger",)), CertificateFacts(1, expired=("ledger",))
OLD = IsolationFacts(NOW - timedelta(hours=27), passed=True)
FAILED = IsolationFacts(NOW, passed=False)
CRYPTO = ProcessFacts(ProcessKind.CRYPTO, "host", 0.5, "ok")
SHIPPER = ProcessFacts(ProcessKind.SHIPPER, "host", 0.5)
WORKER = ProcessFacts(ProcessKind.WORKER, "host", 0.5, "ok", watches=(WATCH,))
WELL = Facts(
    measured_at=NOW,
    state=State.ACTIVE,
    processes=(CRYPTO, SHIPPER, WORKER),
    answered=120,
    root_key=RootKeyFacts("ok", WATCH),
    certificates=CertificateFacts(3),
    isolation=IsolationFacts(NOW - timedelta(minutes=21), passed=True),
    coverage=CoverageFacts(3, 3, is_complete=True),
    approvals=0,
)

ages = st.one_of(st.floats(0, REPORT_SECONDS), st.floats(REPORT_SECONDS, 600))
servers = st.sampled_from([None, "ok", "vault_unavailable"])
processes = st.builds(
    ProcessFacts,
    st.sampled_from(ProcessKind),
    st.sampled_from(["host", "other"]),
    ages,
    servers,
    st.sampled_from([(), ("journal_not_writable",)]),
    st.sampled_from([(), (WATCH,)]),
)
facts = st.builds(
    Facts,
    measured_at=st.just(NOW),
    state=st.sampled_from(State),
    locks=st.frozensets(st.sampled_from(LockReason), max_size=2),
    processes=st.one_of(st.none(), st.lists(processes, max_size=5)),
    answered=st.one_of(st.none(), st.integers(0, 1000)),
    refused=st.integers(0, 3),
    root_key=st.one_of(
        st.none(),
        st.builds(RootKeyFacts, st.sampled_from(["ok", "root_key_disabled", "root_key_unreachable"]), st.just(WATCH)),
    ),
    certificates=st.one_of(
        st.none(),
        st.builds(CertificateFacts, st.integers(0, 3), st.sampled_from([(), ("a",)]), st.sampled_from([(), ("b",)])),
    ),
    isolation=st.one_of(
        st.none(),
        st.builds(IsolationFacts, st.integers(0, 60).map(lambda h: NOW - timedelta(hours=h)), passed=st.booleans()),
    ),
    coverage=st.one_of(st.none(), st.builds(CoverageFacts, st.integers(0, 3), st.just(3), is_complete=st.booleans())),
    approvals=st.one_of(st.none(), st.integers(0, 2)),
)


@given(facts)
def test_no_rejection_and_no_old_measurement_is_operational(given_facts: Facts) -> None:
    found = verdict(given_facts)
    if found.overall is not Status.OPERATIONAL:
        return
    assert all(found.of(subject).status is Status.OPERATIONAL for subject in OPERATION)
    assert given_facts.state is State.ACTIVE
    assert not given_facts.locks & {LockReason.BREACH}
    assert given_facts.answered is not None
    assert not given_facts.refused
    current = [one for one in given_facts.processes or () if one.age <= REPORT_SECONDS]
    assert all(any(one.kind is kind for one in current) for kind in ProcessKind)
    assert not any(one.faults for one in current if one.kind is not ProcessKind.SHIPPER)
    assert given_facts.isolation is not None
    assert given_facts.isolation.passed
    assert NOW - given_facts.isolation.checked_at <= CHECK_AGE
    if given_facts.root_key is not None:
        assert given_facts.root_key.health == "ok"


@given(facts)
def test_each_subject_with_a_fault_is_named_and_never_operational(given_facts: Facts) -> None:
    found = verdict(given_facts)
    assert [one.subject for one in found.subjects] == list(Subject)
    assert all(one.words for one in found.subjects)
    if given_facts.refused:
        assert found.of(Subject.REQUESTS).status in {Status.DEGRADED, Status.STOPPED}
        assert found.overall in {Status.DEGRADED, Status.STOPPED}
    if given_facts.state is State.LOCKED:
        assert found.overall is Status.STOPPED


def test_tenant_with_current_measurements_is_operational() -> None:
    found = verdict(WELL)
    assert found.overall is Status.OPERATIONAL
    assert {one.status for one in found.subjects} == {Status.OPERATIONAL}


@pytest.mark.parametrize(
    ("changed", "subject", "status", "overall"),
    [
        ({"refused": 3, "causes": ("vault_unavailable",)}, Subject.REQUESTS, Status.DEGRADED, Status.DEGRADED),
        ({"refused": 3, "answered": 0}, Subject.REQUESTS, Status.STOPPED, Status.STOPPED),
        ({"answered": None}, Subject.REQUESTS, Status.UNKNOWN, Status.UNKNOWN),
        ({"processes": (CRYPTO, WORKER)}, Subject.REQUESTS, Status.UNKNOWN, Status.UNKNOWN),
        ({"state": State.LOCKED}, Subject.TENANT, Status.STOPPED, Status.STOPPED),
        ({"state": State.SUSPENDED}, Subject.TENANT, Status.DEGRADED, Status.DEGRADED),
        ({"state": State.PROVISIONING}, Subject.TENANT, Status.UNKNOWN, Status.UNKNOWN),
        ({"processes": (SHIPPER, WORKER)}, Subject.CRYPTO_SERVICE, Status.UNKNOWN, Status.UNKNOWN),
        ({"processes": None}, Subject.CHANGES, Status.UNKNOWN, Status.UNKNOWN),
        ({"processes": (CRYPTO, SHIPPER)}, Subject.CHANGES, Status.STOPPED, Status.DEGRADED),
        ({"processes": (CRYPTO, SHIPPER)}, Subject.ROOT_KEY, Status.UNKNOWN, Status.DEGRADED),
        ({"root_key": RootKeyFacts("root_key_disabled", WATCH)}, Subject.ROOT_KEY, Status.STOPPED, Status.DEGRADED),
        ({"root_key": RootKeyFacts(UNREACHABLE, WATCH)}, Subject.ROOT_KEY, Status.DEGRADED, Status.DEGRADED),
        (
            {"certificates": ONE},
            Subject.CERTIFICATES,
            Status.DEGRADED,
            Status.DEGRADED,
        ),
        (
            {"certificates": ALL},
            Subject.CERTIFICATES,
            Status.STOPPED,
            Status.DEGRADED,
        ),
        ({"isolation": None}, Subject.ISOLATION, Status.UNKNOWN, Status.UNKNOWN),
        (
            {"isolation": OLD},
            Subject.ISOLATION,
            Status.UNKNOWN,
            Status.UNKNOWN,
        ),
        ({"isolation": FAILED}, Subject.ISOLATION, Status.STOPPED, Status.STOPPED),
        ({"coverage": CoverageFacts(2, 3, is_complete=False)}, Subject.COVERAGE, Status.DEGRADED, Status.OPERATIONAL),
        ({"coverage": CoverageFacts(0, 0, is_complete=True)}, Subject.COVERAGE, Status.UNKNOWN, Status.OPERATIONAL),
        ({"approvals": 1}, Subject.APPROVALS, Status.DEGRADED, Status.OPERATIONAL),
    ],
)
def test_each_fault_has_its_status(
    changed: dict[str, object], subject: Subject, status: Status, overall: Status
) -> None:
    found = verdict(replace(WELL, **changed))  # type: ignore[arg-type]  # one field of several types
    assert (found.of(subject).status, found.overall) == (status, overall)


def test_silent_key_server_stops_a_tenant_once_requests_are_rejected() -> None:
    silent = tuple(replace(one, key_server="vault_unavailable") for one in (CRYPTO, WORKER))
    found = verdict(replace(WELL, processes=(*silent, SHIPPER)))
    assert found.of(Subject.KEY_SERVER).status is Status.STOPPED
    assert found.of(Subject.ROOT_KEY).status is Status.UNKNOWN
    assert found.overall is Status.DEGRADED  # keys in memory still answer
    rejecting = verdict(replace(WELL, processes=(*silent, SHIPPER), refused=2))
    assert rejecting.overall is Status.STOPPED
    assert verdict(replace(WELL, processes=(*silent, SHIPPER), answered=0)).overall is Status.STOPPED


def test_platform_root_key_is_as_healthy_as_the_key_server() -> None:
    platform = replace(WELL, root_key=None)
    assert verdict(platform).of(Subject.ROOT_KEY).words == "Platform key"
    silent = replace(platform, processes=(replace(CRYPTO, key_server="vault_unavailable"), SHIPPER))
    assert verdict(silent).of(Subject.ROOT_KEY).status is Status.STOPPED


def test_one_of_several_processes_with_a_fault_degrades_the_crypto_service() -> None:
    faulty = replace(CRYPTO, faults=("journal_not_writable",))
    assert verdict(replace(WELL, processes=(CRYPTO, faulty, SHIPPER, WORKER))).of(Subject.CRYPTO_SERVICE).words == (
        "1 of 2 processes ready"
    )
    silent = replace(CRYPTO, age=REPORT_SECONDS + 1)
    degraded = verdict(replace(WELL, processes=(CRYPTO, silent, SHIPPER, WORKER)))
    assert degraded.of(Subject.CRYPTO_SERVICE).status is Status.DEGRADED
    stopped = verdict(replace(WELL, processes=(faulty, SHIPPER, WORKER)))
    assert stopped.of(Subject.CRYPTO_SERVICE).status is Status.STOPPED
    assert stopped.overall is Status.STOPPED
