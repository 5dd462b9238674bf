"""Exports of a stream whose oldest records were archived: they begin after a signed archive statement."""

from collections.abc import Callable

import pytest

from openkcm.contract.audit_events import StoredRecord, archive_message, head_message
from openkcm.verification.audit_export import ArchiveStatement, compare, header_line, places_of, verify_export
from openkcm.verification.results import Outcome, SignatureState
from tests.core.proving import (
    KEYS,
    TENANT,
    a_file,
    a_head,
    a_header,
    a_stream,
    an_archive_statement,
    lines_of,
)
from tests.database.signing import Signer

STREAM = a_stream(7)
WHOLE = a_file(a_header(STREAM, a_head(STREAM[6])), STREAM)
END = STREAM[2]


def after_archive(
    statement: ArchiveStatement, records: list[StoredRecord] = STREAM[3:], signed: StoredRecord = STREAM[6]
) -> list[bytes]:
    return lines_of(a_file(a_header(STREAM, a_head(signed), archived=statement), records, STREAM))


def test_export_after_an_archive_is_intact_and_names_the_archived_records() -> None:
    lines = after_archive(an_archive_statement(END))
    result = verify_export(lines, KEYS.check)
    assert (result.outcome, result.signature) == (Outcome.INTACT, SignatureState.VERIFIED)
    assert (result.archived, result.events, result.last, result.signed) == (3, 4, 7, 7)
    assert verify_export(lines, None).signature is SignatureState.NOT_CHECKED


def test_export_right_after_an_archive_has_the_checkpoint_of_its_end() -> None:
    result = verify_export(after_archive(an_archive_statement(END), signed=END), KEYS.check)
    assert (result.outcome, result.signed) == (Outcome.INTACT, 3)


def test_header_of_a_stream_without_an_archive_does_not_name_one() -> None:
    assert "archived" not in header_line(a_header(STREAM, None))


def test_archive_file_and_the_export_after_it_share_the_last_archived_record() -> None:
    archive = lines_of(a_file(a_header(STREAM[:3], a_head(END)), STREAM[:3]))
    rest = after_archive(an_archive_statement(END))
    assert compare(places_of(rest), places_of(archive)).same == 1
    assert compare(places_of(rest), places_of(lines_of(WHOLE))).same == 5


def of(message: bytes) -> Callable[[], list[bytes]]:
    return lambda: after_archive(an_archive_statement(END, message))


REFUTED = {
    "without a statement": (
        lambda: lines_of(a_file(a_header(STREAM, a_head(STREAM[6])), STREAM[3:], STREAM)),
        "record 4 does not|record 1 is missing",
    ),
    "records missing after the archive": (
        lambda: after_archive(an_archive_statement(END), STREAM[4:]),
        "record 4 is missing",
    ),
    "records before the end of the archive": (
        lambda: after_archive(an_archive_statement(END), STREAM[1:]),
        "record 4 is missing or out of order",
    ),
    "another end": (
        lambda: after_archive(an_archive_statement(StoredRecord(3, "", STREAM[5].chain_hash))),
        "record 4 was altered",
    ),
    "signature of a checkpoint": (of(head_message(TENANT, 3, END.chain_hash)), "the archive of the records to 3"),
    "signature for another tenant": (
        of(archive_message("other-corp", 3, END.chain_hash, bytes(32))),
        "the archive of the records to 3",
    ),
    "signature for another file": (
        of(archive_message(TENANT, 3, END.chain_hash, bytes([1] * 32))),
        "the archive of the records to 3",
    ),
}


@pytest.mark.parametrize(("made", "problem"), REFUTED.values(), ids=REFUTED)
def test_false_archive_is_refuted(made: Callable[[], list[bytes]], problem: str) -> None:
    result = verify_export(made(), KEYS.check)
    assert result.outcome is Outcome.REFUTED
    assert result.problem is not None
    assert any(part in result.problem for part in problem.split("|"))


def test_statement_by_an_unknown_key_confirms_nothing() -> None:
    statement = an_archive_statement(END, signer=Signer("audit:9"))
    result = verify_export(after_archive(statement), KEYS.check)
    assert (result.outcome, result.signature) == (Outcome.NOT_CHECKED, SignatureState.UNKNOWN_KEY)


def test_altered_statement_breaks_the_header() -> None:
    lines = after_archive(an_archive_statement(END))
    altered = [lines[0].replace(b'"seq":3', b'"seq":2'), *lines[1:]]
    assert verify_export(altered, KEYS.check).problem == "line 1, the header, was altered: its checksum does not match"
