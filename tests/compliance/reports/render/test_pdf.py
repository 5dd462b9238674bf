"""The report as PDF: reproducible, with the signed document attached, and without active content."""

import hashlib
import io
import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import pytest
from pypdf import PdfReader

from compliance.reports.render import pdf
from compliance.reports.render.layout import build
from openkcm.verification.reports.model import Report
from openkcm.verification.reports.signed_file import attached
from tests.compliance.reports.render.builders import (
    HOSTILE,
    SIGNED,
    a_busy_report,
    a_hostile_report,
    a_report_with_findings,
    an_empty_report,
)

ROOT = Path(__file__).parents[4]
ELSEWHERE = """
import hashlib, sys
from compliance.reports.render import pdf
from tests.compliance.reports.render.builders import SIGNED, a_report_with_findings
sys.stdout.write(hashlib.sha256(pdf(a_report_with_findings(), SIGNED)).hexdigest())
"""


def squeezed(text: str) -> str:
    """Return a text without white space and line break opportunities."""
    return re.sub(r"[\s\u200b]+", "", text)


class Printed:
    """A report as PDF, parsed once: pypdf needs seconds for the text of many pages."""

    def __init__(self, report: Report) -> None:
        self.made = pdf(report, SIGNED)
        self.reader = PdfReader(io.BytesIO(self.made))

    @cached_property
    def pages(self) -> list[str]:
        return [page.extract_text() for page in self.reader.pages]

    @cached_property
    def text(self) -> str:
        return squeezed("".join(self.pages))


@pytest.fixture(scope="module")
def findings() -> Printed:
    return Printed(a_report_with_findings())


@pytest.fixture(scope="module")
def busy() -> Printed:
    return Printed(a_busy_report())


@pytest.fixture(scope="module")
def hostile() -> Printed:
    return Printed(a_hostile_report())


@pytest.mark.integration
def test_same_report_gives_same_bytes_in_another_environment(tmp_path, findings):
    here = hashlib.sha256(findings.made).hexdigest()
    bare = {"PYTHONPATH": str(ROOT), "TZ": "Pacific/Auckland", "LC_ALL": "C", "HOME": str(tmp_path)}
    there = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=tmp_path, env=bare, capture_output=True, text=True, check=True
    )
    assert there.stdout == here
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded or cached


def test_different_reports_give_different_bytes():
    assert pdf(an_empty_report(), SIGNED) != pdf(an_empty_report(made_for="Kai Lund"), SIGNED)


def test_template_uses_no_package_file_or_system_font():
    template = (ROOT / "compliance/reports/render/templates/report.typ").read_text(encoding="utf-8")
    assert not re.search(r"@preview|@local|#import|#include|\bread\(|\bimage\(|\beval\(|\bplugin\(", template)
    assert set(re.findall(r'font: (?:\("([^"]+)", )?"([^"]+)"', template)) == {
        ("Libertinus Serif", "DejaVu Sans Mono"),
        ("", "DejaVu Sans Mono"),
    }


def test_signed_document_is_attached_unchanged(findings):
    assert dict(findings.reader.attachments) == {build(a_report_with_findings()).attached: [SIGNED]}
    assert attached(pdf(an_empty_report(), SIGNED), 10_000) == SIGNED


def test_metadata_declares_archival_and_accessible_pdf(findings):
    root = findings.reader.trailer["/Root"]
    metadata = root["/Metadata"].get_data().decode()
    assert root["/Lang"] == "en"
    assert root["/MarkInfo"]["/Marked"]
    assert "<pdfaid:part>3</pdfaid:part>" in metadata
    assert "<pdfuaid:part>1</pdfuaid:part>" in metadata
    assert "Compliance report of ACME Corporation" in metadata


def test_digest_is_not_wrapped(findings):
    assert "5f" * 32 in findings.pages[0]


def test_every_section_is_in_the_contents_and_in_the_outline(findings):
    titles = [section.title for section in build(a_report_with_findings()).sections]
    contents = squeezed(findings.pages[1])
    assert [title for title in titles if squeezed(title) not in contents] == []
    outlined = [squeezed(str(one["/Title"])) for one in findings.reader.outline if not isinstance(one, list)]
    assert [title for title in titles if not any(squeezed(title) in one for one in outlined)] == []


def test_each_page_has_tenant_period_and_page_number(findings):
    number = len(findings.pages)
    assert number > 10
    for at, page in enumerate(findings.pages[1:], start=2):
        said = squeezed(page)
        assert "acme-corp-12345·1January2026to31December2026" in said
        assert f"{at}/{number}" in said


def test_table_repeats_its_header_on_each_page(busy):
    with_rows = [page for page in busy.pages if page.count("wraps service keys") > 20]
    assert len(with_rows) > 2
    assert all("Purpose and algorithm" in " ".join(text.split()) for text in with_rows)


def test_overdue_breached_and_uncovered_items_are_marked_by_a_word(findings):
    for words in ("overdue", "Breached", "Gapsnofieldofitislisted", "6of9subjectsinorder"):
        assert words in findings.text


def test_truncated_list_states_the_number_of_rows(busy):
    assert "120of731areshown;thenewest;theauditexporthasall." in busy.text
    assert "120of412areshown" in busy.text


def test_empty_sections_have_a_text():
    said = Printed(an_empty_report()).text
    for words in (
        "Noservicewasconnected",
        "Noattemptwasrejected",
        "Noisolationcheckwasrecorded",
        "Norecordinthisperiod",
    ):
        assert words in said


def test_hostile_text_is_rendered_as_text(hostile):
    reader, said = hostile.reader, hostile.text
    assert [list(data) for data in dict(reader.attachments).values()] == [[SIGNED]]
    for text in HOSTILE[:4] + HOSTILE[-1:]:
        assert squeezed(text)[:40] in said
    assert "⟨U+202E⟩gnp.exe" in said
    links = [note.get_object() for page in reader.pages for note in page.get("/Annots") or ()]
    assert [link for link in links if "/URI" in link.get("/A", {})] == []
    assert b"/JavaScript" not in hostile.made
    sections = [one for one in reader.outline if not isinstance(one, list)]
    assert len(sections) == len(build(a_hostile_report()).sections)


def test_hostile_text_stays_within_the_page(hostile):
    for page in hostile.reader.pages[::4]:
        right, places = float(page.mediabox.right), []

        def look(text: str, _: object, at: list[float], *_font: object, kept: list = places) -> None:
            kept.append((text, at))

        page.extract_text(visitor_text=look)
        assert places
        assert all(0 <= at[4] < right and at[5] >= 0 for text, at in places if text.strip())
