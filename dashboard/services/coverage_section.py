"""How much of the tenant is encrypted, on the page Services: the verdict, what is missing, and what it costs."""

from datetime import UTC

import streamlit as st

from compliance.coverage.assessment import Coverage
from compliance.coverage.reader import read_coverage
from dashboard.page_context import PageContext
from dashboard.services import coverage_view as view
from dashboard.services.coverage_view import Days, Line


def draw_part(seat: PageContext) -> None:
    """Draw the part of a tenant that is on record."""
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        found = read_coverage(tx, seat.now().astimezone(UTC))
    st.header("Service Integration Update", anchor="coverage")
    said = view.headline(found)
    box, icon = (
        (st.success, ":material/verified_user:")
        if said.protected
        else (st.warning, ":material/gpp_maybe:")
        if said.begun
        else (st.info, ":material/shield:")
    )
    box(said.words, title=said.title, icon=icon)
    st.caption(view.RESTS_ON)
    if said.begun:
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
    st.subheader("What is encrypted", anchor=False)
    lines, more = view.lines(found)
    for line in lines:
        _draw_service(line)
    if more:
        st.caption(f"{more:,} more; openkcmctl service coverage lists them all.")


def _draw_service(line: Line) -> None:
    icon = ":material/verified_user:" if line.protected else ":material/gpp_maybe:"
    with st.expander(line.title, icon=icon, key=f"coverage.service.{line.service}"):
        st.markdown("\n".join(f"- {words}" for words in line.words))
        if line.fields:
            st.dataframe(
                [dict(row) for row in line.fields],
                hide_index=True,
                key=f"coverage.fields.{line.service}",
                alt=f"Fields of {line.service}: how each is encrypted, how often, and when it was last seen",
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
            f"{days.summary()} Values that programs say they encrypted or decrypted, and what was asked of the crypto "
            "service. Days are UTC days."
        )
    with table:
        st.dataframe(
            [dict(zip(source[0], row, strict=True)) for row in source[1:]],
            hide_index=True,
            key="coverage-series",
            alt="Operations of each service on each day",
        )
