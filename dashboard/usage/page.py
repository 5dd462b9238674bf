"""The page Usage: key requests by service, refused requests by cause, and latency."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

import streamlit as st

from core.errors.tenants import AccessDenied
from core.tenants.roles import Permission
from dashboard.components.fragments import draw_metric, draw_tabs, part, polling_fragment
from dashboard.components.local_time import shown_time
from dashboard.page_context import PageContext
from dashboard.status.section import draw_header
from dashboard.usage import periods, view
from dashboard.usage.periods import Choice, Interval, Period, file_name, to_csv
from dashboard.usage.readings import Group, Readings, read
from dashboard.usage.view import BEYOND, DEFINITION, LatencyCourse, Refusal, Series
from openkcm.contract.audit_events import AuditName

_LATENCY = (
    "Latency is the time inside the crypto service, from the parsed request to its audit record. Network, TLS and "
    "the flush of the record to disk are not included. A percentile is an upper bound: the exact value is at most "
    "29 % lower. Percentiles cover successful requests only."
)
_REFRESH_SECONDS = 10
_STEP, _STEP_OF = "step", "usage-step-of"
_REFUSALS, _SELECTED = "usage-refusals", "usage-refusals-selected"
_NUMBER = st.column_config.NumberColumn(format="localized")
_MILLISECONDS = st.column_config.NumberColumn(format="%.3f")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the address and the choices say; the period follows from the time of each draw."""

    choice: str
    picked: Sequence[date]
    group: Group
    step: Interval

    @property
    def is_live(self) -> bool:
        return self.choice == Choice.TODAY


def draw(context: PageContext) -> None:
    """Draw the page, or why there is no data."""
    if not context.may(Permission.VIEW):
        st.title("Usage")
        st.error("Your role does not include this page. Ask an administrator of your organization for access.")
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, services, first_day = tx.tenants.get(), len(tx.services.all()), tx.usage.first_day()
    if tenant is None:
        st.title("Usage")
    else:
        draw_header(context, tenant, "Usage")
    if first_day is None:
        _draw_nothing_yet(services)
    else:
        _draw_usage(context)
    with st.expander("Definitions", key="usage-definition"):
        st.write(DEFINITION)
        st.write(_LATENCY)
        st.write("Hours, days and months are in UTC. Requests appear within about a second.")


def _draw_nothing_yet(services: int) -> None:
    if services:
        st.info(
            "No key requests yet. The first request appears here about a second after its response.",
            icon=":material/hourglass_empty:",
        )
    else:
        st.info(
            "No service is connected. Connect one on the Services page; its key requests, refused requests and "
            "latency then appear here.",
            icon=":material/power_off:",
        )


@part
def _draw_usage(context: PageContext) -> None:
    """Draw the choices and the figures: a fragment, so that a choice does not redraw the page."""
    with st.container(horizontal=True):
        choice = _choose("Period", [one.value for one in Choice], key="period", default=periods.DEFAULT)
        group = _choose("Group by", [one.value for one in Group], key="bars", default=Group.OPERATION)
        intervals = st.container()
    picked = _draw_days(context) if choice == Choice.CUSTOM else ()
    period = periods.period(choice, picked, context.now())
    if choice == Choice.CUSTOM and len(picked) > 1 and (period.first, period.last) != tuple(picked):
        st.warning("The period is longer than two years. The default period is shown instead.")
    with intervals:
        step = _choose_interval(choice, period)
    chosen = _Chosen(choice, picked, Group(group), step)
    (_draw_live if chosen.is_live else _draw_once)(context, chosen)


def _draw_days(context: PageContext) -> Sequence[date]:
    """Ask for the days of a custom period."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        first_day = tx.usage.first_day()
    days = periods.this_month(context.now())
    return st.date_input(
        "First and last day (UTC)",
        value=(max(first_day or days.first, days.first), days.last),
        min_value=min(first_day or days.first, days.last),
        max_value=days.last,
        format="YYYY-MM-DD",
        key="days",
        bind="query-params",
        help="At most two years.",
    )


def _choose(label: str, options: Sequence[str], *, key: str, default: str) -> str:
    """Draw a choice, bind it to the query string, and return the selection."""
    # Not a segmented control: the text of its selection has too little contrast on a dark page.
    chosen = st.radio(label, options, options.index(default), horizontal=True, key=key, bind="query-params")
    return chosen if chosen in options else default


def _choose_interval(choice: str, period: Period) -> Interval:
    """Draw the intervals of the period; another choice of the period begins with its own default."""
    options = [one.value for one in period.intervals]
    if st.session_state.get(_STEP_OF) not in {None, choice} or st.session_state.get(_STEP) not in {None, *options}:
        st.session_state[_STEP] = options[0]
    st.session_state[_STEP_OF] = choice
    return Interval(_choose("Interval", options, key=_STEP, default=options[0]))


def _draw_figures(context: PageContext, chosen: _Chosen) -> None:
    """Draw the figures and the export of the period as it is now."""
    query = st.session_state.pop(_SELECTED, None)
    if query is not None and context.may(Permission.VIEW_AUDIT):
        context.navigation.go("audit", **query)
    now = context.now()
    period = periods.period(chosen.choice, chosen.picked, now)
    readings = read(context, period, chosen.group, chosen.step)
    with st.container(horizontal=True, vertical_alignment="center"):
        kept = f"Refreshes every {_REFRESH_SECONDS} seconds." if chosen.is_live else ""
        st.caption(f"{period.words()}, UTC. As of {shown_time(now, now)}. {kept}".strip())
        if not chosen.is_live:
            st.button("Refresh", key="usage-refresh", icon=":material/refresh:", type="tertiary")
    if readings.totals:
        _draw_headlines(view.headlines(readings.totals, readings.counts, readings.headline_facts))
        _draw_requests(readings, chosen.step)
        _draw_refusals(context, readings, chosen.step)
        _draw_latency(view.latency_course(readings.latencies, period, chosen.step))
        _draw_lines(readings)
    else:
        first = periods.whole_days(readings.first_day, readings.first_day).words()
        st.info(
            f"No requests in this period. The first request was on {first}: select a period that includes it.",
            icon=":material/event_busy:",
        )
    _draw_download(context, period)


_draw_once = part(_draw_figures)
_draw_live = polling_fragment(_draw_figures, seconds=_REFRESH_SECONDS)


def _draw_headlines(texts: view.Headlines) -> None:
    metrics = (
        ("Key requests", texts.requests, texts.per_day),
        ("Key requests this month", texts.this_month, texts.this_month_note),
        ("Refused or failed", texts.refused, texts.refused_note),
        ("p95 latency (upper bound)", texts.p95, texts.p95_note),
    )
    with st.grid(4, min_column_width=180):
        for label, value, note in metrics:
            draw_metric(label, value, note)


def _draw_requests(readings: Readings, step: Interval) -> None:
    st.header("Key requests over time")
    name = view.service_name if readings.group is Group.SERVICE else view.operation_name
    shown = view.course(readings.counts, readings.period, step, name, "key requests")
    _draw_course(shown, "usage-requests", f"Key requests by {readings.group.lower()} for each {step.lower()}")


def _draw_course(shown: Series, key: str, alt: str) -> None:
    """Draw bars and a table of the same counts."""
    if not shown.names:
        st.info(shown.summary())
        return
    source = shown.source()

    def draw_chart() -> None:
        st.echarts_chart(
            {
                **_axes(source),
                # Patterns as well as colours: series stay distinguishable in print and for colour-blind users.
                "aria": {"enabled": True, "decal": {"show": True}},
                "legend": {"type": "scroll", "top": 0},
                "yAxis": {"type": "value", "minInterval": 1},
                "series": [{"type": "bar", "stack": "all", "name": one} for one in shown.names],
            },
            height=300,
            key=f"{key}-chart",
            alt=shown.summary(),
        )

    draw_tabs({"Chart": draw_chart, "Table": partial(_draw_rows, source, f"{key}-table", alt)}, key=f"{key}-tabs")
    st.caption(shown.summary())


def _draw_latency(shown: LatencyCourse) -> None:
    st.header("p95 latency over time")
    header = [f"{shown.interval} (UTC)", "p95 (ms, upper bound)", "Measured requests"]
    rows: list[list[Any]] = [header, *map(list, shown.rows)]

    def draw_chart() -> None:
        st.echarts_chart(
            {
                **_axes([row[:2] for row in rows]),
                "legend": {"show": False},
                "yAxis": {"type": "value", "name": "ms", "min": 0},
                # A symbol for each value: between two gaps there is no line. Unknown is a gap, never zero.
                "series": [{"type": "line", "name": header[1], "showSymbol": True, "connectNulls": False}],
            },
            height=240,
            key="usage-latency-chart",
            alt=shown.summary(),
        )

    alt = f"p95 latency of key requests for each {shown.interval.lower()}"
    draw_table = partial(_draw_rows, rows, "usage-latency-table", alt)
    draw_tabs({"Chart": draw_chart, "Table": draw_table}, key="usage-latency-tabs")
    beyond = f" {BEYOND}" if shown.is_beyond else ""
    st.caption(f"Successful key requests; each value is the upper bound of its range. {shown.summary()}{beyond}")


def _axes(source: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {
        "animation": False,
        "tooltip": {"trigger": "axis", "valueFormatter": "localized"},
        "grid": {"left": 8, "right": 8, "top": 40, "bottom": 8, "containLabel": True},
        "dataset": {"source": source},
        "xAxis": {"type": "category"},
    }


def _draw_rows(source: Sequence[Sequence[Any]], key: str, alt: str) -> None:
    header, *rows = source
    numbers = {name: _MILLISECONDS if "ms" in name else _NUMBER for name in header[1:]}
    st.dataframe(
        [dict(zip(header, row, strict=True)) for row in rows],
        column_config=numbers,
        hide_index=True,
        placeholder="-",
        key=key,
        alt=alt,
    )


def _draw_lines(readings: Readings) -> None:
    st.header("By service and operation")
    lines = view.lines(readings.totals)
    st.dataframe(
        [
            {
                "Service": line.service,
                "Operation": line.operation,
                "Requests": line.requests,
                "Refused or failed": line.refused,
                "p95 (ms, upper bound)": line.p95,
                "Average (ms)": line.average,
                "p50 (ms, upper bound)": line.p50,
                "p99 (ms, upper bound)": line.p99,
                "Counted as": line.kind,
            }
            for line in lines
        ],
        column_config={
            "Requests": _NUMBER,
            "Refused or failed": _NUMBER,
            **dict.fromkeys((f"{name} (ms, upper bound)" for name in ("p50", "p95", "p99")), _MILLISECONDS),
            "Average (ms)": _MILLISECONDS,
        },
        hide_index=True,
        placeholder="-",
        key="usage-lines",
        alt="Requests, refusals and latency by service and operation",
    )
    beyond = f" {BEYOND}" if any(line.is_beyond for line in lines) else ""
    st.caption(f"{view.total(lines)} Latencies are of successful requests; “-” means not measured.{beyond}")


def _draw_refusals(context: PageContext, readings: Readings, step: Interval) -> None:
    st.header("Refused or failed requests")
    found = view.refusals(readings.sums, readings.period)
    if not found:
        st.write("No refused or failed requests in this period.")
        return
    causes = view.course(readings.causes, readings.period, step, view.cause_name, "refused or failed requests")
    _draw_course(causes, "usage-causes", f"Refused or failed requests by cause for each {step.lower()}")
    selects = context.may(Permission.VIEW_AUDIT)
    st.subheader("By service, operation and cause", anchor=False)
    st.dataframe(
        [
            {
                "Service": one.service,
                "Operation": one.operation,
                "Cause": one.reason,
                "Requests": one.count,
                "First (UTC)": one.first,
                "Last (UTC)": one.last,
                "Counted as": "Denied" if one.denied else "Failed",
            }
            for one in found
        ],
        column_config={"Requests": _NUMBER},
        hide_index=True,
        key=_REFUSALS,
        on_select=partial(_select_refusal, found) if selects else "ignore",
        selection_mode="single-row",
        alt="Refused or failed requests, by service, operation and cause",
    )
    if selects:
        st.caption(
            "Select a row to see its records on the page Audit. Each refused request is recorded there; requests over "
            "the rate limit share one record."
        )
    meanings = dict.fromkeys((one.reason, one.meaning) for one in found)
    st.markdown("\n".join(f"- **{name}.** {meaning}" for name, meaning in meanings))


def _select_refusal(found: Sequence[Refusal]) -> None:
    """Keep the query of the selected row, as the user saw it: the table can have other rows at the next refresh."""
    rows = st.session_state[_REFUSALS]["selection"]["rows"]
    if rows and rows[0] < len(found):
        st.session_state[_SELECTED] = found[rows[0]].query


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
    each = "hour" if period.is_hourly else "day"
    st.caption(
        f"Every {each} of {period.words()} by service, operation and result. The download is recorded in the audit "
        "stream."
    )


def _export(context: PageContext, period: Period) -> bytes:
    """Return the file, when the user clicks the button. Recorded before it is returned."""
    subject = periods.recorded(period)
    allowed = context.may(Permission.VIEW)
    with context.database.tenant_tx(context.tenant_id) as tx:
        if allowed:
            usage = tx.usage
            rows = (
                usage.hours(period.begins, period.ends) if period.is_hourly else usage.days(period.first, period.last)
            )
            tx.audit.append(context.event(AuditName.EXPORTED, subject, "success", rows=str(len(rows)), format="csv"))
        else:
            tx.audit.append(context.event(AuditName.ACTION_REFUSED, subject, "refused"))
    if not allowed:
        raise AccessDenied
    return to_csv(rows, is_hourly=period.is_hourly)
