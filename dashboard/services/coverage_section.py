"""Encryption coverage on the page Services: verdict, gaps and overhead."""

from datetime import UTC

import streamlit as st

from compliance.coverage.assessment import Coverage
from compliance.coverage.reader import read_coverage
from dashboard.page_context import PageContext
from dashboard.services import coverage_view as view
from dashboard.services.coverage_view import Days, Line


def draw_part(context: PageContext) -> None:
    """Draw the coverage of an existing tenant."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        found = read_coverage(tx, context.now().astimezone(UTC))
    st.header("Encryption coverage", anchor="coverage")
    headline = view.headline(found)
    box, icon = (
        (st.success, ":material/verified_user:")
        if headline.protected
        else (st.warning, ":material/gpp_maybe:")
        if headline.begun
        else (st.info, ":material/shield:")
    )
    box(headline.words, title=headline.title, icon=icon)
    st.caption(view.RESTS_ON)
    if headline.begun:
        _draw_missing(found)
        with st.grid(3, gap="medium", min_column_width=180):
            for one in view.figures(found):
                st.metric(
                    one.label,
                    one.value,
                    delta=one.note,
                    delta_color="off",
                    delta_arrow="off",
                    border=True,
                    height="stretch",
                )
        _draw_services(found)
        if days := view.by_day(found):
            _draw_days(days)
    if words := view.retired(found):
        st.caption(words)


def _draw_missing(found: Coverage) -> None:
    shown, more = view.missing(found)
    if shown:
        st.markdown("\n".join(f"- {words}" for words in shown))
    if more:
        with st.expander(f"{len(more):,} more", key="coverage.more"):
            st.markdown("\n".join(f"- {words}" for words in more))


def _draw_services(found: Coverage) -> None:
    st.subheader("Coverage by service", anchor=False)
    lines, more = view.lines(found)
    for line in lines:
        _draw_service(line)
    if more:
        st.caption(f"{more:,} more; `openkcmctl service coverage` lists all.")


def _draw_service(line: Line) -> None:
    icon = ":material/verified_user:" if line.protected else ":material/gpp_maybe:"
    with st.expander(line.title, icon=icon, key=f"coverage.service.{line.service}"):
        st.markdown("\n".join(f"- {words}" for words in line.words))
        if line.fields:
            st.dataframe(
                [dict(row) for row in line.fields],
                hide_index=True,
                key=f"coverage.fields.{line.service}",
                alt=f"Fields of {line.service}: mode, operations and last use",
            )


def _draw_days(days: Days) -> None:
    st.subheader("Operations per day", anchor=False)
    source = days.source()
    chart, table = st.tabs(["Chart", "Table"], key="coverage-days")
    with chart:
        st.echarts_chart(
            {
                "aria": {"enabled": True, "decal": {"show": True}},
                "tooltip": {"trigger": "axis", "valueFormatter": "localized"},
                "legend": {"type": "scroll", "top": 0},
                "grid": {"left": 8, "right": 8, "top": 40, "bottom": 8, "containLabel": True},
                "dataset": {"source": source},
                "xAxis": {"type": "category"},
                "yAxis": {"type": "value", "minInterval": 1},
                "series": [{"type": "bar", "stack": "all", "name": one} for one in days.services],
            },
            height=240,
            key="coverage-chart",
            alt=days.summary(),
        )
        st.caption(
            f"{days.summary()} Includes values that programs report as encrypted or decrypted, and requests to the "
            "crypto service. Days are UTC days."
        )
    with table:
        st.dataframe(
            [dict(zip(source[0], row, strict=True)) for row in source[1:]],
            hide_index=True,
            key="coverage-series",
            alt="Operations of each service on each day",
        )
