import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy.audit import GENESIS, StoredRecord, link, verify_chain
from tenancy.audit_export import ExportHeader, SignedPlace, end_line, header_line, read_export, record_line
from tenancy.errors import AuditBroken

HEADER = ExportHeader(
    tenant_id="acme",
    exported_at=datetime(2026, 11, 25, tzinfo=UTC),
    last_seq=3,
    signed_head=SignedPlace(seq=2, chain_hash="ab" * 32, signature="MEUC", key="audit:1"),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def stream(subjects):
    previous, records = GENESIS, []
    for seq, subject in enumerate(subjects, start=1):
        record = json.dumps({"seq": seq, "subject": subject}, ensure_ascii=False)
        previous = link(previous, record)
        records.append(StoredRecord(seq, record, previous))
    return records


def file_of(records, header=HEADER):
    return "".join([header_line(header), *map(record_line, records), end_line(len(records))])


@given(st.lists(TEXT, max_size=6))
def test_a_file_is_read_back_as_it_was_and_verifies(subjects):
    records = stream(subjects)
    lines = file_of(records).encode().decode().split("\n")
    assert lines.pop() == ""
    header, read = read_export(f"{line}\n" for line in lines)
    read = list(read)
    assert (header, read) == (HEADER, records)
    assert verify_chain(read) == (records[-1] if records else None)


def test_a_selection_says_what_was_asked():
    chosen = HEADER.model_copy(update={"selection": {"text": "ada"}, "signed_head": None})
    assert read_export([header_line(chosen)])[0] == chosen


@given(st.integers(0, 3))
def test_a_file_that_breaks_off_is_not_taken_for_a_stream_that_ends(kept):
    lines = file_of(stream("abc")).splitlines(keepends=True)[: 1 + kept]
    _, read = read_export(lines)
    with pytest.raises(AuditBroken, match=f"breaks off after line {kept + 1}"):
        list(read)


def test_a_line_cut_in_its_middle_is_found():
    whole = file_of(stream("abc"))
    _, read = read_export(whole[: whole.index('"seq": 2')].splitlines(keepends=True))
    with pytest.raises(AuditBroken, match="line 3 is not a record"):
        list(read)


def test_a_missing_line_is_found_by_the_last_one():
    lines = file_of(stream("abc")).splitlines(keepends=True)
    del lines[2]
    _, read = read_export(lines)
    with pytest.raises(AuditBroken, match="says 3 records and holds 2"):
        list(read)


def test_nothing_may_follow_the_last_line():
    _, read = read_export([*file_of(stream("a")).splitlines(keepends=True), "more"])
    with pytest.raises(AuditBroken, match="line 4 follows the last line"):
        list(read)


@pytest.mark.parametrize("line", ["", "no json", "{}", "[]", '{"format": "openkcm-audit/9"}'])
def test_what_is_no_export_is_refused_at_once(line):
    with pytest.raises(AuditBroken, match="line 1 is not the header"):
        read_export([line] if line else [])


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "{}",
        '{"seq": "1", "chain_hash": "00", "record": "x"}',
        '{"seq": true, "chain_hash": "00", "record": "x"}',
        '{"seq": 1, "chain_hash": "zz", "record": "x"}',
        '{"seq": 1, "chain_hash": 0, "record": "x"}',
        '{"seq": 1, "chain_hash": "00", "record": {}}',
        '{"seq": 1, "chain_hash": "00"}',
    ],
)
def test_a_line_that_is_no_record_is_named(line):
    _, read = read_export([header_line(HEADER), line])
    with pytest.raises(AuditBroken, match="line 2 is not a record"):
        list(read)
