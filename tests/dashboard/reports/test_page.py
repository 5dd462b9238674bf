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
from dashboard.reports.view import Choice
from openkcm.contract.audit_events import AuditName
from openkcm.contract.services import ServiceKind
from openkcm.verification.reports.signed_file import ReportFormat
from tests.dashboard.scene import Scene, press, shown, text

ID = "6f2c0c6d5f1e4a0d9f4be1a1f8f0a7c3"
PERIOD = named("2026-01")


@pytest.fixture
def acme(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    return scene


def draw(seat: PageContext) -> AppTest:
    return shown("reports", seat)


def test_it_says_how_each_subject_stands_and_what_to_do(acme: Scene) -> None:
    acme.service("orders", ServiceKind.MICROSERVICE, uses=20)
    said = text(draw(acme.seat()))
    for words in ("Isolation", "Held", "Held by the platform", "In their periods", "For nothing", "Not signed yet"):
        assert words in said
    assert "Choose on the page Settings what takes two people." in said
    assert "No report was made yet" in said
    assert "openkcm audit verify EXPORT --report REPORT --public-key KEY" in said


def test_a_report_is_made_and_its_files_offered(acme: Scene) -> None:
    page = draw(acme.seat("acme-corp-12345", PersonRole.AUDITOR))
    page.radio(key="compliance-period").set_value(Choice.QUARTER.value).run()
    said = press(page, "compliance-create")
    assert "The report is made and signed" in said
    with acme.dashboard.tenant_tx("acme-corp-12345") as tx:
        (row,) = tx.reports.latest()
    assert row.made_for == "Ada (ada@acme.example)"
    assert all(f"Download {form.upper()}" in said for form in ReportFormat)
    assert [outcome for _, outcome in acme.recorded(AuditName.REPORT_REQUESTED)] == ["intended", "success"]


def test_a_report_that_could_not_be_made_says_why_and_is_made_at_the_next_try(acme: Scene) -> None:
    seat = acme.seat()
    acme.door.fails = TemporalUnavailable()
    page = draw(seat)
    said = press(page, "compliance-create")
    assert "The report was not made" in said
    assert "being made" in said
    with acme.dashboard.tenant_tx("acme-corp-12345") as tx:
        (row,) = tx.reports.latest()
    acme.door.fails = None
    report_actions.make(seat, row.report_id, (row.since, row.until))
    with acme.dashboard.tenant_tx("acme-corp-12345") as tx:
        assert [one.report_id for one in tx.reports.latest()] == [row.report_id]
        assert tx.reports.file(row.report_id, ReportFormat.PDF)


def test_whoever_changes_keys_neither_makes_reports_nor_takes_them(acme: Scene) -> None:
    report_actions.make(acme.seat(), ID, PERIOD)
    kai = acme.seat("acme-corp-12345", PersonRole.KEY_ADMINISTRATOR, name="Kai")
    page = draw(kai)
    assert "Your role does not show reports" in text(page)
    assert not page.button
    with pytest.raises(AccessDenied):
        report_actions.download(kai, ID, ReportFormat.PDF)
    assert len(acme.recorded(AuditName.ACTION_REFUSED)) == 1


def test_a_download_is_on_record_and_of_another_tenant_there_is_none(acme: Scene) -> None:
    acme.tenant(State.ACTIVE, "beta-corp-67890", "Beta Corp")
    report_actions.make(acme.seat(), ID, PERIOD)
    uma = acme.seat("acme-corp-12345", PersonRole.AUDITOR, name="Uma")
    got = report_actions.download(uma, ID, ReportFormat.HTML)
    assert got.content == b"html of eu-west-1"
    (record,) = [one for one in acme.records() if one["name"] == AuditName.REPORT_DOWNLOADED]
    assert (record["details"]["form"], record["actor"]) == ("html", "uma@acme.example")
    bea = acme.seat("beta-corp-67890", name="Bea")
    with pytest.raises(ReportUnknown):
        report_actions.download(bea, ID, ReportFormat.HTML)
    assert acme.recorded(AuditName.REPORT_DOWNLOADED, "beta-corp-67890") == []
