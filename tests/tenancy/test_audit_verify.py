"""An export is verified with nothing but itself and a public key; every attack on it is found, and where it is."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy.audit import GENESIS, StoredRecord, link
from tenancy.audit_export import end_line, header_line, read_export, record_line
from tenancy.audit_verify import Compared, compare, places_of, verify_export
from tenancy.errors import AuditBroken
from tenancy.proofs import SignatureState, Verdict
from tests.database.signing import Signer
from tests.tenancy.proving import (
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
)


def verify(file: bytes, *, compared: bool = False) -> Verdict:
    return verify_export(lines_of(file), KEYS.check, compared=compared)


def rechained(records: list[StoredRecord]) -> list[StoredRecord]:
    """Chain texts anew, as whoever can write the whole file would, with their places in them."""
    previous, chained = GENESIS, []
    for seq, one in enumerate(records, start=1):
        record = json.dumps(json.loads(one.record) | {"seq": seq}, ensure_ascii=False)
        previous = link(previous, record)
        chained.append(StoredRecord(seq, record, previous))
    return chained


@pytest.mark.parametrize(("length", "signed"), [(5, 5), (5, 3), (1, 1)])
def test_a_whole_export_is_intact_and_says_how_far_it_is_signed(length, signed):
    verdict = verify(an_export(length, signed))
    assert (verdict.intact, verdict.events, verdict.signature) == (True, length, SignatureState.VERIFIED)
    assert (verdict.tenant_id, verdict.signed, verdict.key) == (TENANT, signed, "audit:1")
    assert verdict.fingerprint == FINGERPRINT


def test_without_a_key_the_chain_is_verified_and_the_signature_is_said_not_to_be():
    verdict = verify_export(lines_of(an_export(5, signer=Signer())), None)
    assert (verdict.intact, verdict.signature) == (True, SignatureState.NOT_CHECKED)


def test_what_nobody_signed_is_not_passed_to_somebody_who_brought_a_key():
    verdict = verify(an_export(5, signed=0))
    assert not verdict.intact
    assert "no head is signed" in verdict.problem
    assert verify_export(lines_of(an_export(5, signed=0)), None).signature is SignatureState.MISSING


def test_an_empty_stream_is_a_file_too():
    verdict = verify_export(lines_of(a_file(a_header([], None), [])), None)
    assert (verdict.intact, verdict.events) == (True, 0)


def flipped(file: bytes, place: int) -> tuple[bytes, int]:
    """Return the file with one bit turned over, and the number of the line that it lies in."""
    altered = bytearray(file)
    altered[place // 8] ^= 1 << place % 8
    return bytes(altered), file[: place // 8].count(b"\n") + 1


def assert_found(file: bytes, place: int, *, with_key: bool) -> None:
    altered, line = flipped(file, place)
    verdict = verify_export(lines_of(altered), KEYS.check if with_key else None)
    assert verdict.problem is not None
    assert re.search(rf"\bline {line}\b", verdict.problem), (place, verdict.problem)


@pytest.mark.parametrize("with_key", [True, False])
def test_each_single_bit_of_a_small_file_is_found_in_the_line_it_lies_in(with_key):
    file = an_export(2)
    for place in range(len(file) * 8):
        assert_found(file, place, with_key=with_key)


def test_a_sample_of_bits_of_a_larger_file_is_found_in_the_line_it_lies_in():
    file = an_export(2_000, signed=1_500)
    chosen = random.Random(7)  # noqa: S311 - places in a file
    for place in chosen.sample(range(len(file) * 8), 60):
        assert_found(file, place, with_key=True)


SMALL = an_export(6)
LINES = lines_of(SMALL)


def assert_named(altered: bytes, *, or_after: bool = False) -> None:
    """The verdict names the first line that is not as it was; of a file that only lacks its end, the last one there."""
    there, problem = lines_of(altered), verify(altered).problem
    same = next((at for at, (one, was) in enumerate(zip(there, LINES, strict=False)) if one != was), None)
    at = len(there) if same is None and len(there) < len(LINES) else (len(LINES) if same is None else same) + 1
    assert problem is not None, altered
    assert re.search(rf"\bline {at or 1}\b", problem) or (or_after and f"line {at + 1}" in problem), (at, problem)


@pytest.mark.parametrize("place", range(len(LINES)))
def test_each_line_left_out_or_said_in_the_place_of_another_is_found_there(place):
    assert_named(b"".join([*LINES[:place], *LINES[place + 1 :]]))
    for other in range(len(LINES)):
        if other != place:
            changed = list(LINES)
            changed[place] = LINES[other]
            assert_named(b"".join(changed))
            changed[other] = LINES[place]
            assert_named(b"".join(changed))


@pytest.mark.parametrize("place", range(len(LINES) + 1))
def test_each_line_put_in_anywhere_is_found_there(place):
    for more in (*LINES, b"\n", b"{}\n", b"\xff\n"):
        assert_named(b"".join([*LINES[:place], more, *LINES[place:]]))
    # A header or a first record of another true export is as good as ours: what follows does not follow from it.
    for more in lines_of(an_export(7, subject="harmless")):
        assert_named(b"".join([*LINES[:place], more, *LINES[place:]]), or_after=True)


def test_a_file_that_is_cut_anywhere_is_found_at_its_end():
    for length in range(len(SMALL)):
        assert_named(SMALL[:length])


def test_a_byte_left_out_or_put_in_anywhere_is_found_in_its_line():
    chosen = random.Random(11)  # noqa: S311 - bytes of a file
    for place in range(len(SMALL)):
        assert_named(SMALL[:place] + SMALL[place + 1 :])
        assert_named(SMALL[:place] + bytes([chosen.randrange(256)]) + SMALL[place:])


@given(st.data())
def test_whatever_else_is_put_in_the_place_of_a_piece_is_found_in_its_line(data):
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(SMALL))] * 2)))
    piece = data.draw(st.binary(max_size=40) | st.sampled_from(LINES))
    if piece != SMALL[begin:end]:
        altered = SMALL[:begin] + piece + SMALL[end:]
        if altered != SMALL:
            assert_named(altered)


def test_records_cut_from_the_end_with_a_new_end_line_are_missed_by_their_number():
    records = a_stream(5)
    head = a_head(records[2])
    verdict = verify(a_file(a_header(records, head), records[:4]))
    assert verdict.problem == "record 5 is missing: the file ends there and its header says 5"
    signed_is_gone = verify(a_file(a_header(records[:2], head), records[:2]))
    assert signed_is_gone.problem == "record 3, which was signed, is missing"


def test_records_cut_off_after_the_signed_one_are_told_to_be_unprotected():
    """A forger who also changes the header can drop what nobody signed; the verdict says where protection ends."""
    records = a_stream(5)
    verdict = verify(a_file(a_header(records[:4], a_head(records[2])), records[:4]))
    assert (verdict.intact, verdict.events, verdict.signed) == (True, 4, 3)


def test_records_put_behind_the_end_are_found():
    records = a_stream(7)
    verdict = verify(a_file(a_header(records[:5], a_head(records[4])), records))
    assert verdict.problem == "record 6 comes after the end that the header names"


def test_an_old_head_under_a_longer_file_is_intact_and_says_what_it_covers():
    records = a_stream(7)
    verdict = verify(a_file(a_header(records, a_head(records[3])), records))
    assert (verdict.intact, verdict.events, verdict.signed) == (True, 7, 4)


def test_swapped_and_moved_records_are_found_by_number_and_line():
    lines = lines_of(an_export(5))
    lines[2], lines[3] = lines[3], lines[2]
    assert verify(b"".join(lines)).problem == "record 2 is missing or out of order (line 3)"


def test_a_record_left_out_is_found_by_number_and_line():
    records = a_stream(5)
    verdict = verify(a_file(a_header(records, a_head(records[-1])), [*records[:1], *records[2:]]))
    assert verdict.problem == "record 2 is missing or out of order (line 3)"


def test_a_record_said_twice_is_found():
    records = a_stream(5)
    verdict = verify(a_file(a_header(records, a_head(records[-1])), [*records[:2], *records[1:]]))
    assert verdict.problem == "record 3 is missing or out of order (line 4)"


def test_a_text_that_was_changed_is_found_by_number_and_line():
    file = an_export(5).replace("Schlüssel 4".encode(), "Schlüssel 9".encode())
    assert verify(file).problem == "record 4 was altered (line 5)"


def test_a_rechained_record_is_found_by_the_one_after_it():
    records = a_stream(5)
    forged = records[3].record.replace("Schlüssel 4", "Schlüssel 9")
    records[3] = StoredRecord(4, forged, link(records[2].chain_hash, forged))
    verdict = verify(a_file(a_header(records, a_head(a_stream(5)[-1])), records))
    assert verdict.problem == "record 5 was altered (line 6)"


def test_a_whole_stream_chained_anew_is_found_by_the_signed_hash_and_by_the_signature():
    forged = rechained(a_stream(5, subject="harmless"))
    kept_head = a_file(a_header(forged, a_head(a_stream(5)[-1])), forged)
    assert verify(kept_head).problem == "record 5 is not the one that was signed"
    moved_head = a_head(a_stream(5)[-1]).model_copy(update={"chain_hash": forged[-1].chain_hash.hex()})
    verdict = verify(a_file(a_header(forged, moved_head), forged))
    assert (verdict.signature, verdict.signed) == (SignatureState.REFUSED, 5)
    assert verdict.problem.startswith("line 1, the signed head of record 5: the signature is not by the public key")


def test_a_stream_signed_by_somebody_else_under_the_same_name_is_refused():
    verdict = verify(an_export(5, signer=Signer()))
    assert verdict.signature is SignatureState.REFUSED


def test_a_stream_signed_by_a_key_that_was_not_given_is_refused_by_its_name():
    verdict = verify(an_export(5, signer=Signer("audit:2")))
    assert "it is by the key 'audit:2', and the public keys known are: audit:1" in verdict.problem


def test_another_tenants_records_are_not_passed_off_under_this_name():
    records = a_stream(3, tenant_id="beta-corp-1")
    verdict = verify(a_file(a_header(records, a_head(records[-1])), records))
    assert verdict.problem == f"record 1 is not of {TENANT} (line 2)"


def test_a_tenants_head_signs_no_other_tenants_stream():
    records = a_stream(3)
    head = a_head(records[-1], tenant_id="beta-corp-1")
    assert verify(a_file(a_header(records, head), records)).signature is SignatureState.REFUSED


def test_a_record_as_deep_as_python_can_go_is_no_record():
    deep = "[" * 200_000
    record = StoredRecord(1, deep, link(GENESIS, deep))
    assert verify(a_file(a_header([record], a_head(record)), [record])).problem == "record 1 was altered (line 2)"


# ── selections ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_link_of_a_selection_is_verified_though_its_neighbours_are_not_there():
    records = a_stream(9)
    file = a_selection(records, 1, 2, 5, 9)
    assert verify_export(lines_of(file), None).intact
    altered = file.replace("Schlüssel 5".encode(), "Schlüssel 6".encode())
    assert verify_export(lines_of(altered), None).problem == "record 5 was altered (line 4)"


def test_each_single_bit_of_a_selection_is_found_in_the_line_it_lies_in():
    file = a_selection(a_stream(5), 2, 4)
    for place in range(len(file) * 8):
        assert_found(file, place, with_key=False)


def test_a_selection_out_of_order_is_found():
    file = a_selection(a_stream(5), 4, 2)
    assert verify_export(lines_of(file), None).problem == "record 5 is missing or out of order (line 3)"


def test_a_record_of_a_selection_that_does_not_say_what_it_follows_is_found():
    records = a_stream(5)
    header = a_header(records, a_head(records[-1]), selection={"text": "x"})
    file = "".join([header_line(header), record_line(records[3]), end_line(1)]).encode()
    assert verify_export(lines_of(file), None).problem == "record 4 does not say what it follows (line 2)"


def test_a_selection_is_passed_as_signed_only_beside_a_whole_export():
    """Anybody can chain a selection and put somebody's true signed head on top of it."""
    file = a_selection(a_stream(9), 2, 5)
    alone, beside = verify(file), verify(file, compared=True)
    assert "a selection is not tied to the signed head" in alone.problem
    assert (beside.intact, beside.signed, beside.signature) == (True, 0, SignatureState.VERIFIED)


# ── two proofs held against each other ───────────────────────────────────────────────────────────────────────────────


def places(file: bytes) -> list[tuple[int, bytes]]:
    return list(places_of(lines_of(file)))


def test_an_export_is_the_beginning_of_a_later_one():
    assert compare(places(an_export(5)), places(an_export(8))) == Compared(5, 0, 3)
    assert compare(places(an_export(8)), places(an_export(5))) == Compared(5, 3, 0)


def test_a_selection_is_a_part_of_the_whole():
    assert compare(places(a_selection(a_stream(9), 2, 5)), places(an_export(9))) == Compared(2, 0, 7)


def test_two_stories_are_told_by_the_first_record_in_which_they_differ():
    records = a_stream(5)
    other = rechained([*records[:3], *a_stream(5, subject="other")[3:]])
    file = a_file(a_header(other, a_head(other[-1])), other)
    with pytest.raises(AuditBroken, match="record 4 is not the same in both files"):
        compare(places(an_export(5)), places(file))


@pytest.mark.parametrize(("here", "there"), [([], []), ([(1, b"x")], [(2, b"x")]), ([(1, b"x")], [])])
def test_two_files_without_a_record_in_common_say_nothing(here, there):
    with pytest.raises(AuditBroken, match="no record in common"):
        compare(here, there)


def numbered(numbers: set[int]) -> list[tuple[int, bytes]]:
    return [(number, bytes([number])) for number in sorted(numbers)]


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_comparing_counts_as_sets_do(here, there):
    if here & there:
        found = compare(numbered(here), numbered(there))
        assert found == Compared(len(here & there), len(here - there), len(there - here))


def test_what_is_read_is_what_was_written():
    header, records = read_export(lines_of(an_export(3)))
    assert (header.last_seq, [one.stored for one in records]) == (3, a_stream(3))
