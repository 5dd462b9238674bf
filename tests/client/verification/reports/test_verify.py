"""A report is confirmed or refuted by an export and a public key; every change of either is detected and named."""

import json
import zlib
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openkcm.contract.audit_events import AuditName, StoredRecord
from openkcm.verification.reports.model import Report
from openkcm.verification.reports.signed_file import (
    LONGEST_DOCUMENT,
    LONGEST_FILE,
    ReportFormat,
    element,
    read_report,
    report_message,
    report_text,
    signable,
    stated_digest,
    with_signature,
)
from openkcm.verification.reports.verify import ReportVerdict, verify_report
from openkcm.verification.results import SignatureState
from openkcm.verification.signed_document import InvalidDocument
from tests.compliance.reports.sample import (
    MADE,
    REPORT_ID,
    TENANT,
    a_document,
    a_report,
    a_standing,
    a_year,
    chained,
    made_record,
)
from tests.core.proving import KEYS, a_file, a_head, a_header, a_selection, lines_of, with_flipped_bit
from tests.database.signing import SIGNER, Signer

STATED = a_standing()


@cache
def stream() -> tuple[StoredRecord, ...]:
    texts = [one.record for one in a_year(1, until=MADE - timedelta(days=300))]
    return tuple(chained([*texts, made_record(len(texts) + 1, STATED)]))


@cache
def report() -> Report:
    return a_report(list(stream()), STATED)


@cache
def export() -> bytes:
    return an_export(stream())


def an_export(records: tuple[StoredRecord, ...] | list[StoredRecord], signed: int | None = None) -> bytes:
    listed = list(records)
    return a_file(a_header(listed, a_head(listed[(signed or len(listed)) - 1])), listed)


def verify(file: bytes, against: bytes | None = None, *, keyed: bool = True) -> ReportVerdict:
    return verify_report(file, lines_of(export() if against is None else against), KEYS.check if keyed else None)


def document(of: Report | None = None, signer: Signer = SIGNER) -> bytes:
    return a_document(of or report(), signer).encode()


def a_page(of: Report | None = None, inner: bytes | None = None) -> bytes:
    inner = inner or document(of)
    content = f"<!doctype html><title>Report</title><p>41 attempts refused</p>{element(inner)}".encode()
    return signed(content, ReportFormat.HTML)


def a_print(of: Report | None = None, inner: bytes | None = None) -> bytes:
    packed = zlib.compress(inner or document(of))
    head = f"<</Length {len(packed)}/Type/EmbeddedFile/Filter/FlateDecode/Subtype/application#2Fjson>>\nstream\n"
    content = b"%PDF-1.7\n1 0 obj\n" + head.encode() + packed + b"\nendstream\nendobj\n%%EOF"
    return signed(content, ReportFormat.PDF)


def signed(content: bytes, form: ReportFormat, signer: Signer = SIGNER, tenant_id: str = TENANT) -> bytes:
    content = signable(content)
    return with_signature(content, form, *signer.sign(report_message(tenant_id, form, content)))


FORMS = {
    form: cache(made)
    for form, made in ((ReportFormat.JSON, document), (ReportFormat.HTML, a_page), (ReportFormat.PDF, a_print))
}


@pytest.mark.parametrize("form", list(ReportFormat), ids=str)
def test_report_of_any_format_is_confirmed_by_the_export(form):
    verdict = verify(FORMS[form]())
    assert verdict.problem is None
    assert (verdict.confirmed, verdict.signature, verdict.form) == (True, SignatureState.VERIFIED, form)
    assert verdict.report == report()


def test_later_export_confirms_the_report():
    grown = chained([*(one.record for one in stream()), made_record(len(stream()) + 1, STATED, "ab" * 16)])
    assert verify(document(), an_export(grown)).confirmed


def test_without_a_key_figures_are_verified_and_the_signature_is_not_checked():
    verdict = verify(document(signer=Signer()), keyed=False)
    assert (verdict.confirmed, verdict.signature) == (True, SignatureState.NOT_CHECKED)


def figures(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a report."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in figures(item, (*path, key))]
    if isinstance(value, list):
        return [found for number, item in enumerate(value) for found in figures(item, (*path, number))]
    return [path]


FOLLOWS = ("counted", "stated", "summary", "evidence", "limits", "stated_sha256", "stream", "since", "until", "made_at")
"""The parts that follow from the stream or are bound to it; only the signature protects the others."""
PATHS = [path for path in figures(json.loads(report_text(report()))) if path[0] in FOLLOWS]


def changed(value: Any) -> Any:
    match value:
        case bool() | None:
            return not value
        case int() | float():
            return value + 1
        case str() if value[:2] == "20" and value.endswith("Z"):
            return f"2024{value[4:]}"
        case _:
            return value[:-1] + ("0" if value[-1:] != "0" else "1")


def with_change(path: tuple[Any, ...]) -> Report | None:
    """Return the report with one value changed; None if that is not a valid report."""
    fields = json.loads(report_text(report()))
    place = fields
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = changed(place[path[-1]])
    try:
        return Report.model_validate(fields)
    except ValueError:
        return None


@pytest.mark.parametrize("step", [len(PATHS) // 12, pytest.param(17, marks=pytest.mark.full)])
def test_changed_figure_is_detected_by_signature_and_by_stream(step):
    for path in PATHS[::step]:
        forged = with_change(path)
        if forged is None or forged == report():
            continue
        unsigned = json.loads(document())
        unsigned["statement"] = report_text(forged)
        assert verify(json.dumps(unsigned).encode()).problem is not None, path
        other_key = verify(document(forged, Signer()))
        assert (other_key.confirmed, other_key.signature) == (False, SignatureState.REFUSED), path
        # With the signing key, an attacker would still have to forge the stream.
        verdict = verify(document(forged))
        assert not verdict.confirmed, path
        assert verdict.differences or path[0] != "counted", path


def test_difference_names_section_subject_and_both_figures():
    access = list(report().counted.access)
    access[0] = access[0].model_copy(update={"refused": 99})
    forged = report().model_copy(update={"counted": report().counted.model_copy(update={"access": tuple(access)})})
    (first, *_) = verify(document(forged)).differences
    assert (first.section, first.subject) == ("Access and refused attempts", f"access: {access[0].service}")
    assert json.loads(first.reported)["refused"] == 99
    assert json.loads(first.recomputed)["refused"] == report().counted.access[0].refused


@pytest.mark.parametrize("step", [len(stream()) // 3, pytest.param(64, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", ["outcome", "actor", "time", "name", "details"])
def test_changed_record_is_detected_in_a_rechained_and_resigned_export(name, step):
    for at in range(0, len(stream()) - 1, step):
        texts = [one.record for one in stream()]
        fields = json.loads(texts[at])
        fields[name] = {"count": "1000000"} if name == "details" else "2026-03-03T03:03:03.000000Z"
        texts[at] = json.dumps(fields, ensure_ascii=False)
        verdict = verify(document(), an_export(chained(texts)))
        assert "differs in the export" in verdict.problem, at


def test_report_or_export_of_another_tenant_is_rejected():
    assert "belongs to acme-corp-12345" in verify(document(report().model_copy(update={"tenant_id": "beta"}))).problem
    assert verify(signed(signable(a_page())[:-1], ReportFormat.HTML, tenant_id="beta")).problem is not None


def test_different_period_time_or_report_id_is_detected():
    day = timedelta(days=1)
    for name in ("since", "until", "made_at"):
        forged = report().model_copy(update={name: getattr(report(), name) + day})
        assert f"another {name}" in verify(document(forged)).problem
    other = report().model_copy(update={"report_id": "ab" * 16})
    assert "does not belong to this report" in verify(document(other)).problem


def test_snapshot_is_bound_to_the_stream():
    forged_snapshot = a_standing(state="locked")
    forged = report().model_copy(update={"stated": forged_snapshot})
    assert "does not match its digest" in verify(document(forged)).problem
    forged = forged.model_copy(update={"stated_sha256": stated_digest(forged_snapshot)})
    assert "another stated_sha256" in verify(document(forged)).problem


def test_insufficient_export_is_reported():
    short = list(stream()[:-1])
    assert "ends at record" in verify(document(), an_export(short)).problem
    assert "export it again" in verify(document(), an_export(stream(), signed=len(stream()) - 1)).problem
    selected = a_selection(list(stream()), 1, len(stream()))
    assert verify(document(), selected).problem.startswith("the export: a selection")
    assert "is a selection" in verify(document(), selected, keyed=False).problem
    assert verify(document(), export()[:-200]).problem.startswith("the export: ")
    assert verify(document(), b"").problem.startswith("the export: ")


@pytest.mark.parametrize("form", list(ReportFormat), ids=str)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_changed_cut_or_extended_file_is_not_confirmed(form, data):
    file = FORMS[form]()
    at = data.draw(st.integers(0, len(file) - 1))
    altered = with_flipped_bit(file, at * 8 + data.draw(st.integers(0, 7)))
    for changed in (altered, file[:at], file + data.draw(st.binary(min_size=1, max_size=5))):
        assert not verify(changed).confirmed


def test_page_text_that_differs_from_its_figures_is_detected_by_the_signature():
    page = a_page()
    content, _, line = page[:-1].rpartition(b"\n")
    forged = content.replace(b"41 attempts", b" 0 attempts") + b"\n" + line + b"\n"
    assert len(forged) == len(page)
    assert verify(forged).signature is SignatureState.REFUSED
    # A correctly signed document of another report cannot be embedded in signed pages either.
    other = document(report().model_copy(update={"report_id": "ab" * 16}))
    swapped = signed(a_page(inner=other)[: -len(line) - 1], ReportFormat.HTML, Signer())
    assert verify(swapped).signature is SignatureState.REFUSED


def test_signature_of_one_format_is_invalid_for_another():
    content = a_print()
    body = content[: content[:-1].rfind(b"\n") + 1]
    relabelled = with_signature(body, ReportFormat.PDF, *SIGNER.sign(report_message(TENANT, ReportFormat.HTML, body)))
    assert verify(relabelled).signature is SignatureState.REFUSED


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"{" * 100_000,
        b'{"key":"a","sha256":{},"signature":"b","statement":"c"}\n',
        b"\xff\xfe",
        b"<html></html>\n",
        b"%PDF-1.7\n%%EOF\n",
        signed(b"<p>nothing inside</p>", ReportFormat.HTML),
        signed(a_page()[:-1] + element(b"{}").encode(), ReportFormat.HTML),
        signed(element(b"[" * 50_000).encode(), ReportFormat.HTML),
        signed(element(b'{"key":"\\ud800"}').encode(), ReportFormat.HTML),
        signed(a_print() + a_print(), ReportFormat.PDF),
        a_print(inner=b"\0" * (LONGEST_DOCUMENT + 1)),
        a_print(inner=b"{}"),
        signed(b"%PDF-1.7\n<</Length 4/Type/EmbeddedFile/Filter/FlateDecode>>\nstream\nabcd", ReportFormat.PDF),
        bytes(LONGEST_FILE + 1),
        b"{" + b" " * LONGEST_DOCUMENT + b"}",
    ],
    ids=range(18),
)
def test_hostile_file_is_rejected(file):
    verdict = verify(file)
    assert verdict.problem.startswith("the report: ")
    assert verdict.report is None
    with pytest.raises(InvalidDocument):
        read_report(file)


@given(st.binary(max_size=300), st.sampled_from([b"", b"%PDF-", b"{", b"<!doctype html>"]))
def test_no_file_makes_the_reader_fail(rest, begins):
    assert not verify(begins + rest, b"").confirmed


def test_names_with_markup_are_embedded_unchanged():
    hostile = report().model_copy(update={"organization": "</script><!-- \\u003c ü"})
    embedded = read_report(a_page(hostile)).report
    assert embedded.organization == hostile.organization
    assert a_page(hostile).count(b"</script>") == 1
    assert read_report(a_print(hostile)).report == hostile


def test_binding_record_is_not_part_of_the_figures():
    assert REPORT_ID not in report_text(report()).replace(f'"report_id":"{REPORT_ID}"', "")
    assert AuditName.REPORT_MADE not in {one.name for one in report().counted.events}


def test_different_order_and_different_number_are_differences():
    counted = report().counted
    swapped = counted.model_copy(update={"events": counted.events[::-1]})
    verdict = verify(document(report().model_copy(update={"counted": swapped})))
    assert {one.recomputed for one in verdict.differences} == {"in another order, or with duplicates"}
    more = counted.model_copy(update={"records": counted.records + 1})
    (one,) = verify(document(report().model_copy(update={"counted": more}))).differences
    assert (one.reported, one.recomputed) == (str(counted.records + 1), str(counted.records))
