"""An export is verified with itself and a public key alone; every attack on it is detected at its position."""

import json
import random
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract.audit_events import GENESIS, StoredRecord, link
from openkcm.errors import AuditBroken
from openkcm.verification.audit_export import (
    ExportComparison,
    compare,
    end_line,
    header_line,
    places_of,
    record_line,
    verify_export,
)
from openkcm.verification.errors import VerificationIncomplete
from openkcm.verification.results import Outcome, SignatureState, VerificationResult
from tests.compliance.reports.sample import chained
from tests.core.proving import (
    FINGERPRINT,
    KEYS,
    TENANT,
    a_file,
    a_head,
    a_header,
    a_selection,
    a_stream,
    an_export,
    lines_of,
    with_flipped_bit,
)
from tests.database.signing import Signer


def verify(file: bytes, *, compared: bool = False) -> VerificationResult:
    return verify_export(lines_of(file), KEYS.check, compared=compared)


def rechained(records: list[StoredRecord]) -> list[StoredRecord]:
    """Chain texts again with new sequence numbers, as an attacker who can write the whole file would."""
    texts = (json.loads(one.record) | {"seq": seq} for seq, one in enumerate(records, start=1))
    return chained([json.dumps(text, ensure_ascii=False) for text in texts])


@pytest.mark.parametrize(("length", "signed"), [(5, 5), (5, 3), (1, 1), (7, 4)])
def test_whole_export_is_intact_and_reports_its_signed_range(length, signed):
    verdict = verify(an_export(length, signed))
    assert (verdict.intact, verdict.events, verdict.signature) == (True, length, SignatureState.VERIFIED)
    assert (verdict.tenant_id, verdict.signed, verdict.key) == (TENANT, signed, "audit:1")
    assert verdict.fingerprint == FINGERPRINT


def test_without_a_key_only_the_chain_is_verified():
    verdict = verify_export(lines_of(an_export(5, signer=Signer())), None)
    assert (verdict.intact, verdict.signature) == (True, SignatureState.NOT_CHECKED)
    assert verify_export(lines_of(an_export(5, signed=0)), None).signature is SignatureState.MISSING
    empty = verify_export(lines_of(a_file(a_header([], None), [])), None)
    assert (empty.intact, empty.events) == (True, 0)


def assert_found(file: bytes, place: int, *, with_key: bool) -> None:
    line = file[: place // 8].count(b"\n") + 1
    verdict = verify_export(lines_of(with_flipped_bit(file, place)), KEYS.check if with_key else None)
    assert verdict.problem is not None
    assert re.search(rf"\bline {line}\b", verdict.problem), (place, verdict.problem)


FILES = {"whole": an_export(2), "selection": a_selection(a_stream(5), 2, 4)}


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("kind", FILES)
def test_changed_bit_of_a_small_file_is_detected_in_its_line(kind, step):
    for place in range(0, len(FILES[kind]) * 8, step):
        assert_found(FILES[kind], place, with_key=kind == "whole")
        assert_found(FILES[kind], place, with_key=False)


@pytest.mark.full
def test_changed_bit_of_a_large_file_is_detected_in_its_line():
    file = an_export(2_000, signed=1_500)
    chosen = random.Random(7)  # noqa: S311 - places in a file
    for place in chosen.sample(range(len(file) * 8), 60):
        assert_found(file, place, with_key=True)


SMALL = an_export(6)
LINES = lines_of(SMALL)


def assert_named(altered: bytes, *, or_after: bool = False) -> None:
    """Assert that the problem names the first changed line; for a truncated file, the last line."""
    there, problem = lines_of(altered), verify(altered).problem
    same = next((at for at, (one, was) in enumerate(zip(there, LINES, strict=False)) if one != was), None)
    at = len(there) if same is None and len(there) < len(LINES) else (len(LINES) if same is None else same) + 1
    assert problem is not None, altered
    assert re.search(rf"\bline {at or 1}\b", problem) or (or_after and f"line {at + 1}" in problem), (at, problem)


@pytest.mark.parametrize("place", range(len(LINES)))
def test_each_removed_or_replaced_line_is_detected_at_its_position(place):
    assert_named(b"".join([*LINES[:place], *LINES[place + 1 :]]))
    for other in range(len(LINES)):
        if other != place:
            changed = list(LINES)
            changed[place] = LINES[other]
            assert_named(b"".join(changed))
            changed[other] = LINES[place]
            assert_named(b"".join(changed))


@pytest.mark.parametrize("place", range(len(LINES) + 1))
def test_each_inserted_line_is_detected_at_its_position(place):
    for more in (*LINES, b"\n", b"{}\n", b"\xff\n"):
        assert_named(b"".join([*LINES[:place], more, *LINES[place:]]))
    # A header or first record of another valid export is valid itself: the error is in the line after it.
    for more in lines_of(an_export(7, subject="harmless")):
        assert_named(b"".join([*LINES[:place], more, *LINES[place:]]), or_after=True)


def test_truncated_file_is_detected_at_its_end():
    for length in range(len(SMALL)):
        assert_named(SMALL[:length])


def test_removed_or_inserted_byte_is_detected_in_its_line():
    chosen = random.Random(11)  # noqa: S311 - bytes of a file
    for place in range(len(SMALL)):
        assert_named(SMALL[:place] + SMALL[place + 1 :])
        assert_named(SMALL[:place] + bytes([chosen.randrange(256)]) + SMALL[place:])


@given(st.data())
def test_replaced_part_is_detected_in_its_line(data):
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(SMALL))] * 2)))
    piece = data.draw(st.binary(max_size=40) | st.sampled_from(LINES))
    if piece != SMALL[begin:end]:
        altered = SMALL[:begin] + piece + SMALL[end:]
        if altered != SMALL:
            assert_named(altered)


STREAM = a_stream(7)
FIVE = STREAM[:5]


def forged(records: list[StoredRecord], of: list[StoredRecord] = FIVE, signed: int = 5, **changed: object) -> bytes:
    """Return a file with these records under the header of another stream."""
    return a_file(a_header(of, a_head(of[signed - 1], **changed)), records)


def with_one_link_forged() -> list[StoredRecord]:
    text = FIVE[3].record.replace("Schlüssel 4", "Schlüssel 9")
    return [*FIVE[:3], StoredRecord(4, text, link(FIVE[2].chain_hash, text)), FIVE[4]]


HARMLESS = rechained(a_stream(5, subject="harmless"))
MOVED_HEAD = a_head(FIVE[-1]).model_copy(update={"chain_hash": HARMLESS[-1].chain_hash.hex()})
OTHERS = a_stream(3, tenant_id="beta-corp-1")
DEEP = [StoredRecord(1, "[" * 200_000, link(GENESIS, "[" * 200_000))]
FORGERIES = {
    "no signed head": (an_export(5, signed=0), "no signed checkpoint"),
    "cut, with a new end line": (
        forged(FIVE[:4], signed=3),
        "^record 5 is missing: the file ends there, the header states 5$",
    ),
    "cut before the signed record": (
        a_file(a_header(FIVE[:2], a_head(FIVE[2])), FIVE[:2]),
        "^record 3, which was signed, is missing$",
    ),
    "more behind the end": (forged(STREAM), "^record 6 comes after the end that the header states$"),
    "left out": (forged([*FIVE[:1], *FIVE[2:]]), r"^record 2 is missing or out of order \(line 3\)$"),
    "exchanged": (forged([FIVE[0], *FIVE[2:0:-1], *FIVE[3:]]), r"^record 2 is missing or out of order \(line 3\)$"),
    "repeated": (forged([*FIVE[:2], *FIVE[1:]]), r"^record 3 is missing or out of order \(line 4\)$"),
    "another text": (
        an_export(5).replace("Schlüssel 4".encode(), "Schlüssel 9".encode()),
        r"^record 4 was altered \(line 5\)$",
    ),
    "another text with its hash": (forged(with_one_link_forged()), r"^record 5 was altered \(line 6\)$"),
    "a new chain": (forged(HARMLESS), "^record 5 is not the signed one$"),
    "a new chain in the signed head": (
        a_file(a_header(HARMLESS, MOVED_HEAD), HARMLESS),
        "^line 1, the checkpoint of record 5: the signature does not match this content",
    ),
    "another key under the same name": (an_export(5, signer=Signer()), "names a key with the fingerprint"),
    "a key that was not given": (
        an_export(5, signer=Signer("audit:2")),
        "it was signed with the key 'audit:2', and the known public keys are: audit:1$",
    ),
    "another tenant's records": (forged(OTHERS, OTHERS, 3), rf"^record 1 does not belong to {TENANT} \(line 2\)$"),
    "another tenant's head": (forged(FIVE, tenant_id="beta-corp-1"), "the signature does not match this content"),
    "as deep as Python can go": (forged(DEEP, DEEP, 1), r"^record 1 was altered \(line 2\)$"),
}


@pytest.mark.parametrize(("file", "says"), FORGERIES.values(), ids=FORGERIES)
def test_forgery_is_rejected_with_reason_and_position(file, says):
    verdict = verify(file)
    assert re.search(says, verdict.problem)
    if "does not match this content" in says:
        assert (verdict.signature, verdict.signed) == (SignatureState.REFUSED, 5)
    missing = "no signed checkpoint" in says or verdict.signature is SignatureState.UNKNOWN_KEY
    assert verdict.outcome is (Outcome.NOT_CHECKED if missing else Outcome.REFUTED)


@pytest.mark.parametrize(
    ("exported_at", "due"),
    [
        (datetime(2026, 11, 29, 23, 57, 30, tzinfo=timezone(timedelta(hours=1))), "2026-11-29 23:00 UTC"),
        (datetime(2026, 12, 31, 23, 55, tzinfo=UTC), "2027-01-01 00:00 UTC"),
        (datetime.max.replace(tzinfo=UTC), "5 minutes"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "5 minutes"),
    ],
)
def test_file_without_a_checkpoint_is_answered_with_the_time_of_the_next_one(exported_at, due):
    verdict = verify(a_file(a_header(FIVE, None, exported_at=exported_at), FIVE))
    assert re.search(f"export it again after ({due})", verdict.problem)


def test_records_after_the_signed_one_are_reported_as_not_signed():
    """An attacker who also changes the header can drop unsigned records; the result states the signed range."""
    verdict = verify(forged(FIVE[:4], FIVE[:4], signed=3))
    assert (verdict.intact, verdict.events, verdict.signed) == (True, 4, 3)


# ── selections ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_link_of_a_selection_is_verified():
    assert verify_export(lines_of(a_selection(a_stream(9), 1, 2, 5, 9)), None).intact


def test_broken_selection_is_rejected_with_its_position():
    file = a_selection(a_stream(9), 1, 2, 5, 9)
    header = a_header(FIVE, a_head(FIVE[-1]), selection={"text": "x"})
    for broken, says in (
        (file.replace("Schlüssel 5".encode(), "Schlüssel 6".encode()), "record 5 was altered (line 4)"),
        (a_selection(FIVE, 4, 2), "record 5 is missing or out of order (line 3)"),
        (
            "".join([header_line(header), record_line(FIVE[3]), end_line(1)]).encode(),
            "record 4 does not contain the hash of its predecessor (line 2)",
        ),
    ):
        assert verify_export(lines_of(broken), None).problem == says


def test_selection_counts_as_signed_only_when_compared_with_a_whole_export():
    """Anyone can chain a selection and add a valid checkpoint to it."""
    file = a_selection(a_stream(9), 2, 5)
    alone, beside = verify(file), verify(file, compared=True)
    assert "a selection is not bound to its checkpoint" in alone.problem
    assert (beside.intact, beside.signed, beside.signature) == (True, 0, SignatureState.VERIFIED)


# ── comparison of two files ──────────────────────────────────────────────────────────────────────────────────────────


def places(file: bytes) -> list[tuple[int, bytes]]:
    return list(places_of(lines_of(file)))


def test_comparison_counts_common_and_separate_records():
    assert compare(places(an_export(5)), places(an_export(8))) == ExportComparison(5, 0, 3)
    assert compare(places(an_export(8)), places(an_export(5))) == ExportComparison(5, 3, 0)
    assert compare(places(a_selection(a_stream(9), 2, 5)), places(an_export(9))) == ExportComparison(2, 0, 7)


def test_contradicting_files_are_reported_at_the_first_different_record():
    records = a_stream(5)
    other = rechained([*records[:3], *a_stream(5, subject="other")[3:]])
    file = a_file(a_header(other, a_head(other[-1])), other)
    with pytest.raises(AuditBroken, match="record 4 differs between the files"):
        compare(places(an_export(5)), places(file))


@pytest.mark.parametrize(("here", "there"), [([], []), ([(1, b"x")], [(2, b"x")]), ([(1, b"x")], [])])
def test_files_without_a_common_record_cannot_be_compared(here, there):
    with pytest.raises(VerificationIncomplete, match="no record in common"):
        compare(here, there)


def numbered(numbers: set[int]) -> list[tuple[int, bytes]]:
    return [(number, bytes([number])) for number in sorted(numbers)]


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_comparison_equals_set_operations(here, there):
    if here & there:
        found = compare(numbered(here), numbered(there))
        assert found == ExportComparison(len(here & there), len(here - there), len(there - here))
