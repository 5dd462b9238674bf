"""The offered periods, the list of reports, and the address of a file."""

from datetime import UTC, date, datetime, timedelta

import pytest

from compliance.reports.periods import named
from core.errors.compliance import PeriodRefused
from core.errors.services import InvalidRequest
from dashboard.reports import view as report_query
from dashboard.reports import view as reports
from database.reports import ReportRow
from openkcm.verification.reports.signed_file import ReportFormat

NOW = datetime(2026, 2, 14, 12, tzinfo=UTC)
ENABLED = datetime(2025, 11, 5, 9, tzinfo=UTC)
ID = "6f2c0c6d5f1e4a0d9f4be1a1f8f0a7c3"


def a_row(**changed: object) -> ReportRow:
    fields = {
        "since": datetime(2026, 1, 1, tzinfo=UTC),
        "until": datetime(2026, 2, 1, tzinfo=UTC),
        "made_for": "Uma *Auditor*",
        "requested_at": NOW,
        "made_at": NOW,
    }
    return ReportRow(ID, **(fields | changed))


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("Since enabled", "5 Nov 2025 to 14 Feb 2026"),
        ("Last month", "1 Jan 2026 to 31 Jan 2026"),
        ("Last quarter", "1 Oct 2025 to 31 Dec 2025"),
        ("This year", "1 Jan 2026 to 14 Feb 2026"),
        ("Last year", "1 Jan 2025 to 31 Dec 2025"),
        ("unknown choice", "1 Jan 2026 to 31 Jan 2026"),
    ],
)
def test_a_choice_is_a_period(choice, said):
    assert reports.said(*reports.period(choice, (), NOW, ENABLED)) == said


def test_custom_days_are_a_period_once_both_are_selected():
    assert reports.period("Custom", (date(2026, 1, 3),), NOW, ENABLED) is None
    assert (
        reports.said(*reports.period("Custom", (date(2026, 1, 3), date(2026, 1, 5)), NOW, ENABLED))
        == "3 Jan 2026 to 5 Jan 2026"
    )
    with pytest.raises(PeriodRefused):
        reports.period("Custom", (date(2020, 1, 1), date(2026, 1, 5)), NOW, ENABLED)
    with pytest.raises(PeriodRefused):
        reports.period("Custom", (date(2026, 3, 1), date(2026, 3, 2)), NOW, ENABLED)


@pytest.mark.parametrize(
    ("enabled_at", "choice", "said"),
    [
        (datetime(2025, 12, 31, 23, tzinfo=UTC), "Last month", "1 Jan 2026 to 31 Jan 2026"),
        (datetime(2026, 1, 1, 1, tzinfo=UTC), "Since enabled", "1 Jan 2026 to 14 Feb 2026"),
        (datetime(2026, 2, 14, 11, 59, tzinfo=UTC), "Since enabled", "14 Feb 2026 to 14 Feb 2026"),
    ],
)
def test_the_default_period_begins_when_the_tenant_exists(enabled_at: datetime, choice: str, said: str) -> None:
    assert reports.default_choice(enabled_at, NOW) == choice
    chosen = reports.period(choice, (), NOW, enabled_at)
    assert chosen is not None
    assert reports.said(*chosen) == said
    assert reports.before_tenant(chosen, enabled_at) == ""


def test_a_period_before_the_tenant_existed_has_a_warning() -> None:
    enabled_at = datetime(2026, 1, 11, 8, tzinfo=UTC)
    assert reports.before_tenant(named("2026-01"), enabled_at) == (
        "The tenant was enabled on 11 Jan 2026. The first 10 days of the period have no records, and the report "
        "states it."
    )
    assert "The report would contain no records." in reports.before_tenant(named("2025"), enabled_at)


def test_a_report_shows_period_recipient_and_state():
    made, waits, late = reports.rows(
        [a_row(), a_row(made_at=None), a_row(made_at=None, requested_at=NOW - timedelta(minutes=4))], NOW
    )
    assert (made.title, made.made, made.late) == ("1 Jan 2026 to 31 Jan 2026", True, False)
    assert made.words == "For `Uma *Auditor*`, created 14 Feb 2026, 12:00 UTC (just now)"
    assert (waits.words, waits.made, waits.late) == ("For `Uma *Auditor*`, in progress", False, False)
    assert late.late
    assert "delayed, requested" in late.words


def test_an_address_contains_only_report_and_format():
    for form in ReportFormat:
        assert report_query.decode(report_query.encode(ID, form)) == (ID, form)
    for query in ("", f"report={ID}", f"report={ID}&form=exe", "report=..%2F..&form=pdf", "report=%00&form=pdf"):
        with pytest.raises(InvalidRequest):
            report_query.decode(query)


def test_a_file_name_has_tenant_period_and_report():
    name = report_query.file_name("acme-corp-12345", a_row(), ReportFormat.PDF)
    assert name == "acme-corp-12345-report-20260101-20260201-6f2c0c6d.pdf"
