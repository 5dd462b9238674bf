"""The report as HTML: one file without scripts, with all sections and the signed document."""

import json
import re
from datetime import datetime, timedelta
from html.parser import HTMLParser

from compliance.reports.render import render_html
from compliance.reports.render.layout import build
from openkcm.verification.reports.signed_file import ELEMENT
from tests.compliance.reports.render.builders import (
    HOSTILE,
    SIGNED,
    SINCE,
    UNTIL,
    a_busy_report,
    a_hostile_report,
    a_service,
    an_empty_report,
)

ENDS = b'{"report": "</script><script>alert(1)</script><!--"}'


class Page(HTMLParser):
    """Tags of a page with their attributes, its text, and the content of its script elements."""

    def __init__(self, made: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.carried: list[str] = []
        self._open = ""
        self.feed(made.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag):  # noqa: ARG002 - the parser calls it so
        self._open = ""

    def handle_data(self, data):
        (self.carried if self._open == "script" else self.said).append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_document_cannot_close_its_element():
    made = render_html(an_empty_report(), ENDS)
    page = Page(made)
    assert len(page.carried) == 1
    assert page.named("script") == [{"type": "application/json", "id": "openkcm-report"}]
    assert json.loads(page.carried[0]) == json.loads(ENDS)
    assert made.count(ELEMENT.encode()) == 1


def test_unknown_coverage_is_no_gap():
    report = a_busy_report()
    gaps = {"complete": False, "gaps": ("has no listed fields",)}
    coverage = (a_service("shop", is_unknown=True, **gaps), a_service("crm", **gaps))
    stated = report.stated.model_copy(update={"coverage": coverage})
    page = Page(render_html(report.model_copy(update={"stated": stated}), SIGNED))
    said = [word.strip() for word in page.said]
    assert [said.count(word) for word in ("Unknown", "Gaps", "Covered")] == [1, 1, 0]


def test_page_runs_no_script_and_loads_no_resources():
    page = Page(render_html(a_hostile_report(), SIGNED))
    policy = next(meta["content"] for meta in page.named("meta") if meta.get("http-equiv"))
    assert re.fullmatch(r"default-src 'none'; style-src 'sha256-[\w+/=]+'; base-uri 'none'; form-action 'none'", policy)
    assert all(not name.startswith("on") and name != "style" for _, attributes in page.tags for name in attributes)
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in {"href", "src"}]
    assert addresses
    assert all(address.startswith("#") for address in addresses)


def test_cover_states_the_part_of_the_period_before_the_tenant_existed():
    def said(enabled_at: datetime | None) -> str:
        report = a_busy_report()
        stated = report.stated.model_copy(update={"enabled_at": enabled_at})
        return " ".join(Page(render_html(report.model_copy(update={"stated": stated}), SIGNED)).said)

    assert "the first 10 days of the period have no records" in said(SINCE + timedelta(days=10, hours=3))
    assert "the tenant did not exist in this period" in said(UNTIL + timedelta(days=1))
    for enabled_at in (None, SINCE - timedelta(days=1), SINCE + timedelta(hours=23)):
        assert "was enabled" not in said(enabled_at)


def test_hostile_text_is_rendered_as_text():
    clean, hostile = (Page(render_html(report, SIGNED)) for report in (a_busy_report(), a_hostile_report()))
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in clean.tags}
    said = " ".join("".join(hostile.said).split())
    for text in HOSTILE[:4] + HOSTILE[6:7] + HOSTILE[-1:]:
        assert " ".join(text.split())[:30] in said
    assert "⟨U+202E⟩" in said
    assert "\u202e" not in said


def test_page_is_reproducible_complete_and_accessible():
    made, report = render_html(a_busy_report(), SIGNED), build(a_busy_report())
    assert made == render_html(a_busy_report(), SIGNED)
    page = Page(made)
    assert all(section.lead in "".join(page.said) for section in report.sections)
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("h1")) == 1
    assert len(page.named("caption")) == len(page.named("table")) > 10
    assert all(cell["scope"] == "col" for cell in page.named("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.named("a")} == {f"#{one.id}" for one in report.sections}
