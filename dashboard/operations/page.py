"""The operations page: fleet health, counters, tenants that need attention, all tenants; or one tenant.

It reads states, counts and steps. It does not read a customer's keys, services, usage or records, and operators have no
page for them. One action: the retry.
"""

import streamlit as st

from core.tenants.roles import Permission
from dashboard.operations import fleet_section, retry_dialog, table_section, tenant_section, view
from dashboard.page_context import PageContext
from database.platform.operators import Operations

_STUCK = 5
_TIMES = 300
_TROUBLED = 5
_UNDELIVERED = 5


def draw(context: PageContext) -> None:
    """Draw all tenants, or one selected tenant."""
    if context.platform is None or not context.may(Permission.OPERATE):
        st.title("Operations")
        st.error("This page is for the platform's operators.", icon=":material/block:")
        return
    retry_dialog.draw_result()
    chosen = st.query_params.get(table_section.CHOSEN)
    if chosen is None:
        _draw_overview(context, context.platform)
    else:
        tenant_section.draw(context, context.platform, chosen)
    retry_dialog.draw(context)


def _draw_overview(context: PageContext, platform: Operations) -> None:
    st.title("Operations")
    fleet_section.draw_health(context, platform)
    totals = fleet_section.read_totals(platform)
    if not totals.tenants:
        st.info(
            "No tenants. Each tenant appears when the marketplace event is stored.",
            icon=":material/inbox:",
        )
    else:
        fleet_section.draw_counters(context, platform)
        _draw_stuck(context, platform)
        _draw_isolation_alerts(context, platform)
        _draw_undelivered(context, platform)
        table_section.draw(context, platform, totals.regions)
        _draw_times(platform)
    tenant_section.draw_canary(context)


def _draw_stuck(context: PageContext, platform: Operations) -> None:
    st.header("Needs attention")
    stuck = platform.stuck(_STUCK + 1)
    if not stuck:
        st.success("No failed tenants, and none over the target time.", icon=":material/check:")
        return
    with st.container(border=True, key="operations-stuck", gap="xsmall"):
        for tenant in stuck[:_STUCK]:
            _draw_stuck_tenant(view.stuck_line(tenant, context.now()))
    if len(stuck) > _STUCK:
        st.caption(f"The {_STUCK} longest waiting tenants. “Provisioning failed or delayed” above lists all.")


def _draw_isolation_alerts(context: PageContext, platform: Operations) -> None:
    troubled = platform.troubled(_TROUBLED + 1)
    if not troubled:
        return
    st.header("Isolation alerts")
    for draw, is_breach in ((st.error, True), (st.warning, False)):
        lines = [
            view.isolation_line(one, context.now())
            for one in troubled[:_TROUBLED]
            if (one.why == "breached") is is_breach
        ]
        if lines:
            draw("  \n".join(lines), icon=":material/gpp_bad:")
    if len(troubled) > _TROUBLED:
        st.caption(f"The first {_TROUBLED} alerts; `openkcmctl isolation check --all` checks every tenant now.")


def _draw_undelivered(context: PageContext, platform: Operations) -> None:
    undelivered = platform.undelivered(_UNDELIVERED + 1)
    if not undelivered:
        return
    st.header("Undelivered notifications")
    for one in undelivered[:_UNDELIVERED]:
        draw = st.warning if one.expired_at is None else st.error
        draw(view.undelivered_line(one, context.now()), icon=":material/outgoing_mail:")
    if len(undelivered) > _UNDELIVERED:
        st.caption(f"The first {_UNDELIVERED} notifications; `openkcmctl notification list` lists all.")


def _draw_times(platform: Operations) -> None:
    st.header("Provisioning time")
    found = platform.times(_TIMES)
    if not found:
        st.info("No tenant has been ready yet.", icon=":material/timer:")
        return
    times = view.times(found, platform.provisioning_slo_seconds)
    st.caption(f"From the stored event to ready, {times.summary}.")
    # As text: the browser needs longer for the code of cards than for the line.
    st.markdown(", ".join(f"{label} **{value}**" for label, value in times.percentiles))
    # Only when it is open: the browser needs as long for the code of charts as for the table of all tenants.
    chart = st.expander("Each tenant", key="operations-times-open", on_change="rerun")
    if chart.open:
        chart.echarts_chart(
            view.times_chart(found, platform.provisioning_slo_seconds),
            height=260,
            key="operations-times",
            alt=f"Time to ready of {times.summary}",
        )


def _draw_stuck_tenant(line: view.Line) -> None:
    """Draw a tenant with a way to its page, which has the retry and the links to its workflows."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(line.text, width="stretch")
        if st.button(f"Open {line.tenant_id}", key=f"operations-open-stuck-{line.tenant_id}"):
            table_section.choose(line.tenant_id)
