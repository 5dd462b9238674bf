"""I see on one page whether my tenant stands as it should, and hand my auditor a report that they can check."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from config.secrets import Role
from tenancy.audit import AuditName, fields_of
from tenancy.report_document import Form, read_report
from tests.stories.browser import PATIENCE_MS, Visitor, drawn, title
from tests.stories.dashboard_pages import KAI, UMA, go_to
from tests.stories.open_to_all import assert_open_to_all
from tests.stories.stack import Stack

MADE = "The report is made and signed"
SUBJECTS = ("Isolation", "Custody of the root key", "Ages of keys", "Encryption coverage", "Audit stream", "Two people")


def create(page: Page, period: str) -> None:
    page.get_by_text(period, exact=True).click()
    drawn(page)
    page.get_by_role("button", name="Create report").click()
    expect(page.get_by_text(MADE)).to_be_visible(timeout=2 * PATIENCE_MS)


def take(page: Page, form: Form, folder: Path) -> Path:
    link = page.get_by_role("link", name=f"Download {form.upper()}").first
    with page.expect_download() as download, page.expect_popup():
        link.click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


@pytest.fixture(scope="module")
def taken(stack: Stack, acme: str, chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> dict[Form, Path]:
    """The files of a report of this year, made and downloaded by an auditor in a browser."""
    folder, window = tmp_path_factory.mktemp("taken"), Visitor(chromium, stack.settings.dashboard_url)
    try:
        page = window.sign_in(UMA, f"/tenant/{acme}/")
        go_to(page, "Compliance")
        for subject in SUBJECTS:
            expect(page.get_by_text(subject, exact=True).first).to_be_visible()
        create(page, "This year")
        return {form: take(page, form, folder) for form in Form}
    finally:
        window.close()


def test_each_file_is_the_same_signed_report(taken: dict[Form, Path], acme: str) -> None:
    reports = {form: read_report(file.read_bytes()) for form, file in taken.items()}
    assert {form: read.form for form, read in reports.items()} == {form: form for form in Form}
    assert len({read.report.model_dump_json() for read in reports.values()}) == 1
    report = reports[Form.PDF].report
    assert (report.tenant_id, report.organization) == (acme, "ACME Corporation")
    assert report.made_for.startswith(UMA)
    assert report.counted.records > 0
    assert report.stated.checks


def test_the_page_opens_anywhere_asks_nobody_and_is_open_to_all(taken: dict[Form, Path], chromium: Browser) -> None:
    for look in ({"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}):
        context = chromium.new_context(**look)
        try:
            page, asked, said = context.new_page(), [], []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda message, said=said: said.append(message.text))
            page.goto(taken[Form.HTML].as_uri())
            expect(title(page)).to_have_text("ACME Corporation")
            assert asked == [page.url]
            assert said == []  # the policy kept nothing out that belongs to the page
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert_open_to_all(page)
        finally:
            context.close()


def test_who_made_it_and_who_took_it_is_on_record(stack: Stack, acme: str, taken: dict[Form, Path]) -> None:
    report = read_report(taken[Form.JSON].read_bytes()).report
    with stack.database(Role.DASHBOARD).tenant_tx(acme) as tx:
        head = tx.audit.head()
        assert head is not None
        records = [fields_of(one.record) for one in tx.audit.records(max(0, head.seq - 1000))]
    of_it = [one for one in records if one["subject"] == report.report_id]
    downloads = [json.dumps(one["details"]) for one in of_it if one["name"] == AuditName.REPORT_DOWNLOADED]
    assert downloads == [json.dumps({"form": form}) for form in Form]
    assert {one["name"] for one in of_it} >= {AuditName.REPORT_REQUESTED, AuditName.REPORT_MADE}


def test_whoever_changes_keys_is_shown_how_it_stands_and_no_report(
    acme: str, taken: dict[Form, Path], visitor: Callable[..., Visitor]
) -> None:
    report = read_report(taken[Form.JSON].read_bytes()).report
    window = visitor()
    page = window.sign_in(KAI, f"/tenant/{acme}/")
    go_to(page, "Compliance")
    expect(page.get_by_text("Your role does not show reports")).to_be_visible()
    expect(page.get_by_role("button", name="Create report")).to_have_count(0)
    answer = window.context.request.get(f"/tenant/{acme}/compliance-report?report={report.report_id}&form=pdf")
    assert answer.status == 403
    assert b"%PDF" not in answer.body()
