import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy.audit import GENESIS, UPSTREAM_NAME, AuditEvent, AuditName, StoredRecord, head_message, link, verify_chain
from tenancy.errors import AuditBroken

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def chain(subjects):
    """Return a stream as the database composes it: each text carries its own place."""
    previous, stream = GENESIS, []
    for seq, subject in enumerate(subjects, start=1):
        record = json.dumps({"seq": seq, "subject": subject})
        previous = link(previous, record)
        stream.append(StoredRecord(seq, record, previous))
    return stream


STREAMS = st.lists(TEXT, min_size=1, max_size=8).map(chain)


@given(STREAMS)
def test_a_whole_stream_verifies_to_its_last_record(stream):
    assert verify_chain(stream) == stream[-1]


def test_an_empty_stream_has_no_head():
    assert verify_chain([]) is None


@given(STREAMS, st.data())
def test_a_single_flipped_bit_of_a_text_is_found(stream, data):
    place = data.draw(st.integers(0, len(stream) - 1))
    raw = bytearray(stream[place].record.encode("utf-8"))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    text = raw.decode("utf-8", errors="replace")
    stream[place] = StoredRecord(stream[place].seq, text, stream[place].chain_hash)
    with pytest.raises(AuditBroken, match=f"record {place + 1} "):
        verify_chain(stream)


@given(STREAMS, st.data())
def test_a_single_flipped_bit_of_a_hash_is_found(stream, data):
    place, bit = data.draw(st.integers(0, len(stream) - 1)), data.draw(st.integers(0, 255))
    raw = bytearray(stream[place].chain_hash)
    raw[bit // 8] ^= 1 << bit % 8
    stream[place] = StoredRecord(stream[place].seq, stream[place].record, bytes(raw))
    with pytest.raises(AuditBroken, match=f"record {place + 1} "):
        verify_chain(stream)


@given(st.lists(TEXT, min_size=2, max_size=8).map(chain), st.data())
def test_a_deleted_record_before_the_last_is_found(stream, data):
    place = data.draw(st.integers(0, len(stream) - 2))
    del stream[place]
    with pytest.raises(AuditBroken, match=f"record {place + 1} is missing"):
        verify_chain(stream)


@given(st.lists(TEXT, min_size=2, max_size=8).map(chain), st.data())
def test_two_exchanged_records_are_found(stream, data):
    one, other = sorted(data.draw(st.lists(st.integers(0, len(stream) - 1), min_size=2, max_size=2, unique=True)))
    stream[one], stream[other] = stream[other], stream[one]
    with pytest.raises(AuditBroken, match=f"record {one + 1} "):
        verify_chain(stream)


@given(STREAMS, st.data())
def test_a_repeated_record_is_found(stream, data):
    place = data.draw(st.integers(0, len(stream) - 1))
    stream.insert(place, stream[place])
    with pytest.raises(AuditBroken):
        verify_chain(stream)


@given(st.lists(TEXT, min_size=2, max_size=8).map(chain), st.data())
def test_a_deleted_record_is_found_even_when_the_rest_is_numbered_anew(stream, data):
    place = data.draw(st.integers(0, len(stream) - 2))
    del stream[place]
    forged = [StoredRecord(seq, stored.record, stored.chain_hash) for seq, stored in enumerate(stream, start=1)]
    with pytest.raises(AuditBroken, match=f"record {place + 1} was altered"):
        verify_chain(forged)


@given(STREAMS)
def test_truncation_shows_against_the_head_and_not_in_the_chain(stream):
    head, shorter = verify_chain(stream), verify_chain(stream[:-1])
    assert shorter != head


@pytest.mark.parametrize("text", ["not json", "[1]", '"text"', "7", "{}", '{"seq": "1"}', '{"seq": true}'])
def test_a_text_that_is_no_record_breaks_the_chain_even_when_it_is_linked(text):
    with pytest.raises(AuditBroken, match="record 1 was altered"):
        verify_chain([StoredRecord(1, text, link(GENESIS, text))])


def test_a_text_no_database_could_hold_breaks_the_chain():
    with pytest.raises(AuditBroken, match="record 1 was altered"):
        verify_chain([StoredRecord(1, '{"seq": 1, "subject": "\ud800"}', bytes(32))])


@given(st.tuples(TEXT, TEXT))
def test_a_record_cannot_change_its_text_and_keep_its_link(texts):
    one, other = texts
    assert (link(GENESIS, one) == link(GENESIS, other)) == (one == other)


TENANT_IDS = st.from_regex(r"\A[a-z0-9][a-z0-9-]{2,39}\Z")
HEADS = st.tuples(TENANT_IDS, st.integers(0, 2**63), st.binary(min_size=32, max_size=32))


@given(HEADS, HEADS)
def test_two_heads_share_a_signed_message_only_when_they_are_the_same(one, other):
    assert (head_message(*one) == head_message(*other)) == (one == other)


def event(name):
    return AuditEvent(
        event_id="tenant/acme-corp-12345/provision/2",
        name=name,
        actor_kind="system",
        actor="worker",
        subject="L2-acme-corp-12345-primary",
        outcome="success",
        correlation_id="tenant/acme-corp-12345/provision",
    )


@pytest.mark.parametrize("name", AuditName)
def test_a_record_carries_the_upstream_name_where_there_is_one(name):
    assert json.loads(event(name).as_json()).get("upstream_event_type") == UPSTREAM_NAME.get(name)


@given(STREAMS, st.data())
def test_a_stream_verified_in_pieces_verifies_as_a_whole(stream, data):
    cut = data.draw(st.integers(0, len(stream)))
    last = verify_chain(stream[:cut])
    assert verify_chain(stream[cut:], after=last) == stream[-1]
    if cut < len(stream):
        broken = [StoredRecord(stream[cut].seq, stream[cut].record, bytes(32)), *stream[cut + 1 :]]
        with pytest.raises(AuditBroken, match=f"record {cut + 1} "):
            verify_chain(broken, after=last)
