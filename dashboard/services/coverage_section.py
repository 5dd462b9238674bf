"""Encryption coverage on the page Services: verdict, gaps and overhead."""

from datetime import date

import streamlit as st

from compliance.coverage.assessment import Coverage, ServiceCoverage
from dashboard.services import coverage_view as view


def draw_part(found: Coverage) -> None:
    """Draw the coverage of a tenant; that of each service is in the table."""
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
    if words := view.retired(found):
        st.caption(words)


def _draw_missing(found: Coverage) -> None:
    shown, more = view.missing(found)
    if shown:
        st.markdown("\n".join(f"- {words}" for words in shown))
    if more:
        with st.expander(f"{len(more):,} more", key="coverage.more"):
            st.markdown("\n".join(f"- {words}" for words in more))


def draw_service(covered: ServiceCoverage, today: date) -> None:
    """Draw the coverage of the selected service: its gaps with the next step, and its fields."""
    line = view.line(covered, today)
    st.markdown(f"**Coverage:** {line.title}")
    if line.words:
        st.markdown("\n".join(f"- {words}" for words in line.words))
    if line.fields:
        st.dataframe(
            [dict(row) for row in line.fields],
            hide_index=True,
            key=f"coverage.fields.{line.service}",
            alt=f"Fields of {line.service}: mode, operations and last use",
        )


def draw_days(found: Coverage) -> None:
    """Draw the operations of the last days, by service."""
    days = view.by_day(found)
    if days is None:
        st.caption("No service has used its key yet.")
        return
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
