"""The events and usage rows of log records, for arbitrary records in arbitrary slices."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from core.services import CHANGES, RELEASES, CryptoOperation
from crypto_service.audit.events import SEPARATE_REJECTIONS, WalSlice, records
from crypto_service.audit.wal import WalRecord
from crypto_service.interfaces import AuditEntry
from openkcm.contract.audit_events import AuditName

ENTRIES = st.builds(
    AuditEntry,
    st.sampled_from(["acme", "beta"]),
    st.sampled_from(["orders", "users", ""]),
    st.sampled_from([one for one in CryptoOperation if one is not CryptoOperation.OPEN]),
    st.text(max_size=8),
    st.just("corr"),
    st.just("127.0.0.1"),
    st.sampled_from(["", "", "object_not_found", "too_many_requests"]),
    st.integers(1, 5),
    st.integers(0, 1000),
    st.sampled_from([0, 0, 1, 40, 20_000_000]),
    st.just(value=False),
    st.booleans(),
)
LINES = st.lists(
    st.builds(WalRecord, st.just(0), st.integers(1_795_000_000_000, 1_795_000_200_000), ENTRIES), max_size=40
)


def numbered(lines: list[WalRecord]) -> list[WalRecord]:
    return [WalRecord(100 * place, line.at, line.entry) for place, line in enumerate(lines)]


@given(LINES)
def test_every_use_is_in_an_event_and_in_the_usage_of_its_service(lines: list[WalRecord]):
    found = records("batch", [WalSlice("one.journal", numbered(lines))])
    for tenant_id, tenant in found.items():
        entries = [line.entry for line in lines if line.entry.tenant_id == tenant_id]
        assert tenant.lines == len(entries)
        assert sum(int(event.details.get("count", "1")) for event in tenant.events) == sum(e.count for e in entries)
        assert sum(int(event.details.get("bytes", "0")) for event in tenant.events) == sum(e.bytes for e in entries)
        assert sum(row.count for row in tenant.usage) == sum(entry.count for entry in entries)
        for refusal in {entry.refused for entry in entries}:
            refused = [row for row in tenant.usage if row.refusal == refusal]
            assert sum(row.count for row in refused) == sum(e.count for e in entries if e.refused == refusal)
        timed = [entry for entry in entries if entry.microseconds]
        assert sum(row.latency.timed for row in tenant.usage) == sum(entry.count for entry in timed)
        assert sum(row.latency.microseconds for row in tenant.usage) == sum(e.count * e.microseconds for e in timed)
        assert tenant.seen == {entry.service for entry in entries if entry.service and not entry.refused}
    assert sum(tenant.lines for tenant in found.values()) == len(lines)


@given(LINES, st.integers(1, 3))
def test_an_unwrap_is_a_separate_event_and_not_counted_as_usage(lines: list[WalRecord], times: int):
    unwrap = AuditEntry("acme", "idle", CryptoOperation.OPEN, "2", "corr")
    unwraps = [WalRecord(0, 1_795_000_000_123 + number, unwrap) for number in range(times)]
    found = records("batch", [WalSlice("one.journal", numbered([*lines, *unwraps]))])["acme"]
    unwrap_events = [event for event in found.events if event.name is AuditName.SERVICE_KEY_OPENED]
    assert [event.details["at"] for event in unwrap_events] == [
        f"2026-11-18T11:06:40.{123 + n}+00:00" for n in range(times)
    ]
    assert {(event.subject, event.details["version"], event.actor) for event in unwrap_events} == {
        ("idle", "2", "crypto")
    }
    assert "idle" not in found.seen | {row.service for row in found.usage}
    assert found.lines == len([line for line in lines if line.entry.tenant_id == "acme"]) + times


@given(LINES)
def test_same_records_always_get_same_unique_ids(lines: list[WalRecord]):
    pieces = [WalSlice("one.journal", numbered(lines)), WalSlice("two.journal", numbered(lines))]
    first, again = records("batch", pieces), records("batch", pieces)
    assert first == again
    for tenant in first.values():
        ids = [event.event_id for event in tenant.events]
        assert len(ids) == len(set(ids))
        minutes = [(row.minute, row.service, row.operation, row.refusal) for row in tenant.usage]
        assert len(minutes) == len(set(minutes))


@given(LINES)
def test_releases_and_changes_are_separate_events(lines: list[WalRecord]):
    found = records("batch", [WalSlice("one.journal", numbered(lines))])
    names = [event.name for tenant in found.values() for event in tenant.events]
    alone = [line.entry for line in lines if not line.entry.refused]
    assert names.count(AuditName.CRYPTO_KEY_RELEASED) == len([e for e in alone if e.operation in RELEASES])
    assert names.count(AuditName.CRYPTO_KEY_CHANGED) == len([e for e in alone if e.operation in CHANGES])


def test_first_rejections_of_a_second_are_separate_events_and_the_rest_is_counted():
    at = 1_795_000_000_000
    refused = [
        AuditEntry("acme", service, CryptoOperation.DECRYPT, f"row-{n}", f"corr-{n}", "", "ciphertext_refused", 2, 3)
        for service in ("orders", "users")
        for n in range(1_000)
    ]
    lines = [WalRecord(0, at, entry) for entry in refused]
    lines.append(WalRecord(0, at + 1_000, refused[0]))
    events = records("batch", [WalSlice("one.journal", numbered(lines))])["acme"].events
    separate = [event for event in events if event.subject.startswith("row-")]
    assert len(separate) == 2 * SEPARATE_REJECTIONS + 1
    counted = [event for event in events if event not in separate]
    assert sorted((event.actor, event.subject) for event in counted) == [("orders", "orders"), ("users", "users")]
    for event in counted:
        assert event.details["count"] == str(2 * (1_000 - SEPARATE_REJECTIONS))
        assert event.details["bytes"] == str(3 * (1_000 - SEPARATE_REJECTIONS))
        assert (event.details["code"], event.correlation_id) == ("ciphertext_refused", f"corr-{SEPARATE_REJECTIONS}")


def test_uses_of_a_tenant_that_records_resources_are_counted_for_each_resource():
    at = 1_795_000_000_000
    uses = [
        AuditEntry("acme", "orders", CryptoOperation.DECRYPT, f"customer/{n % 2}", f"c-{n}", "192.0.2.1", bytes=10)
        for n in range(5)
    ]
    named = [replace(one, names_subject=True) for one in uses]
    other = replace(named[0], tenant_id="beta", names_subject=False)
    long = replace(named[0], subject="\0" + "x" * 511)
    lines = [WalRecord(0, at, entry) for entry in [*named, other, long]]
    found = records("batch", [WalSlice("one.journal", numbered(lines))])
    counted = {event.subject: event.details.get("count", "1") for event in found["acme"].events}
    assert counted == {"customer/0": "3", "customer/1": "2", "\N{REPLACEMENT CHARACTER}" + "x" * 511: "1"}
    assert {(event.actor, event.details["operation"]) for event in found["acme"].events} == {("orders", "decrypt")}
    assert [event.subject for event in found["beta"].events] == ["orders"]
    ids = [event.event_id for event in found["acme"].events]
    assert len(set(ids)) == 3
    assert max(map(len, ids)) <= 300
    [usage] = found["acme"].usage
    assert (usage.count, usage.bytes) == (6, 60)


def test_rejections_are_counted_together_also_where_resources_are_recorded():
    refused = [
        AuditEntry("acme", "orders", CryptoOperation.DECRYPT, f"row-{n}", "c", "", "ciphertext_refused")
        for n in range(SEPARATE_REJECTIONS + 500)
    ]
    lines = [WalRecord(0, 1_795_000_000_000, replace(entry, names_subject=True)) for entry in refused]
    events = records("batch", [WalSlice("one.journal", numbered(lines))])["acme"].events
    assert len(events) == SEPARATE_REJECTIONS + 1
    assert events[-1].details["count"] == "500"
