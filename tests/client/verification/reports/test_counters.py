"""Derived figures follow from the records alone: independent of the reader, in one pass, for any record content."""

import json
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.isolation import CheckResult, tally
from openkcm.contract.audit_events import AuditName, StoredRecord
from openkcm.verification.isolation_controls import tallied
from openkcm.verification.reports.counters import DENIED, LISTED, counted
from tests.compliance.reports.sample import SINCE, UNTIL, a_busy_report

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def a_record(seq: int, name: str, at: datetime = AT, outcome: str = "success", **fields: object) -> StoredRecord:
    record = {"seq": seq, "name": name, "outcome": outcome, "time": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}", "subject": "s"}
    return StoredRecord(seq, json.dumps({"actor": "a", "actor_kind": "system"} | record | fields), b"")


def of(*records: StoredRecord, since: datetime = SINCE, until: datetime = UNTIL):
    return counted(records, since, until)


def test_period_includes_its_start_and_excludes_its_end():
    instant = timedelta(microseconds=1)
    times = (SINCE - instant, SINCE, UNTIL - instant, UNTIL)
    found = of(*(a_record(seq, "tenant.activated", at) for seq, at in enumerate(times, start=1)))
    assert (found.records, found.first_seq, found.last_seq) == (2, 2, 3)


def test_an_empty_period_has_no_figures():
    found = of()
    assert (found.records, found.first_seq, found.last_seq, found.events, found.access) == (0, 0, 0, (), ())


def test_key_uses_are_counted_by_the_count_in_a_record():
    found = of(
        a_record(1, "crypto.used", actor="orders", details={"count": "900"}),
        a_record(2, "crypto.key_released", actor="orders"),
        a_record(3, "crypto.refused", outcome="refused", actor="orders", details={"count": "7"}),
        a_record(4, "crypto.refused", outcome="refused", actor="unknown"),
    )
    assert [(one.service, one.answered, one.refused) for one in found.access] == [("orders", 901, 7), ("unknown", 0, 1)]
    assert found.denied_total == 8
    assert [one.seq for one in found.denied] == [3, 4]


def test_revocation_is_measured_from_the_rejection_to_the_lock():
    lock = {"root_key": "k", "health": "root_key_disabled"}
    found = of(
        a_record(1, "root_key.unavailable", subject="k", outcome="failure", details={"after": "root_key_disabled"}),
        a_record(2, "tenant.locked", AT + timedelta(seconds=1.5), details=lock),
    )
    assert [one.seconds for one in found.root_key] == [None, 1.5]
    details = {**lock, "health_since": (AT - timedelta(seconds=2)).isoformat()}
    assert of(a_record(1, "tenant.locked", details=details)).root_key[0].seconds == 2.0


@pytest.mark.parametrize(
    "details",
    [
        {"health": "root_key_disabled", "root_key": "another"},
        {"health": "root_key_denied", "root_key": "k"},
        {"health": "root_key_disabled", "root_key": "k", "health_since": "2026-03-01T12:00:02"},
        {"health": "root_key_disabled", "root_key": "k", "health_since": "2027-03-01T12:00:02+00:00"},
    ],
)
def test_revocation_is_not_measured_without_a_matching_rejection(details):
    unavailable = a_record(1, "root_key.unavailable", subject="k", details={"after": "root_key_timeout"})
    assert of(unavailable, a_record(2, "tenant.locked", details=details)).root_key[1].seconds is None


def test_manual_lock_is_a_change_and_not_a_root_key_event():
    found = of(a_record(1, "tenant.locked", details={"locked_by": "manual"}))
    assert (found.changes_total, found.root_key) == (1, ())
    assert found.changes[0].words == "Locked: locked by: manual"


def test_isolation_checks_are_summed_by_control():
    def ran(seq: int, *outcomes: str) -> StoredRecord:
        results = [CheckResult(clause="A1", name="n", outcome=one, seconds=0, evidence="") for one in outcomes]
        outcome = "failure" if "breached" in outcomes else "success"
        return a_record(seq, "isolation.checked", outcome=outcome, details={"clauses": tally(results)})

    found = of(ran(1, "held", "held"), ran(2, "held", "breached", "not-checked"))
    assert found.isolation_runs == 2
    assert [(one.clause, one.held, one.breached, one.not_checked) for one in found.isolation] == [("A1", 3, 1, 1)]


def test_tally_is_parsed_and_an_invalid_one_is_ignored():
    assert tallied("A1 3/0/1; REQ-011 2/0/0") == {"A1": (3, 0, 1), "REQ-011": (2, 0, 0)}
    assert tallied("") == tallied("A1 3/0") == tallied("a 1/2/3") == tallied("A1 1/2/3/4") == {}


def test_lists_keep_the_newest_entries_and_count_all():
    found = of(*(a_record(seq, "crypto.refused", outcome="refused") for seq in range(1, DENIED + 11)))
    assert (len(found.denied), found.denied_total, found.denied[0].seq) == (DENIED, DENIED + 10, 11)
    found = of(*(a_record(seq, "policy.changed") for seq in range(1, LISTED + 11)))
    assert (len(found.changes), found.changes_total, found.changes[-1].seq) == (LISTED, LISTED + 10, LISTED + 10)


def test_too_many_names_are_counted_within_bounds_and_reported():
    found = of(*(a_record(seq, f"crypto.x{seq}", outcome="refused", actor=f"s{seq}") for seq in range(1, 4001)))
    assert not found.is_complete
    assert len(found.events) < 400
    assert len(found.access) <= 2001
    assert sum(one.refused for one in found.access) == 4000


def test_memory_does_not_grow_with_the_stream():
    def peak_memory(number: int) -> int:
        tracemalloc.start()
        counted((a_record(seq, "crypto.refused", outcome="refused") for seq in range(number)), SINCE, UNTIL)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_memory(10)
    assert peak_memory(4_000) < 1.5 * peak_memory(1_000)


hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from([*map(str, AuditName), "crypto.", "x"])
keys = st.sampled_from(
    [
        *("name", "time", "outcome", "actor", "subject", "details"),
        *("actor_kind", "count", "health_since", "clauses", "health"),
    ]
)


@given(
    st.lists(st.dictionaries(keys, hostile | names | st.just("2026-03-01T12:00:00.000000Z"), max_size=8), max_size=5)
)
def test_no_record_content_makes_counting_fail(fields):
    at = {"time": "2026-03-01T12:00:00.000000Z"}
    records = [StoredRecord(seq, json.dumps(at | one), b"") for seq, one in enumerate(fields, start=1)]
    first = counted([*records, StoredRecord(9, "[" * 5000, b""), StoredRecord(10, "\ud800", b"")], SINCE, UNTIL)
    first.model_dump_json()


def test_figures_of_a_busy_year_name_actors_and_events():
    report, records = a_busy_report()
    figures = report.counted
    assert figures == counted(records, SINCE, UNTIL)
    assert figures.records == len(records) - 1
    assert figures.isolation_runs == 365
    assert {one.seconds for one in figures.root_key} == {None, 0.4}
    assert all(one.words and one.actor and one.subject for one in figures.changes)


def test_too_many_controls_and_root_keys_are_counted_within_bounds():
    runs = [
        a_record(at, "isolation.checked", details={"clauses": "; ".join(f"A{at}{one} 1/0/0" for one in range(40))})
        for at in range(1, 5)
    ]
    found = of(*runs)
    assert not found.is_complete
    assert len(found.isolation) == 100
    unavailable = (a_record(at, "root_key.unavailable", subject=f"k{at}", outcome="failure") for at in range(1, 2003))
    assert of(*unavailable).root_key_total == 2002


def test_record_with_an_invalid_time_is_counted_but_not_listed():
    found = of(a_record(1, "policy.changed", time="2026-03-01T99:00:00.000000Z"))
    assert (found.changes, found.changes_total) == ((), 0)
