"""Search in an audit stream: the results equal those of a filter over every event."""

import json
from datetime import datetime, timedelta

import pytest

from core.audit import AuditFilter
from database.audit import FoundRecord, SignedCheckpoint
from database.connection.database import Database
from openkcm.contract.audit_events import GENESIS, AuditName
from tests.database.builders import an_audit_event
from tests.database.fixtures import Field

SUBJECTS = (
    "100%",
    "a_b",
    "axb",
    "C:\\keys",
    'say "hi"',
    "line\nbreak",
    "Höhe",
    "'; drop table okcm.audit_event",
    "😀",
)


@pytest.fixture
def stream(worker: Database) -> Database:
    """Nine records of acme with the subjects above, and one of beta that contains all of them."""
    with worker.tenant_tx("acme") as tx:
        tx.audit.append_all([an_audit_event(f"e{n}", subject=subject) for n, subject in enumerate(SUBJECTS)])
    with worker.tenant_tx("beta") as tx:
        tx.audit.append(an_audit_event("other", subject=" ".join(SUBJECTS)))
    return worker


def found(database: Database, chosen: AuditFilter, among: range = range(1, 10), limit: int = 9) -> list[FoundRecord]:
    with database.tenant_tx("acme") as tx:
        return list(tx.audit.found(chosen, among, limit, newest_first=True))


def subjects(records: list[FoundRecord]) -> list[str]:
    return [json.loads(one.stored.record)["subject"] for one in records]


def test_search_text_is_matched_literally(stream: Database) -> None:
    for subject in SUBJECTS:
        for chosen in (AuditFilter(text=subject), AuditFilter(subject=subject), AuditFilter(text=subject.upper())):
            assert subjects(found(stream, chosen)) == [subject]
    for text in ("%%", "\0", "x\0y", "\ud800", "\\\\", "'", "' or true --", "*", "(", "nowhere"):
        expected = [subject for subject in SUBJECTS if text in subject][::-1]
        assert subjects(found(stream, AuditFilter(text=text))) == expected
        assert subjects(found(stream, AuditFilter(subject=text))) == expected
        assert found(stream, AuditFilter(actor=text)) == []


def test_field_filter_ignores_similar_text_in_other_fields(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        similar = {"name": "crypto.refused", "outcome": "refused", "actor": "mallory"}
        tx.audit.append(an_audit_event("a", details=similar, subject='"actor": "mallory"'))
        tx.audit.append(an_audit_event("b", name=AuditName.CRYPTO_REFUSED, outcome="refused", actor="Mallory"))
    for chosen in (
        AuditFilter(names=frozenset({"crypto.refused"})),
        AuditFilter(names=frozenset({"crypto."})),
        AuditFilter(outcomes=frozenset({"refused"})),
        AuditFilter(actor="mallory"),
    ):
        assert [one.stored.seq for one in found(worker, chosen)] == [2]
    assert [one.stored.seq for one in found(worker, AuditFilter(text="mallory"))] == [2, 1]


def test_search_works_from_both_ends_and_returns_the_previous_hash(stream: Database) -> None:
    newest = found(stream, AuditFilter(), range(1, 9), 3)
    assert [one.stored.seq for one in newest] == [8, 7, 6]
    assert newest[0].previous == newest[1].stored.chain_hash
    with stream.tenant_tx("acme") as tx:
        oldest = tx.audit.found(AuditFilter(), range(1, 9), 2, newest_first=False)
        assert tx.audit.found(AuditFilter(), range(0), 2, newest_first=False) == []
    assert [(one.stored.seq, one.previous is GENESIS) for one in oldest] == [(1, True), (2, False)]


def test_search_continues_after_false_candidates(worker: Database) -> None:
    many = [an_audit_event(f"e{n}", subject="worker, not an actor", actor="other") for n in range(1100)]
    with worker.tenant_tx("acme") as tx:
        tx.audit.append_all(
            [an_audit_event("first", actor="worker 7"), *many, an_audit_event("last", actor="worker 9")]
        )
        for newest_first, expected in ((True, [1102, 1]), (False, [1, 1102])):
            records = tx.audit.found(AuditFilter(actor="worker"), range(1, 1103), 5, newest_first=newest_first)
            assert [one.stored.seq for one in records] == expected


def test_period_is_converted_to_a_range_of_numbers(worker: Database) -> None:
    for n in range(8):
        with worker.tenant_tx("acme") as tx:
            tx.audit.append(an_audit_event(f"e{n}"))
    with worker.tenant_tx("acme") as tx:
        times = [datetime.fromisoformat(json.loads(one.record)["time"]) for one in tx.audit.records()]
        for since in (*times, times[0] - timedelta(hours=1), times[-1] + timedelta(hours=1), None):
            for until in (*times, None):
                numbers = tx.audit.numbers(AuditFilter(since=since, until=until))
                inside = [
                    seq
                    for seq, at in enumerate(times, start=1)
                    if (since is None or at >= since) and (until is None or at < until)
                ]
                assert list(numbers) == inside
    with worker.tenant_tx("beta") as tx:
        assert list(tx.audit.numbers(AuditFilter(since=times[0]))) == []


def test_ends_return_the_last_record_and_the_newest_checkpoint(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        empty = tx.audit.ends()
        assert (empty.last, empty.signed, empty.signed_at, empty.at_signed) == (None, None, None, None)
        tx.audit.append(an_audit_event("a"))
        head = tx.audit.head()
        signed = SignedCheckpoint(1, head.chain_hash, "signature", "audit:1")
        tx.audit.save_signed_head(signed)
        tx.audit.append(an_audit_event("b"))
        ends = tx.audit.ends()
    assert (ends.last is not None and ends.last.seq, ends.signed, ends.at_signed) == (2, signed, head)
    assert ends.signed_at is not None


def tampered(field: Field, statement: str) -> None:
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.audit_event disable trigger append_only")
        administrator.execute(statement)


def test_search_survives_a_record_that_is_no_json(stream: Database, field: Field) -> None:
    tampered(field, "update okcm.audit_event set record = 'gone' where seq = 4 and tenant_id = 'acme'")
    assert [one.stored.seq for one in found(stream, AuditFilter())] == list(range(9, 0, -1))
    assert subjects(found(stream, AuditFilter(subject="axb"))) == ["axb"]
    with stream.tenant_tx("acme") as tx:
        assert tx.audit.numbers(AuditFilter(since=datetime.fromisoformat("2020-01-01T00:00:00Z"))).stop == 10


def test_record_after_a_missing_one_has_no_previous_hash(stream: Database, field: Field) -> None:
    tampered(field, "delete from okcm.audit_event where seq in (4, 9) and tenant_id = 'acme'")
    assert [(one.stored.seq, one.previous is None) for one in found(stream, AuditFilter(), range(3, 7))] == [
        (6, False),
        (5, True),
        (3, False),
    ]
    with stream.tenant_tx("acme") as tx:
        assert tx.audit.numbers(AuditFilter(since=datetime.fromisoformat("2020-01-01T00:00:00Z"))).stop == 9
