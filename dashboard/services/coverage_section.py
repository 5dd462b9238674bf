"""Encryption coverage on the page Services: verdict, gaps and overhead."""

from datetime import date

import streamlit as st

from compliance.coverage.assessment import Coverage, ServiceCoverage
from dashboard.components.fragments import draw_metric, draw_tabs
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
                draw_metric(one.label, one.value, one.note)
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

    def draw_chart() -> None:
        st.echarts_chart(
            {
                "animation": False,
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

    def draw_table() -> None:
        st.dataframe(
            [dict(zip(source[0], row, strict=True)) for row in source[1:]],
            hide_index=True,
            key="coverage-series",
            alt="Operations of each service on each day",
        )

    draw_tabs({"Chart": draw_chart, "Table": draw_table}, key="coverage-days")
    st.caption(
        f"{days.summary()} Includes values that programs report as encrypted or decrypted, and requests to the "
        "crypto service. Days are UTC days."
    )
