"""The page Usage: key requests by service, denied attempts and latency."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date
from functools import partial

import streamlit as st

from core.errors.tenants import AccessDenied
from core.services import KEY_REQUESTS
from core.tenants.roles import Permission
from dashboard.page_context import PageContext
from dashboard.status.section import draw_header
from dashboard.usage import periods, view
from dashboard.usage.periods import Choice, Period, file_name, to_csv
from dashboard.usage.view import DEFINITION
from database.usage import DayCount, UsagePart, UsageSum
from openkcm.contract.audit_events import AuditName

_LATENCY = (
    "Latency is the time inside the crypto service, from the parsed request to its audit record. Network, TLS and "
    "the flush of the record to disk are not included. A percentile is an upper bound: the exact value is at most "
    "29 % lower. Percentiles cover successful requests only."
)
_BY_OPERATION, _BY_SERVICE = "Operation", "Service"
_DAILY, _MONTHLY = "Day", "Month"


@dataclass(frozen=True, slots=True)
class _Shown:
    """Data of one transaction: totals of the period, its key requests by day and group, and those of this month."""

    totals: Sequence[UsageSum]
    counts: Sequence[DayCount]
    month: Sequence[DayCount]


def draw(context: PageContext) -> None:
    """Draw the page, or why there is no data."""
    if not context.may(Permission.VIEW):
        st.title("Usage")
        st.error("Your role does not include this page. Ask an administrator of your organization for access.")
        return
    today = context.now().astimezone(UTC).date()
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, services, first_day = tx.tenants.get(), len(tx.services.all()), tx.usage.first_day()
    if tenant is None:
        st.title("Usage")
    else:
        draw_header(context, tenant, "Usage")
    if first_day is None:
        _draw_nothing_yet(services)
        return
    with st.container(horizontal=True):
        choice = _choose("Period", [one.value for one in Choice], key="period", default=periods.DEFAULT.value)
        split = _choose("Group by", [_BY_OPERATION, _BY_SERVICE], key="bars")
        step = _choose("Interval", [_DAILY, _MONTHLY], key="step")
    period = _period(choice, today, first_day)
    shown = _read(context, period, today, split)
    if shown.totals:
        _draw_headlines(view.headlines(shown.totals, period, shown.month))
        _draw_chart(shown.counts, period, split, step)
        _draw_lines(shown.totals)
        _draw_refusals(shown.totals)
        _draw_download(context, period)
    else:
        st.info(
            f"No requests in this period. The first request was on {Period(first_day, first_day).words()}: select "
            "a period that includes it.",
            icon=":material/event_busy:",
        )
    with st.expander("Definitions", key="usage-definition"):
        st.write(DEFINITION)
        st.write(_LATENCY)
        st.write("Days and months are in UTC. Requests appear within about a second.")


def _draw_nothing_yet(services: int) -> None:
    if services:
        st.info(
            "No key requests yet. The first request appears here about a second after its response.",
            icon=":material/hourglass_empty:",
        )
    else:
        st.info(
            "No service is connected. Connect one on the Services page; its key requests, denied attempts and "
            "latency then appear here.",
            icon=":material/power_off:",
        )


def _period(choice: str, today: date, first_day: date) -> Period:
    """Return the selected period; ask for the days of a custom one."""
    picked: Sequence[date] = ()
    if choice == Choice.CUSTOM:
        picked = st.date_input(
            "First and last day (UTC)",
            value=(max(first_day, today.replace(day=1)), today),
            min_value=min(first_day, today),
            max_value=today,
            format="YYYY-MM-DD",
            key="days",
            bind="query-params",
            help="At most two years.",
        )
    period = periods.period(choice, picked, today)
    if choice == Choice.CUSTOM and len(picked) > 1 and (period.first, period.last) != tuple(picked):
        st.warning("The period is longer than two years. The default period is shown instead.")
    st.caption(f"{period.words()}. Days are UTC days.")
    return period


def _choose(label: str, options: Sequence[str], *, key: str, default: str | None = None) -> str:
    """Draw a radio group, bind it to the query string, and return the selection."""
    index = options.index(default) if default else 0
    return st.radio(label, options, index, horizontal=True, key=key, bind="query-params")


def _read(context: PageContext, period: Period, today: date, split: str) -> _Shown:
    part: UsagePart = "service" if split == _BY_SERVICE else "operation"
    month = periods.this_month(today)
    with context.database.tenant_tx(context.tenant_id) as tx:
        return _Shown(
            tx.usage.sums(period.first, period.last),
            tx.usage.by_day(period.first, period.last, part, KEY_REQUESTS),
            tx.usage.by_day(month.first, month.last, "operation", KEY_REQUESTS),
        )


def _draw_headlines(texts: view.Headlines) -> None:
    metrics = (
        ("Key requests", texts.requests, texts.per_day),
        ("Key requests this month", texts.this_month, "since the 1st, UTC"),
        ("Denied attempts", texts.denied, texts.denied_share),
        ("p95 latency (upper bound)", texts.p95, texts.p95_note),
    )
    with st.grid(4, gap="medium", min_column_width=180):
        for label, value, note in metrics:
            st.metric(label, value, delta=note, delta_color="off", delta_arrow="off", border=True, height="stretch")


def _draw_chart(counts: Sequence[DayCount], period: Period, split: str, step: str) -> None:
    st.header("Key requests over time")
    name = view.service_name if split == _BY_SERVICE else view.operation_name
    series = (view.by_month if step == _MONTHLY else view.by_day)(counts, period, name)
    source = series.source()
    chart, table = st.tabs(["Chart", "Table"], key="usage-over-time")
    with chart:
        if not series.names:
            st.info("No key requests in this period. Other requests are listed below.")
            return
        st.echarts_chart(
            {
                # Patterns as well as colours: series stay distinguishable in print and for colour-blind users.
                "aria": {"enabled": True, "decal": {"show": True}},
                "tooltip": {"trigger": "axis", "valueFormatter": "localized"},
                "legend": {"type": "scroll", "top": 0},
                "grid": {"left": 8, "right": 8, "top": 40, "bottom": 8, "containLabel": True},
                "dataset": {"source": source},
                "xAxis": {"type": "category"},
                "yAxis": {"type": "value", "minInterval": 1},
                "series": [{"type": "bar", "stack": "all", "name": one} for one in series.names],
            },
            height=340,
            key="usage-chart",
            alt=series.summary(),
        )
        st.caption(series.summary())
    with table:
        st.dataframe(
            [dict(zip(source[0], row, strict=True)) for row in source[1:]],
            hide_index=True,
            key="usage-series",
            alt=f"Key requests by {split.lower()} for each {step.lower()}",
        )


def _draw_lines(totals: Sequence[UsageSum]) -> None:
    st.header("By service and operation")
    st.dataframe(
        [
            {
                "Service": line.service,
                "Operation": line.operation,
                "Requests": line.requests,
                "Refused or failed": line.refused,
                "p95 (upper bound)": line.p95,
                "Average": line.average,
                "p50 (upper bound)": line.p50,
                "p99 (upper bound)": line.p99,
                "Counted as": line.kind,
            }
            for line in view.lines(totals)
        ],
        column_config={
            "Requests": st.column_config.NumberColumn(format="localized"),
            "Refused or failed": st.column_config.NumberColumn(format="localized"),
        },
        hide_index=True,
        key="usage-lines",
        alt="Requests, refusals and latency by service and operation",
    )


def _draw_refusals(totals: Sequence[UsageSum]) -> None:
    st.header("Denied attempts")
    found = view.refusals(totals)
    if not found:
        st.write("No denied or failed requests in this period.")
        return
    st.dataframe(
        [
            {
                "Service": one.service,
                "Reason": one.reason,
                "Operation": one.operation,
                "Attempts": one.count,
                "Counted as": "Denied" if one.denied else "Failed",
            }
            for one in found
        ],
        column_config={"Attempts": st.column_config.NumberColumn(format="localized")},
        hide_index=True,
        key="usage-refusals",
        alt="Refused or failed requests, by service, reason and operation",
    )
    meanings = dict.fromkeys((one.reason, one.meaning) for one in found)
    st.markdown("\n".join(f"- **{reason}.** {meaning}" for reason, meaning in meanings))
    st.caption("Each attempt is recorded in the audit stream; attempts over the rate limit share one record.")


def _draw_download(context: PageContext, period: Period) -> None:
    st.header("Export")
    st.download_button(
        "Download as CSV",
        data=partial(_export, context, period),
        file_name=file_name(context.tenant_id, period),
        mime="text/csv; charset=utf-8",
        icon=":material/download:",
        on_click="ignore",
        key="usage-download",
    )
    st.caption(
        f"Every day of {period.words()} by service, operation and result. The download is recorded in the audit stream."
    )


def _export(context: PageContext, period: Period) -> bytes:
    """Return the file, when the user clicks the button. Recorded before it is returned."""
    subject = f"usage {period.first.isoformat()} to {period.last.isoformat()}"
    allowed = context.may(Permission.VIEW)
    with context.database.tenant_tx(context.tenant_id) as tx:
        if allowed:
            days = tx.usage.days(period.first, period.last)
            tx.audit.append(context.event(AuditName.EXPORTED, subject, "success", rows=str(len(days)), format="csv"))
        else:
            tx.audit.append(context.event(AuditName.ACTION_REFUSED, subject, "refused"))
    if not allowed:
        raise AccessDenied
    return to_csv(days)
