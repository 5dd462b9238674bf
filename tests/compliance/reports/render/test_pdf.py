"""The report as pages: the same bytes each time, the signed document inside, and nothing in it but what was said."""

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
from compliance.reports.render.pdf import pdf
from tests.compliance.reports.render.builders import SIGNED, a_report_with_findings
sys.stdout.write(hashlib.sha256(pdf(a_report_with_findings(), SIGNED)).hexdigest())
"""


def squeezed(text: str) -> str:
    """Return a text without what a line may break at."""
    return re.sub(r"[\s\u200b]+", "", text)


class Printed:
    """A report as PDF, read back once: pypdf takes seconds for the text of many pages."""

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
def test_the_same_report_gives_the_same_bytes_in_another_environment(tmp_path, findings):
    here = hashlib.sha256(findings.made).hexdigest()
    bare = {"PYTHONPATH": str(ROOT), "TZ": "Pacific/Auckland", "LC_ALL": "C", "HOME": str(tmp_path)}
    there = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=tmp_path, env=bare, capture_output=True, text=True, check=True
    )
    assert there.stdout == here
    assert list(tmp_path.iterdir()) == []  # and nothing was fetched or kept


def test_another_report_gives_other_bytes():
    assert pdf(an_empty_report(), SIGNED) != pdf(an_empty_report(made_for="Somebody Else"), SIGNED)


def test_the_template_asks_for_no_package_file_or_font_of_the_machine():
    template = (ROOT / "compliance/reports/render/templates/report.typ").read_text(encoding="utf-8")
    assert not re.search(r"@preview|@local|#import|#include|\bread\(|\bimage\(|\beval\(|\bplugin\(", template)
    assert set(re.findall(r'font: (?:\("([^"]+)", )?"([^"]+)"', template)) == {
        ("Libertinus Serif", "DejaVu Sans Mono"),
        ("", "DejaVu Sans Mono"),
    }


def test_the_signed_document_lies_in_it_as_it_was(findings):
    assert dict(findings.reader.attachments) == {build(a_report_with_findings()).attached: [SIGNED]}
    assert attached(pdf(an_empty_report(), SIGNED), 10_000) == SIGNED


def test_it_is_archival_and_accessible_and_says_so(findings):
    root = findings.reader.trailer["/Root"]
    metadata = root["/Metadata"].get_data().decode()
    assert root["/Lang"] == "en"
    assert root["/MarkInfo"]["/Marked"]
    assert "<pdfaid:part>3</pdfaid:part>" in metadata
    assert "<pdfuaid:part>1</pdfuaid:part>" in metadata
    assert "Compliance report of ACME Corporation" in metadata


def test_a_digest_can_be_copied_as_it_is(findings):
    assert "5f" * 32 in findings.pages[0]


def test_every_section_stands_in_the_contents_and_in_the_outline(findings):
    titles = [section.title for section in build(a_report_with_findings()).sections]
    contents = squeezed(findings.pages[1])
    assert [title for title in titles if squeezed(title) not in contents] == []
    outlined = [squeezed(str(one["/Title"])) for one in findings.reader.outline if not isinstance(one, list)]
    assert [title for title in titles if not any(squeezed(title) in one for one in outlined)] == []


def test_each_page_says_whose_it_is_of_what_time_and_which_of_how_many(findings):
    number = len(findings.pages)
    assert number > 10
    for at, page in enumerate(findings.pages[1:], start=2):
        said = squeezed(page)
        assert "acme-corp-12345·1January2026to31December2026" in said
        assert f"{at}/{number}" in said


def test_a_table_that_breaks_has_its_header_on_each_page(busy):
    with_rows = [page for page in busy.pages if page.count("wraps service keys") > 20]
    assert len(with_rows) > 2
    assert all("Purpose and algorithm" in " ".join(text.split()) for text in with_rows)


def test_what_is_overdue_breached_or_not_covered_is_marked_by_a_word(findings):
    for words in ("overdue", "Breached", "Gapsnofieldofitislisted", "6of9subjectsinorder"):
        assert words in findings.text


def test_a_long_list_says_how_much_of_it_is_missing(busy):
    assert "120of731areshown;thenewest;theauditexporthasall." in busy.text
    assert "120of412areshown" in busy.text


def test_a_section_without_anything_says_what_would_be_there():
    said = Printed(an_empty_report()).text
    for words in ("Noservicewasconnected", "Nothingwasrefused", "Nocheckwasonrecord", "Norecordliesinthisperiod"):
        assert words in said


def test_hostile_text_is_text(hostile):
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


def test_nothing_hostile_leaves_its_page(hostile):
    for page in hostile.reader.pages[::4]:
        right, places = float(page.mediabox.right), []

        def look(text: str, _: object, at: list[float], *_font: object, kept: list = places) -> None:
            kept.append((text, at))

        page.extract_text(visitor_text=look)
        assert places
        assert all(0 <= at[4] < right and at[5] >= 0 for text, at in places if text.strip())
