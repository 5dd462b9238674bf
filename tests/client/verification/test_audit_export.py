from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract.audit_events import verify_chain
from openkcm.errors import AuditBroken
from openkcm.verification.audit_export import (
    Checkpoint,
    ExportHeader,
    export_lines,
    header_line,
    read_export,
    record_line,
)
from tests.core.proving import a_file, lines_of, stream_of_subjects

HEADER = ExportHeader(
    tenant_id="acme",
    exported_at=datetime(2026, 11, 25, tzinfo=UTC),
    last_seq=3,
    signed_head=Checkpoint(seq=2, chain_hash="ab" * 32, signature="MEUC", key="audit:1", fingerprint="cd" * 32),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(TEXT, max_size=6))
def test_export_is_read_back_unchanged_and_verifies(subjects):
    records = stream_of_subjects(subjects)
    header, read = read_export(lines_of(a_file(HEADER, records)))
    read = list(read)
    assert (header, [one.stored for one in read]) == (HEADER, records)
    assert {one.previous for one in read} <= {None}
    assert verify_chain(one.stored for one in read) == (records[-1] if records else None)


def test_selection_contains_its_filters_and_missing_predecessor_hashes():
    chosen = HEADER.model_copy(update={"selection": {"text": "ada"}, "signed_head": None})
    records = stream_of_subjects("abcde")
    pieces = [[(records[1], records[0].chain_hash), (records[2], records[1].chain_hash)], []]
    pieces.append([(records[4], records[3].chain_hash)])
    totals = []
    header, read = read_export(lines_of("".join(export_lines(chosen, pieces, totals.append)).encode()))
    assert header == chosen
    assert [(one.stored, one.previous) for one in read] == [
        (records[1], records[0].chain_hash),
        (records[2], None),
        (records[4], records[3].chain_hash),
    ]
    assert totals == [3]


WHOLE = a_file(HEADER, stream_of_subjects("abc"))
LINES = lines_of(WHOLE)
BROKEN = {
    **{f"broken off after line {n}": (LINES[:n], f"ends early, after line {n}") for n in range(1, 5)},
    "a line cut in its middle": (lines_of(WHOLE[: WHOLE.index(b'"seq": 2')]), "line 3 is not a record"),
    "a missing line": ([*LINES[:2], *LINES[3:]], "line 4, the last, does not state that the file has 2 records"),
    "more after the end": ([*LINES, b"more"], "line 6 follows the last line"),
    "no text": ([LINES[0], b'{"seq": \xff'], r"line 2 is not text \(byte 9\)"),
    "a hash that the record before has": (
        [LINES[0], *(record_line(one, bytes(32)).encode() for one in stream_of_subjects("ab"))],
        "line 2 repeats the hash of the line before it",
    ),
}


@pytest.mark.parametrize(("lines", "says"), BROKEN.values(), ids=BROKEN)
def test_broken_file_is_rejected_with_its_line(lines, says):
    _, read = read_export(lines)
    with pytest.raises(AuditBroken, match=says):
        list(read)


@pytest.mark.parametrize(
    "line", ["", "no json", "{}", "[]", '{"format": "openkcm-audit/9"}', "[" * 100_000], ids=range(6)
)
def test_file_without_a_header_is_rejected_immediately(line):
    with pytest.raises(AuditBroken, match="line 1 is not the header"):
        read_export([line.encode()] if line else [])


def test_header_of_the_older_format_is_reported():
    with pytest.raises(AuditBroken, match="older format, openkcm-audit/1: export the stream again"):
        read_export([header_line(HEADER).replace("audit/2", "audit/1").encode()])


@pytest.mark.parametrize(
    "changed",
    [
        header_line(HEADER).replace("2026", "2025"),
        header_line(HEADER).replace('"acme"', '"beta"'),
        header_line(HEADER).replace('"last_seq":3', '"last_seq":4'),
        header_line(HEADER).replace(",", ", ", 1),
        header_line(HEADER).replace("acme", "ac\\u006de"),
        header_line(HEADER).removesuffix("\n"),
        header_line(HEADER).replace("{", '{"more":1,', 1),
    ],
    ids=range(7),
)
def test_changed_header_is_detected_by_its_checksum(changed):
    with pytest.raises(AuditBroken, match="line 1, the header, was altered"):
        read_export([changed.encode()])


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "{}",
        '{"seq": "1", "chain_hash": "00", "record": "x"}',
        '{"seq": true, "chain_hash": "00", "record": "x"}',
        '{"seq": 0, "chain_hash": "00", "record": "x"}',
        '{"seq": 9223372036854775808, "chain_hash": "00", "record": "x"}',
        '{"seq": 1, "chain_hash": "zz", "record": "x"}',
        '{"seq": 1, "chain_hash": 0, "record": "x"}',
        '{"seq": 1, "chain_hash": "00", "record": {}}',
        '{"seq": 1, "chain_hash": "00"}',
        '{"seq": 1, "chain_hash": "00", "record": "x", "previous": 0}',
        "[" * 100_000,
        f'{{"seq": {"9" * 5_000}, "chain_hash": "00", "record": "x"}}',
    ],
)
def test_invalid_record_is_rejected_with_its_line(line):
    _, read = read_export([header_line(HEADER).encode(), f"{line}\n".encode()])
    with pytest.raises(AuditBroken, match="line 2 is not a record"):
        list(read)


@pytest.mark.parametrize(
    ("line", "at"),
    [
        ('{"seq":1, "chain_hash": "00", "record": "x"}\n', 8),
        ('{"seq": 1, "chain_hash": "AA", "record": "x"}\n', 27),
        ('{"seq": 1, "chain_hash": "00", "record": "\\u0078"}\n', 43),
        ('{"seq": 2, "seq": 1, "chain_hash": "00", "record": "x"}\n', 9),
        ('{"chain_hash": "00", "seq": 1, "record": "x"}\n', 3),
        ('{"seq": 1, "chain_hash": "00", "record": "x", "more": 1}\n', 45),
        ('{"seq": 1, "chain_hash": "00", "record": "x"}', 46),
        ('{"seq": 1, "chain_hash": "00", "record": "x"}\r\n', 46),
        ('{"seq": 1, "chain_hash": "00", "record": "\\ud800"}\n', 43),
    ],
)
def test_record_in_another_encoding_is_rejected_with_its_position(line, at):
    _, read = read_export([header_line(HEADER).encode(), line.encode()])
    with pytest.raises(AuditBroken, match=f"line 2 was altered: it differs at character {at}$"):
        list(read)
