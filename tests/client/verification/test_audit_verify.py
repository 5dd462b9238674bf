"""An export is verified with nothing but itself and a public key; every attack on it is found, and where it is."""

import json
import random
import re

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
    """Chain texts again, as an attacker who can write the whole file would, with their places in them."""
    texts = (json.loads(one.record) | {"seq": seq} for seq, one in enumerate(records, start=1))
    return chained([json.dumps(text, ensure_ascii=False) for text in texts])


@pytest.mark.parametrize(("length", "signed"), [(5, 5), (5, 3), (1, 1), (7, 4)])
def test_a_whole_export_is_intact_and_says_how_far_it_is_signed(length, signed):
    verdict = verify(an_export(length, signed))
    assert (verdict.intact, verdict.events, verdict.signature) == (True, length, SignatureState.VERIFIED)
    assert (verdict.tenant_id, verdict.signed, verdict.key) == (TENANT, signed, "audit:1")
    assert verdict.fingerprint == FINGERPRINT


def test_without_a_key_the_chain_is_verified_and_the_signature_is_not():
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
def test_a_changed_bit_of_a_small_file_is_found_in_its_line(kind, step):
    for place in range(0, len(FILES[kind]) * 8, step):
        assert_found(FILES[kind], place, with_key=kind == "whole")
        assert_found(FILES[kind], place, with_key=False)


@pytest.mark.full
def test_a_changed_bit_of_a_large_file_is_found_in_its_line():
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
    "no signed head": (an_export(5, signed=0), "no head is signed"),
    "cut, with a new end line": (
        forged(FIVE[:4], signed=3),
        "^record 5 is missing: the file ends there and its header says 5$",
    ),
    "cut before the signed record": (
        a_file(a_header(FIVE[:2], a_head(FIVE[2])), FIVE[:2]),
        "^record 3, which was signed, is missing$",
    ),
    "more behind the end": (forged(STREAM), "^record 6 comes after the end that the header names$"),
    "left out": (forged([*FIVE[:1], *FIVE[2:]]), r"^record 2 is missing or out of order \(line 3\)$"),
    "exchanged": (forged([FIVE[0], *FIVE[2:0:-1], *FIVE[3:]]), r"^record 2 is missing or out of order \(line 3\)$"),
    "repeated": (forged([*FIVE[:2], *FIVE[1:]]), r"^record 3 is missing or out of order \(line 4\)$"),
    "another text": (
        an_export(5).replace("Schlüssel 4".encode(), "Schlüssel 9".encode()),
        r"^record 4 was altered \(line 5\)$",
    ),
    "another text with its hash": (forged(with_one_link_forged()), r"^record 5 was altered \(line 6\)$"),
    "a new chain": (forged(HARMLESS), "^record 5 is not the one that was signed$"),
    "a new chain in the signed head": (
        a_file(a_header(HARMLESS, MOVED_HEAD), HARMLESS),
        "^line 1, the signed head of record 5: the signature is not by the public key",
    ),
    "another key under the same name": (an_export(5, signer=Signer()), "names a key with the fingerprint"),
    "a key that was not given": (
        an_export(5, signer=Signer("audit:2")),
        "it is by the key 'audit:2', and the public keys known are: audit:1$",
    ),
    "another tenant's records": (forged(OTHERS, OTHERS, 3), rf"^record 1 is not of {TENANT} \(line 2\)$"),
    "another tenant's head": (forged(FIVE, tenant_id="beta-corp-1"), "the signature is not by the public key"),
    "as deep as Python can go": (forged(DEEP, DEEP, 1), r"^record 1 was altered \(line 2\)$"),
}


@pytest.mark.parametrize(("file", "says"), FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_is_refused_with_its_reason_and_place(file, says):
    verdict = verify(file)
    assert re.search(says, verdict.problem)
    if "by the public key" in says:
        assert (verdict.signature, verdict.signed) == (SignatureState.REFUSED, 5)
    missing = "no head is signed" in says or verdict.signature is SignatureState.UNKNOWN_KEY
    assert verdict.outcome is (Outcome.NOT_CHECKED if missing else Outcome.REFUTED)


def test_records_after_the_signed_one_are_not_protected_and_the_verdict_says_so():
    """A forger who also changes the header can drop what is not signed; the verdict says where protection ends."""
    verdict = verify(forged(FIVE[:4], FIVE[:4], signed=3))
    assert (verdict.intact, verdict.events, verdict.signed) == (True, 4, 3)


# ── selections ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_link_of_a_selection_is_verified_without_its_neighbours():
    assert verify_export(lines_of(a_selection(a_stream(9), 1, 2, 5, 9)), None).intact


def test_a_broken_selection_is_refused_with_its_place():
    file = a_selection(a_stream(9), 1, 2, 5, 9)
    header = a_header(FIVE, a_head(FIVE[-1]), selection={"text": "x"})
    for broken, says in (
        (file.replace("Schlüssel 5".encode(), "Schlüssel 6".encode()), "record 5 was altered (line 4)"),
        (a_selection(FIVE, 4, 2), "record 5 is missing or out of order (line 3)"),
        (
            "".join([header_line(header), record_line(FIVE[3]), end_line(1)]).encode(),
            "record 4 does not say what it follows (line 2)",
        ),
    ):
        assert verify_export(lines_of(broken), None).problem == says


def test_a_selection_is_accepted_as_signed_only_beside_a_whole_export():
    """Anyone can chain a selection and put a true signed head on top of it."""
    file = a_selection(a_stream(9), 2, 5)
    alone, beside = verify(file), verify(file, compared=True)
    assert "a selection is not tied to the signed head" in alone.problem
    assert (beside.intact, beside.signed, beside.signature) == (True, 0, SignatureState.VERIFIED)


# ── two proofs held against each other ───────────────────────────────────────────────────────────────────────────────


def places(file: bytes) -> list[tuple[int, bytes]]:
    return list(places_of(lines_of(file)))


def test_files_of_one_stream_are_compared_by_what_they_have_in_common():
    assert compare(places(an_export(5)), places(an_export(8))) == ExportComparison(5, 0, 3)
    assert compare(places(an_export(8)), places(an_export(5))) == ExportComparison(5, 3, 0)
    assert compare(places(a_selection(a_stream(9), 2, 5)), places(an_export(9))) == ExportComparison(2, 0, 7)


def test_two_stories_are_told_by_the_first_record_in_which_they_differ():
    records = a_stream(5)
    other = rechained([*records[:3], *a_stream(5, subject="other")[3:]])
    file = a_file(a_header(other, a_head(other[-1])), other)
    with pytest.raises(AuditBroken, match="record 4 is not the same in both files"):
        compare(places(an_export(5)), places(file))


@pytest.mark.parametrize(("here", "there"), [([], []), ([(1, b"x")], [(2, b"x")]), ([(1, b"x")], [])])
def test_two_files_without_a_record_in_common_say_nothing(here, there):
    with pytest.raises(VerificationIncomplete, match="no record in common"):
        compare(here, there)


def numbered(numbers: set[int]) -> list[tuple[int, bytes]]:
    return [(number, bytes([number])) for number in sorted(numbers)]


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)))
def test_comparing_counts_as_sets_do(here, there):
    if here & there:
        found = compare(numbered(here), numbered(there))
        assert found == ExportComparison(len(here & there), len(here - there), len(there - here))
