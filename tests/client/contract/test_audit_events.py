import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract.audit_events import (
    GENESIS,
    UPSTREAM_NAME,
    AuditEvent,
    AuditName,
    StoredRecord,
    head_message,
    link,
    verify_chain,
)
from openkcm.errors import AuditBroken
from tests.core.proving import stream_of_subjects, with_flipped_bit

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def chain(subjects):
    """Return a stream in ASCII, so that a flipped bit that is invalid UTF-8 never decodes to the same character."""
    return stream_of_subjects(subjects, ensure_ascii=True)


STREAMS = st.lists(TEXT, min_size=1, max_size=8).map(chain)


@given(STREAMS)
def test_whole_stream_verifies_and_returns_its_last_record(stream):
    assert verify_chain(stream) == stream[-1]
    assert verify_chain(stream[:-1]) != stream[-1], "only the checkpoint reveals a truncation"
    assert verify_chain([]) is None


def flipped(raw: bytes, data) -> bytes:
    return with_flipped_bit(raw, data.draw(st.integers(0, len(raw) * 8 - 1)))


def change_a_bit_of_the_text(stream, at, data):
    text = flipped(stream[at].record.encode(), data).decode("utf-8", errors="replace")
    stream[at] = StoredRecord(stream[at].seq, text, stream[at].chain_hash)
    return f"record {at + 1} "


def change_a_bit_of_the_hash(stream, at, data):
    stream[at] = StoredRecord(stream[at].seq, stream[at].record, flipped(stream[at].chain_hash, data))
    return f"record {at + 1} "


def delete(stream, at, _data):
    del stream[at]
    return f"record {at + 1} is missing"


def exchange(stream, at, data):
    other = data.draw(st.integers(at + 1, len(stream) - 1))
    stream[at], stream[other] = stream[other], stream[at]
    return f"record {at + 1} "


def repeat(stream, at, _data):
    stream.insert(at, stream[at])
    return f"record {at + 2} "


def delete_and_renumber(stream, at, _data):
    del stream[at]
    stream[:] = [StoredRecord(seq, one.record, one.chain_hash) for seq, one in enumerate(stream, start=1)]
    return f"record {at + 1} was altered"


ATTACKS = (change_a_bit_of_the_text, change_a_bit_of_the_hash, delete, exchange, repeat, delete_and_renumber)


@pytest.mark.parametrize("attack", ATTACKS)
@given(st.lists(TEXT, min_size=2, max_size=8).map(chain), st.data())
def test_each_change_of_a_stream_is_detected_at_its_position(attack, stream, data):
    says = attack(stream, data.draw(st.integers(0, len(stream) - 2)), data)
    with pytest.raises(AuditBroken, match=says):
        verify_chain(stream)


def test_linked_text_that_is_not_a_record_breaks_the_chain():
    linked = [
        (text, link(GENESIS, text)) for text in ("not json", "[1]", '"x"', "7", "{}", '{"seq": "1"}', '{"seq": true}')
    ]
    # A lone surrogate cannot be linked: PostgreSQL stores no such text.
    for text, chain_hash in [*linked, ('{"seq": 1, "subject": "\ud800"}', bytes(32))]:
        with pytest.raises(AuditBroken, match="record 1 was altered"):
            verify_chain([StoredRecord(1, text, chain_hash)])


# Short ids of few letters, so that many are equal; `from_regex` is a hundred times slower.
TENANT_IDS = st.text("a-1", min_size=1, max_size=4)
HEADS = st.tuples(TENANT_IDS, st.integers(0, 2**63), st.binary(min_size=32, max_size=32))


@given(HEADS, HEADS)
def test_different_checkpoints_have_different_messages(one, other):
    assert (head_message(*one) == head_message(*other)) == (one == other)


def test_record_contains_the_upstream_name_if_one_exists():
    for name in AuditName:
        event = AuditEvent(
            event_id="tenant/acme-corp-12345/provision/2",
            name=name,
            actor_kind="system",
            actor="worker",
            subject="L2-acme-corp-12345-primary",
            outcome="success",
            correlation_id="tenant/acme-corp-12345/provision",
        )
        assert json.loads(event.as_json()).get("upstream_event_type") == UPSTREAM_NAME.get(name), name


@given(STREAMS, st.data())
def test_a_stream_verified_in_pieces_verifies_as_a_whole(stream, data):
    cut = data.draw(st.integers(0, len(stream)))
    last = verify_chain(stream[:cut])
    assert verify_chain(stream[cut:], after=last) == stream[-1]
    if cut < len(stream):
        broken = [StoredRecord(stream[cut].seq, stream[cut].record, bytes(32)), *stream[cut + 1 :]]
        with pytest.raises(AuditBroken, match=f"record {cut + 1} "):
            verify_chain(broken, after=last)
