import json
import time
from contextlib import suppress
from datetime import datetime
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors.platform import DatabaseRefused
from database.audit import SignedCheckpoint
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import StoredRecord, verify_chain
from openkcm.errors import AuditBroken
from tests.concurrency import at_once
from tests.database.builders import an_audit_event
from tests.database.fixtures import Field


def unsigned(worker: Database) -> list[str]:
    return [stream.tenant_id for stream in PlatformQueries(worker).unsigned_streams(9)]


def records(database: Database, tenant_id: str) -> list[StoredRecord]:
    with database.tenant_tx(tenant_id) as tx:
        return list(tx.audit.records())


def test_database_sets_tenant_number_and_time_of_a_record(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        assert tx.audit.append(an_audit_event("a")) == 1
    [stored] = records(worker, "acme")
    record = json.loads(stored.record)
    assert (record["tenant_id"], record["seq"], record["event_id"]) == ("acme", 1, "a")
    assert record["upstream_event_type"] == "keyCreate"
    assert datetime.fromisoformat(record["time"]).utcoffset() is not None
    assert record["time"].endswith("Z")


def test_repeated_event_id_returns_the_first_number(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        assert [tx.audit.append(an_audit_event(name)) for name in "abab"] == [1, 2, 1, 2]
    assert len(records(worker, "acme")) == 2


def test_batch_append_equals_single_appends(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.audit.append(an_audit_event("before"))
        tx.audit.append_all([an_audit_event(name) for name in ("c", "a", "before", "b", "a")])
        assert tx.audit.append(an_audit_event("b")) == 4
        tx.audit.append_all([])
        tx.audit.append_all([an_audit_event(name) for name in ("a", "c")])
    stored = records(worker, "acme")
    assert [json.loads(one.record)["event_id"] for one in stored] == ["before", "c", "a", "b"]
    assert verify_chain(stored) == stored[-1]


@pytest.mark.full
def test_8000_appends_in_one_transaction_take_below_two_seconds_and_so_does_their_repetition(worker: Database) -> None:
    events = [an_audit_event(f"many-{number}") for number in range(8000)]
    for _ in range(2):
        began = time.monotonic()
        with worker.tenant_tx("acme") as tx:
            tx.audit.append_all(events)
        assert time.monotonic() - began < 2
    with worker.tenant_tx("acme") as tx:
        stored = tx.audit.records(limit=9000)
    assert [json.loads(one.record)["event_id"] for one in stored] == [event.event_id for event in events]
    assert verify_chain(stored) == stored[-1]


def test_batch_with_an_invalid_event_is_rejected(worker: Database) -> None:
    for events in ("null", "{}", '[{"event_id": "x"}, {}]', '[{"event_id": "x"}, null]', '[{"event_id": "x"}, []]'):
        with pytest.raises(DatabaseRefused), worker.raw_tx("acme") as connection:
            connection.execute("select okcm.audit_append_all(%s)", [events])
    assert records(worker, "acme") == []


def test_batch_moves_the_head_only_with_a_new_event(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.audit.append_all([an_audit_event("a"), an_audit_event("b")])
        head = tx.audit.head()
        tx.audit.save_signed_head(SignedCheckpoint(head.seq, head.chain_hash, "signature", "audit:1"))
        tx.audit.append_all([an_audit_event("b"), an_audit_event("a")])
    assert unsigned(worker) == []
    with worker.tenant_tx("acme") as tx:
        tx.audit.append_all([an_audit_event("b"), an_audit_event("c")])
    assert unsigned(worker) == ["acme"]


def test_concurrent_writers_create_one_chain_without_gaps(worker: Database) -> None:
    def write(number: int) -> None:
        for turn in range(6):
            with suppress(ZeroDivisionError), worker.tenant_tx("acme") as tx:
                tx.audit.append(an_audit_event(f"{number}-{turn}"))
                assert 1 / (turn % 5)  # a rollback must leave no gap either
            with worker.tenant_tx("acme") as tx:
                tx.audit.append_all([an_audit_event(f"shared-{turn}"), an_audit_event(f"many-{turn}")])

    at_once(*(partial(write, number) for number in range(8)))
    last = verify_chain(records(worker, "acme"))
    assert last.seq == 8 * 4 + 2 * 6


def test_altered_record_is_reported_with_its_number(worker: Database, field: Field) -> None:
    with worker.tenant_tx("acme") as tx:
        for name in "abc":
            tx.audit.append(an_audit_event(name))
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.audit_event disable trigger append_only")
        administrator.execute(
            "update okcm.audit_event set record = replace(record, 'success', 'refused') where seq = 2"
        )
    with pytest.raises(AuditBroken, match="record 2"):
        verify_chain(records(worker, "acme"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(subject=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_stored_text_equals_the_hashed_text_for_any_subject(worker: Database, subject: str) -> None:
    with worker.tenant_tx("acme") as tx:
        seq = tx.audit.append(an_audit_event(f"about {subject.encode().hex()}", subject=subject))
        verify_chain(tx.audit.records())
        [stored] = tx.audit.records(after=seq - 1, limit=1)
    assert json.loads(stored.record)["subject"] == subject


@pytest.mark.parametrize("forged", ['"tenant_id": "beta"', '"seq": 7', '"time": "never"'])
def test_event_cannot_set_tenant_number_or_time(worker: Database, forged: str) -> None:
    event = f'{{"event_id": "forged", {forged}}}'
    for call in (f"audit_append('{event}')", f'audit_append_all(\'[{{"event_id": "good"}}, {event}]\')'):
        with pytest.raises(DatabaseRefused), worker.raw_tx("acme") as connection:
            connection.execute(f"select okcm.{call}")
    assert records(worker, "beta") == []
    assert records(worker, "acme") == []


def test_record_has_each_field_once(worker: Database) -> None:
    event = an_audit_event("a", subject='Grüße "}, {\\', details={"seq": "7", "tenant_id": "beta"})
    with worker.tenant_tx("acme") as tx:
        tx.audit.append_all([event])
    [stored] = records(worker, "acme")
    fields = json.loads(stored.record, object_pairs_hook=list)
    assert len(dict(fields)) == len(fields)
    assert dict(fields).items() >= {"tenant_id": "acme", "seq": 1, "subject": event.subject}.items()
    assert dict(dict(fields)["details"]) == event.details


def test_event_with_a_lone_surrogate_is_rejected(worker: Database) -> None:
    with pytest.raises(DatabaseRefused), worker.tenant_tx("acme") as tx:
        tx.audit.append_all([an_audit_event("a", subject="\ud800")])
    assert records(worker, "acme") == []


def test_invalid_event_is_rejected(worker: Database) -> None:
    for event in ("null", "[]", "{}", '{"event_id": null}'):
        with pytest.raises(DatabaseRefused), worker.raw_tx("acme") as connection:
            connection.execute("select okcm.audit_append(%s)", [event])
    assert records(worker, "acme") == []


def test_stream_is_unsigned_until_its_newest_record_is_signed(worker: Database) -> None:
    for tenant in ("acme", "beta"):
        with worker.tenant_tx(tenant) as tx:
            tx.audit.append(an_audit_event())
    assert sorted(unsigned(worker)) == ["acme", "beta"]
    with worker.tenant_tx("acme") as tx:
        head = tx.audit.head()
        signed = SignedCheckpoint(head.seq, head.chain_hash, "signature", "audit:1")
        tx.audit.save_signed_head(signed)
        tx.audit.save_signed_head(signed)
        assert tx.audit.signed_heads() == [signed]
    assert unsigned(worker) == ["beta"]
    with worker.tenant_tx("acme") as tx:
        tx.audit.append(an_audit_event("more"))
    assert unsigned(worker) == ["beta", "acme"], "a stream without a signature precedes one that is signed"


def test_checkpoint_of_an_older_record_leaves_the_stream_unsigned(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.audit.append(an_audit_event("a"))
        head = tx.audit.head()
        tx.audit.append(an_audit_event("b"))
        tx.audit.save_signed_head(SignedCheckpoint(head.seq, head.chain_hash, "signature", "audit:1"))
    assert unsigned(worker) == ["acme"]


def test_stream_with_the_oldest_signature_comes_first_also_if_its_newest_record_is_unsigned(worker: Database) -> None:
    for turn, tenant in enumerate(("acme", "beta", "acme")):
        with worker.tenant_tx(tenant) as tx:
            tx.audit.append(an_audit_event(f"{turn}, signed"))
            head = tx.audit.head()
            tx.audit.append(an_audit_event(f"{turn}, later"))
            tx.audit.save_signed_head(SignedCheckpoint(head.seq, head.chain_hash, "signature", "audit:1"))
    assert unsigned(worker) == ["beta", "acme"]
    assert [(one.seq, one.chain_hash) for one in PlatformQueries(worker).unsigned_streams(1)] == [
        (2, records(worker, "beta")[1].chain_hash)
    ]


def test_checkpoint_with_a_wrong_hash_is_rejected(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.audit.append(an_audit_event())
    with pytest.raises(DatabaseRefused), worker.tenant_tx("acme") as tx:
        tx.audit.save_signed_head(SignedCheckpoint(1, bytes(32), "signature", "audit:1"))
    assert unsigned(worker) == ["acme"]


def test_records_are_read_in_pages(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        for name in "abcde":
            tx.audit.append(an_audit_event(name))
        assert [record.seq for record in tx.audit.records(after=1, limit=2)] == [2, 3]
        assert (tx.audit.head() or pytest.fail("no head")).seq == 5
    with worker.tenant_tx("beta") as tx:
        assert tx.audit.head() is None
