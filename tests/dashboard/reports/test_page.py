"""The page Compliance as Streamlit runs it, on a real database, and its downloads."""

import pytest
from streamlit.testing.v1 import AppTest

from compliance.reports.periods import named
from core.errors.compliance import ReportUnknown
from core.errors.platform import TemporalUnavailable
from core.errors.tenants import AccessDenied
from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from dashboard.page_context import PageContext
from dashboard.reports import actions as report_actions
from dashboard.reports import view as reports_view
from dashboard.reports.view import Choice
from openkcm.contract.audit_events import AuditName
from openkcm.contract.services import ServiceKind
from openkcm.verification.reports.signed_file import ReportFormat
from tests.dashboard.scene import ACME, Scene, press, shown, text
from tests.database.builders import a_result

ID = "6f2c0c6d5f1e4a0d9f4be1a1f8f0a7c3"
PERIOD = named("2026-01")


@pytest.fixture
def acme(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    return scene


def draw(context: PageContext) -> AppTest:
    return shown("reports", context)


def test_the_page_shows_each_subject_with_advice(acme: Scene) -> None:
    acme.service("orders", ServiceKind.MICROSERVICE, uses=20)
    said = text(draw(acme.page_context()))
    for words in ("Isolation", "all passed", "Platform", "Within policy", "Off", "Not signed yet"):
        assert words in said
    assert "Select the actions that require approval on the page Settings." in said
    assert "No reports. Created reports" in said
    assert "openkcm audit verify EXPORT --report REPORT --public-key KEY" in said


def test_isolation_by_clause_and_readiness_are_shown(acme: Scene) -> None:
    said = text(draw(acme.page_context()))
    assert said.count("7 of 18 clauses checked, all passed") == 2
    assert "Shown: checks before activation" in said
    assert "**U2** No other tenant can use your tenant key" in said
    assert ": 2 checks passed, just now" in said
    assert "**U1** Your tenant key exists, works, and is yours alone: not checked" in said
    assert "Each check has a positive control" in said
    assert "within the target of 3 min 0 s." in said
    assert "notify the customer · done in" in said.split("Readiness")[1]


def test_checks_that_were_not_completed_show_the_reason_and_the_last_full_assessment(acme: Scene) -> None:
    probe = a_result(
        "open-others-probes", clause="U2", outcome="not-checked", evidence="no other tenant has a probe yet"
    )
    results = [a_result(), probe, a_result(clause="C2", outcome="not-checked", evidence="no second tenant")]
    acme.gateway.attacks[ACME] = results
    acme.gateway.check_boundaries(ACME, "eu-west-1", repeat=False)
    said = text(draw(acme.page_context()))
    assert "Cross-tenant probe pending (U2): no other tenant has a probe yet" in said
    assert "Not checked: C2: no second tenant" in said
    assert "1 check passed, 2 not checked." in said
    assert "Shown: full assessment" in said


def test_the_default_report_covers_the_time_since_the_tenant_exists(acme: Scene) -> None:
    page = draw(acme.page_context(ACME, PersonRole.AUDITOR))
    assert page.radio(key="compliance-period").value == Choice.SINCE_ENABLED
    assert "before the tenant existed" not in text(page)
    # From any page: the page Compliance, Create report and Download are three clicks.
    assert "Report created and signed" in press(page, "compliance-create")
    with acme.dashboard.tenant_tx(ACME) as tx:
        [row] = tx.reports.latest()
        tenant = tx.tenants.get()
    assert tenant is not None
    assert row.since.date() == tenant.requested_at.date()
    page.radio(key="compliance-period").set_value(Choice.MONTH.value).run()
    assert "Period begins before the tenant existed" in text(page)
    assert "The report would contain no records." in text(page)


def test_a_report_is_created_and_its_files_are_offered(acme: Scene) -> None:
    page = draw(acme.page_context("acme-corp-12345", PersonRole.AUDITOR))
    page.radio(key="compliance-period").set_value(Choice.QUARTER.value).run()
    said = press(page, "compliance-create")
    assert "Report created and signed" in said
    with acme.dashboard.tenant_tx("acme-corp-12345") as tx:
        (row,) = tx.reports.latest()
    assert row.made_for == "Ada (ada@acme.example)"
    assert all(f"Download {form.upper()}: {reports_view.said(row.since, row.until)}" in said for form in ReportFormat)
    assert [outcome for _, outcome in acme.recorded(AuditName.REPORT_REQUESTED)] == ["intended", "success"]


def test_a_failed_report_shows_the_reason_and_is_created_on_a_retry(acme: Scene) -> None:
    context = acme.page_context()
    acme.gateway.fails = TemporalUnavailable()
    page = draw(context)
    said = press(page, "compliance-create")
    assert "Report not created" in said
    assert "in progress" in said
    with acme.dashboard.tenant_tx("acme-corp-12345") as tx:
        (row,) = tx.reports.latest()
    acme.gateway.fails = None
    report_actions.make(context, row.report_id, (row.since, row.until))
    with acme.dashboard.tenant_tx("acme-corp-12345") as tx:
        assert [one.report_id for one in tx.reports.latest()] == [row.report_id]
        assert tx.reports.file(row.report_id, ReportFormat.PDF)


def test_a_key_administrator_can_neither_create_nor_download_reports(acme: Scene) -> None:
    report_actions.make(acme.page_context(), ID, PERIOD)
    kai = acme.page_context("acme-corp-12345", PersonRole.KEY_ADMINISTRATOR, name="Kai")
    page = draw(kai)
    assert "Access denied" in text(page)
    assert not [one for one in page.button if not str(one.key).startswith("standing.")]
    with pytest.raises(AccessDenied):
        report_actions.download(kai, ID, ReportFormat.PDF)
    assert len(acme.recorded(AuditName.ACTION_REFUSED)) == 1


def test_a_download_is_recorded_and_another_tenants_report_is_unknown(acme: Scene) -> None:
    acme.tenant(State.ACTIVE, "beta-corp-67890", "Beta Corp")
    report_actions.make(acme.page_context(), ID, PERIOD)
    uma = acme.page_context("acme-corp-12345", PersonRole.AUDITOR, name="Uma")
    got = report_actions.download(uma, ID, ReportFormat.HTML)
    assert got.content == b"html of eu-west-1"
    (record,) = [one for one in acme.records() if one["name"] == AuditName.REPORT_DOWNLOADED]
    assert (record["details"]["form"], record["actor"]) == ("html", "uma@acme.example")
    bea = acme.page_context("beta-corp-67890", name="Bea")
    with pytest.raises(ReportUnknown):
        report_actions.download(bea, ID, ReportFormat.HTML)
    assert acme.recorded(AuditName.REPORT_DOWNLOADED, "beta-corp-67890") == []
