"""The Usage page on a real PostgreSQL, with the dashboard's own database role."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest
from streamlit.testing.v1 import AppTest

from core.errors.tenants import AccessDenied
from core.services import CryptoOperation
from core.tenants.roles import PersonRole
from dashboard.page_context import PageContext
from dashboard.usage import page, view
from dashboard.usage.periods import Interval, period, whole_days
from dashboard.usage.readings import Group, read
from tests.dashboard.scene import PlainNavigation, audit_records, open_tab, shown
from tests.dashboard.seats import TENANT, a_page_context
from tests.database.builders import a_connected_service, a_provisioned_tenant, some_uses, took
from tests.database.fixtures import Field

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
GET = CryptoOperation.GET
SERIES, CAUSES, REFUSALS, LATENCY, LINES = range(5)
"""Where the tables are on the page."""


@pytest.fixture
def context_of(field: Field) -> Callable[..., PageContext]:
    a_provisioned_tenant(field.open("worker"), TENANT)
    database = field.open("dashboard", max_size=2)

    return lambda role=PersonRole.AUDITOR: replace(
        a_page_context(database, role), now=lambda: NOW, navigation=PlainNavigation()
    )


@pytest.fixture
def used(field: Field, context_of: Callable[..., PageContext]) -> PageContext:
    """A tenant with use today, a week ago and a year ago, some of it rejected."""
    a_connected_service(field, TENANT)
    with field.open("crypto").tenant_tx(TENANT) as tx:
        tx.usage.add(
            [
                some_uses(count=1000, minute=NOW, latency=took(*[40] * 990)),
                some_uses("users", operation=GET, count=7, refusal="object_not_found", minute=NOW),
                some_uses("users", operation=GET, count=200, minute=NOW - 6 * DAY, latency=took(3000)),
                some_uses(count=5, minute=NOW - 300 * DAY),
                some_uses(
                    "",
                    operation=CryptoOperation.CONNECT,
                    count=1,
                    refusal="client_not_authorized",
                    bytes=0,
                    minute=NOW,
                ),
            ],
            "batch-1",
        )
    return context_of()


def draw(context: PageContext, **query: str) -> AppTest:
    return shown("usage", context, **query)


def draw_tables(context: PageContext, **query: str) -> AppTest:
    """Draw the page and open the table of each chart that it has."""
    app = draw(context, **query)
    for name in ("requests", "causes", "latency"):
        open_tab(app, f"usage-{name}-tabs", "Table")
    return app


def metrics(app: AppTest) -> dict[str, tuple[str, str]]:
    """Return value and note of each metric; the notes follow the time of the figures."""
    texts = [one.value for one in app.caption]
    first = next(n for n, text in enumerate(texts) if "As of" in text) + 1
    return {metric.label: (metric.value, note) for metric, note in zip(app.metric, texts[first:], strict=False)}


def exported(field: Field) -> list[dict[str, object]]:
    records = audit_records(field.open("worker", max_size=1), TENANT)
    return [one for one in records if one["name"] in {"audit.exported", "dashboard.action_refused"}]


def test_a_tenant_without_use_sees_what_is_missing(field: Field, context_of: Callable[..., PageContext]) -> None:
    app = draw(context_of())
    assert [title.value for title in app.title] == ["Usage"]
    assert "Connect one on the Services page" in app.info[-1].value
    assert not app.metric
    a_connected_service(field, TENANT)
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.usage_day")
    assert "No key requests yet" in draw(context_of()).info[-1].value


def test_figures_are_of_the_default_period_also_for_an_invalid_address(used: PageContext) -> None:
    app = draw_tables(used)
    assert metrics(app) == {
        "Key requests": ("1,207", "average 6.9 per complete UTC day"),
        "Key requests this month": ("1,207", "1,207 since the 1st, UTC"),
        "Refused or failed": ("8", "8 denied, 0 failed: 0.66 % of all requests"),
        "p95 latency (upper bound)": ("45 µs", "average 43 µs"),
    }
    assert app.dataframe[REFUSALS].value[["Service", "Cause", "Requests", "First (UTC)"]].to_dict("split")["data"] == [
        ["users", "Key not found", 7, "2026-11-25"],
        ["no known service", "Certificate rejected", 1, "2026-11-25"],
    ]
    assert any("**Certificate rejected.** The certificate is expired" in one.value for one in app.markdown)
    for query in (
        {"period": "Thirty"},
        {"period": "'; drop table okcm.tenant; --"},
        {"bars": "x", "step": "Year"},
        {"step": "Hour"},
        {"days": "2026-99-99"},
    ):
        assert metrics(draw(used, **query)) == metrics(app)


def test_the_period_is_chosen_on_the_page_or_by_the_address(used: PageContext) -> None:
    app = draw(used)
    app.radio(key="period").set_value("Today").run()
    assert metrics(app)["Key requests"] == ("1,007", "today since 00:00 UTC")
    year = metrics(draw(used, period="12 months"))["Key requests"]
    assert year == ("1,212", "average 0.7 per complete UTC day")
    for query in ({"period": "12 months", "step": "Day"}, {"step": "Day"}, {"step": "Month"}):
        asked = metrics(draw(used, **query))["Key requests"]
        assert asked == (year if "period" in query else metrics(draw(used))["Key requests"])

    def between(first: int, last: int) -> AppTest:
        days = ((NOW - first * DAY).date(), (NOW - last * DAY).date())
        return custom.date_input(key="days").set_value(days).run()

    custom = draw_tables(used, period="Custom")
    app = between(6, 1)
    assert metrics(app)["Key requests"] == ("200", "average 33 per complete UTC day")
    assert any(one.value.startswith(r"19 Nov to 24 Nov 2026, UTC. As of 12\:00\:00 UTC.") for one in app.caption)
    app = between(3, 2)
    assert "No requests in this period. The first request was on 29 Jan 2026" in app.info[-1].value
    assert not app.metric
    app = between(6, 6)
    assert "No refused or failed requests in this period." in [one.value for one in app.markdown]
    open_tab(app, "usage-requests-tabs", "Table")
    assert app.dataframe[SERIES].value.columns[0] == "Hour (UTC)"


def test_bars_are_by_operation_or_service_and_by_day_or_month(used: PageContext) -> None:
    app = draw_tables(used)
    first = app.dataframe[SERIES].value
    assert (list(first.columns), len(first)) == (["Day (UTC)", "Encrypt", "KMIP Get"], 30)
    app.radio(key="bars").set_value("Service").run()
    app.radio(key="step").set_value("Month").run()
    second = app.dataframe[SERIES].value
    assert second.equals(draw_tables(used, bars="Service", step="Month").dataframe[SERIES].value)
    assert second.to_dict("records") == [
        {"Month (UTC)": "2026-10", "orders": 0, "users": 0},
        {"Month (UTC)": "2026-11", "orders": 1000, "users": 207},
    ]
    assert any("1,207 key requests over 2 bars" in caption.value for caption in app.caption)


def test_another_period_begins_with_its_own_interval(used: PageContext) -> None:
    app = draw(used, step="Month")
    app.radio(key="period").set_value("12 months").run()
    assert app.radio(key="step").value == "Month"
    app.radio(key="step").set_value("Day").run()
    app.radio(key="period").set_value("7 days").run()
    assert app.radio(key="step").value == "Day"
    app.radio(key="period").set_value("12 months").run()
    assert app.radio(key="step").value == "Month"
    assert draw(used, period="12 months", step="Day").radio(key="step").value == "Day"


def test_today_and_the_last_24_hours_are_in_hours_up_to_the_current_one(used: PageContext) -> None:
    app = draw_tables(used, period="Today", step="Month")
    assert app.radio(key="step").options == ["Hour"]
    bars = app.dataframe[SERIES].value
    assert list(bars["Hour (UTC)"])[::12] == ["2026-11-25 00:00", "2026-11-25 12:00"]
    assert (list(bars["Encrypt"])[-1], bars["Encrypt"].sum(), bars["KMIP Get"].sum()) == (1000, 1000, 7)
    app.radio(key="period").set_value("24 hours").run()
    assert list(app.dataframe[SERIES].value["Hour (UTC)"])[::23] == ["2026-11-24 13:00", "2026-11-25 12:00"]
    assert metrics(app)["Key requests"] == ("1,007", "in 24 hours, with the current one")
    app.radio(key="period").set_value("7 days").run()
    assert (app.radio(key="step").value, len(app.dataframe[SERIES].value)) == ("Day", 7)
    assert metrics(app)["Key requests"][0] == "1,207"


def test_figures_refresh_only_while_today_is_chosen(used: PageContext) -> None:
    app = draw(used, period="Today")
    assert any("Refreshes every 10 seconds." in one.value for one in app.caption)
    assert not [one for one in app.button if one.key == "usage-refresh"]
    for choice in ("24 hours", "30 days"):
        app = draw(used, period=choice)
        assert not any("Refreshes" in one.value for one in app.caption)
        assert app.button(key="usage-refresh").label == "Refresh"


def test_a_latency_that_was_not_measured_is_a_gap_and_columns_are_numbers(used: PageContext) -> None:
    app = draw_tables(used, period="7 days")
    course = app.dataframe[LATENCY].value
    measured = course.dropna(subset=["p95 (ms, upper bound)"])
    assert measured.to_dict("split")["data"] == [["2026-11-19", 4.096, 1], ["2026-11-25", 0.045, 990]]
    assert len(course) == 7
    lines = app.dataframe[LINES].value
    assert {str(lines[name].dtype) for name in lines if "ms" in name} == {"float64"}
    assert list(lines["Average (ms)"].dropna()) == [0.04, 3.0]
    assert any(
        "Total: 1,207 key requests and 1 other requests, of which 8 refused or failed." in one.value
        for one in app.caption
    )


def test_a_selected_refusal_leads_to_its_records_once(used: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    app = draw_tables(used, period="Today")
    refusals = app.dataframe[REFUSALS].value
    assert refusals[["First (UTC)", "Last (UTC)"]].to_numpy().tolist()[0] == ["2026-11-25 12:00", "2026-11-25 12:00"]
    today = period("Today", (), NOW)
    found = view.refusals(read(used, today, Group.OPERATION, Interval.HOUR).sums, today)
    with monkeypatch.context() as clicked:
        state: dict[str, object] = {page._REFUSALS: {"selection": {"rows": [0]}}}
        clicked.setattr(page.st, "session_state", state)
        page._select_refusal(found)
    app.session_state[page._SELECTED] = state[page._SELECTED]
    app.run()
    path, _, query = app.session_state["went"].partition("?")
    assert (path, dict(parse_qsl(query))) == (
        "audit",
        {
            "service": "users",
            "operation": "get",
            "outcome": "refused",
            "from": "2026-11-25T12:00Z",
            "to": "2026-11-25T12:02Z",
        },
    )
    app.run()
    assert len(app.dataframe) == LINES + 1


def test_a_role_without_the_audit_stream_sees_refusals_without_a_link(used: PageContext) -> None:
    keeper = replace(used, person=replace(used.person, roles=frozenset({PersonRole.KEY_ADMINISTRATOR})))
    app = draw_tables(keeper)
    assert len(app.dataframe[REFUSALS].value) == 2
    assert not any("page Audit" in one.value for one in app.caption)


def test_the_export_has_exactly_the_period_and_is_recorded(used: PageContext, field: Field) -> None:
    week = whole_days((NOW - 6 * DAY).date(), NOW.date())
    rows = list(csv.DictReader(io.StringIO(page._export(used, week).decode())))
    assert [(row["day_utc"], row["service"], row["operation"], row["result"], row["requests"]) for row in rows] == [
        ("2026-11-19", "users", "get", "answered", "200"),
        ("2026-11-25", "", "connect", "client_not_authorized", "1"),
        ("2026-11-25", "orders", "encrypt", "answered", "1000"),
        ("2026-11-25", "users", "get", "object_not_found", "7"),
    ]
    [record] = exported(field)
    assert (record["name"], record["actor"], record["outcome"]) == ("audit.exported", "ada", "success")
    assert record["subject"] == "usage 2026-11-19 to 2026-11-25"


def test_the_export_of_hours_has_their_times(used: PageContext, field: Field) -> None:
    text = page._export(used, period("24 hours", (), NOW)).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["hour_utc"], row["operation"], row["requests"]) for row in rows] == [
        ("2026-11-25T12:00Z", "connect", "1"),
        ("2026-11-25T12:00Z", "encrypt", "1000"),
        ("2026-11-25T12:00Z", "get", "7"),
    ]
    [record] = exported(field)
    assert record["subject"] == "usage 2026-11-24T13:00Z to 2026-11-25T13:00Z"


def test_the_export_of_an_open_page_ends_with_its_figures(used: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    exports: list[Callable[[], bytes]] = []
    monkeypatch.setattr(page.st, "download_button", lambda *_, data, **__: exports.append(data))
    today = page._Chosen("Today", (), Group.SERVICE, Interval.HOUR)
    for time in (NOW - 3 * HOUR, NOW):  # the fragment alone: the page around it is not drawn again
        page._draw_figures(replace(used, now=lambda time=time: time), today)
    earlier, later = (export().decode() for export in exports)
    assert "2026-11-25T12:00Z" not in earlier
    assert "2026-11-25T12:00Z" in later


def test_a_role_without_the_permission_sees_nothing_and_gets_no_file(
    context_of: Callable[..., PageContext], field: Field
) -> None:
    context = context_of(PersonRole.OPERATOR)
    app = draw(context)
    assert "does not include this page" in app.error[0].value
    assert not app.metric
    assert not app.dataframe
    with pytest.raises(AccessDenied):
        page._export(context, whole_days(NOW.date(), NOW.date()))
    assert [record["name"] for record in exported(field)] == ["dashboard.action_refused"]
