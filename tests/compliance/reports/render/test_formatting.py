"""External text is completely visible, and the PDF's fonts contain the declared characters."""

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from compliance.reports.render import pdf
from compliance.reports.render.formatting import _DRAWN, LONGEST, code_point, drawable, visible
from tests.compliance.reports.render.builders import HOSTILE, SIGNED, an_empty_report


def test_invisible_and_direction_characters_are_shown_by_code_point():
    assert visible("a\u202eb\u2066c\ufeffd\x00e\U000e0041") == "a⟨U+202E⟩b⟨U+2066⟩c⟨U+FEFF⟩d⟨U+0000⟩e⟨U+E0041⟩"


def test_line_breaks_and_tabs_become_spaces():
    assert visible(" one\r\n\ttwo  three ") == "one two three"
    assert visible("株式会社 مرحبا Ωμέγα é") == "株式会社 مرحبا Ωμέγα é"


def test_excess_combining_marks_are_shown_by_code_point():
    piled = visible("Z" + "\u0334" * 9)
    assert piled.count("\u0334") == 2
    assert piled.count("⟨U+0334⟩") == 7


def test_long_text_is_truncated_with_the_number_of_omitted_characters():
    assert visible("x" * 1000) == "x" * LONGEST + "… (600 characters more)"
    assert len(visible("\u202e" * 5000)) < LONGEST + 40
    assert len(drawable(visible("株" * 5000))) < 2 * LONGEST + 80


def test_drawable_shows_characters_missing_in_the_fonts_by_code_point():
    assert drawable("ACME 株") == "ACME ⟨U+682A⟩"


def test_names_can_break_after_punctuation_and_long_runs_anywhere():
    assert drawable("acme-corp-12345-primary").split("\u200b") == ["acme-", "corp-", "12345-", "primary"]
    assert max(len(part) for part in drawable("f" * 300).split("\u200b")) == 8
    assert drawable("2026-11-25 12:00:07") == "2026-11-25 12:00:07"


def test_fonts_of_the_pdf_contain_every_declared_character():
    # PDF/A rejects a document with a character that its fonts lack, so a successful build is the proof.
    signs = [chr(code) for first, last in _DRAWN for code in range(first, last + 1)]
    signs = [sign for sign in signs if unicodedata.category(sign) != "Cn"]
    lines = tuple("".join(signs[at : at + 60]) for at in range(0, len(signs), 60))
    assert len(signs) > 1500
    assert pdf(an_empty_report(limits=lines), SIGNED).startswith(b"%PDF-")


@pytest.mark.full
@settings(max_examples=12, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=30))
def test_any_text_can_be_rendered(texts):
    made = pdf(an_empty_report(limits=tuple(texts), organization=" ".join(texts)), SIGNED)
    assert len(PdfReader(io.BytesIO(made)).pages) > 5


def test_hostile_text_is_visible():
    for text in HOSTILE:
        assert all(unicodedata.category(sign) not in {"Cc", "Cf", "Co", "Cs"} for sign in visible(text))
    assert code_point("\u202e") == "⟨U+202E⟩"
