"""The page Compliance shows the state of a tenant, and an auditor creates a signed report there."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from openkcm.contract.audit_events import AuditName
from openkcm.verification.reports.signed_file import ReportFormat, read_report
from tests.e2e.dashboard.harness.accessibility import assert_accessible
from tests.e2e.dashboard.harness.browser import TIMEOUT_MS, Visitor, drawn, title
from tests.e2e.dashboard.harness.dashboard_pages import KAI, UMA, go_to
from tests.e2e.dashboard.harness.sign_ons import sign_in, subject
from tests.e2e.stack import Stack
from tests.e2e.tenants import ORGANIZATION

MADE = "Report created and signed"
SUBJECTS = (
    "Isolation",
    "Root key custody",
    "Key rotation",
    "Encryption coverage",
    "Audit stream",
    "Two-person approval",
)


def download(page: Page, form: ReportFormat, folder: Path) -> Path:
    link = page.get_by_role("link", name=f"Download {form.upper()}").first
    with page.expect_download() as started, page.expect_popup():
        link.click()
    file = folder / started.value.suggested_filename
    started.value.save_as(file)
    return file


@pytest.fixture(scope="module")
def files(
    stack: Stack, tenant: str, chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> dict[ReportFormat, Path]:
    """Return the files of a report for this year that an auditor created and downloaded in a browser."""
    folder = tmp_path_factory.mktemp("files")
    with closing(Visitor(chromium, stack.settings.dashboard_url)) as window:
        page = sign_in(window, stack, tenant, UMA)
        go_to(page, "Compliance")
        for topic in SUBJECTS:
            expect(page.get_by_text(topic, exact=True).first).to_be_visible()
        page.get_by_text("This year", exact=True).click()
        drawn(page)
        page.get_by_role("button", name="Create report").click()
        expect(page.get_by_text(MADE)).to_be_visible(timeout=2 * TIMEOUT_MS)
        return {form: download(page, form, folder) for form in ReportFormat}


def test_each_file_is_the_same_signed_report(stack: Stack, files: dict[ReportFormat, Path], tenant: str) -> None:
    reports = {form: read_report(file.read_bytes()) for form, file in files.items()}
    assert {form: read.form for form, read in reports.items()} == {form: form for form in ReportFormat}
    assert len({read.report.model_dump_json() for read in reports.values()}) == 1
    report = reports[ReportFormat.PDF].report
    assert (report.tenant_id, report.organization) == (tenant, ORGANIZATION)
    assert report.made_for.startswith(UMA)
    assert subject(tenant, UMA) in report.made_for
    assert report.counted.records > 0
    assert report.stated.checks

    # The request, the report and each download are recorded.
    events = [one for one in stack.events(tenant) if one["subject"] == report.report_id]
    downloads = [json.dumps(one["details"]) for one in events if one["name"] == AuditName.REPORT_DOWNLOADED]
    assert downloads == [json.dumps({"form": form}) for form in ReportFormat]
    assert {one["name"] for one in events} >= {AuditName.REPORT_REQUESTED, AuditName.REPORT_MADE}


def test_html_report_requests_nothing_and_is_accessible(files: dict[ReportFormat, Path], chromium: Browser) -> None:
    for look in ({"color_scheme": "light"}, {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}}):
        context = chromium.new_context(**look)
        try:
            page, urls, logs = context.new_page(), [], []
            page.on("request", lambda request, urls=urls: urls.append(request.url))
            page.on("console", lambda message, logs=logs: logs.append(message.text))
            page.goto(files[ReportFormat.HTML].as_uri())
            expect(title(page)).to_have_text(ORGANIZATION)
            assert urls == [page.url]
            assert logs == []  # the content security policy blocks no part of the page
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert_accessible(page)
        finally:
            context.close()


def test_a_key_administrator_cannot_read_reports(
    stack: Stack, tenant: str, files: dict[ReportFormat, Path], visitor: Callable[..., Visitor]
) -> None:
    report = read_report(files[ReportFormat.JSON].read_bytes()).report
    window = visitor()
    page = sign_in(window, stack, tenant, KAI)
    go_to(page, "Compliance")
    expect(page.get_by_text("Access denied")).to_be_visible()
    expect(page.get_by_role("button", name="Create report")).to_have_count(0)
    answer = window.context.request.get(f"/tenant/{tenant}/compliance-report?report={report.report_id}&form=pdf")
    assert answer.status == 403
    assert b"%PDF" not in answer.body()
