"""Fleet health and fleet counters at the top of the operations page; both measure again while the page is open."""

from datetime import timedelta

import streamlit as st

from core.audit import AuditFilter
from core.errors.platform import DatabaseUnavailable
from core.names import CANARY_TENANT_ID
from core.tenants.status import Status
from dashboard.components.address import keep_query
from dashboard.components.fragments import REFRESH_SECONDS
from dashboard.components.local_time import shown_time
from dashboard.components.selection import current_run
from dashboard.operations import fleet_view, table_section, view
from dashboard.page_context import PageContext
from dashboard.status.badges import COLORS
from database.platform.operators import Operations, TenantFilter
from database.platform.processes import process_reports
from openkcm.contract.audit_events import AuditName

_COUNT_SECONDS = 10.0
"""The interval of the counters, which read every tenant."""
_RECONCILIATIONS = timedelta(days=7)
_TOTALS = "operations-totals"
_ALERTS = {Status.STOPPED: st.error, Status.DEGRADED: st.warning, Status.UNKNOWN: st.warning}


def read_totals(platform: Operations) -> view.Totals:
    """Return the counts of all tenants, which are read once in a run of the page or of a part of it."""
    read: tuple[object, view.Totals] | None = st.session_state.get(_TOTALS)
    if read is None or read[0] is not current_run():
        read = current_run(), view.totals(platform.counts())
        st.session_state[_TOTALS] = read
    return read[1]


@st.fragment(run_every=REFRESH_SECONDS)
def draw_health(context: PageContext, platform: Operations) -> None:
    """Measure and draw the status of each component; without the database, all others are unknown."""
    keep_query()
    now = context.now()
    reports = None
    try:
        if context.left():
            st.rerun()
        facts = _read(context, platform)
        found, reports = fleet_view.components(facts), facts.reports
    except DatabaseUnavailable:
        found = fleet_view.unreadable()
    st.header("Fleet health")
    all_of_them = fleet_view.overall(found)
    badges = [_badge(all_of_them, all_of_them.capitalize())]
    badges += [_badge(one.status, f"{one.name}: {one.words}") for one in found]
    badges.append(f":gray-badge[as of {shown_time(now, now)}]")
    st.markdown(" ".join(badges))
    for one in found:
        if one.status in _ALERTS and one.detail:
            _ALERTS[one.status](one.detail, title=f"{one.name}: {one.words}", icon=COLORS[one.status][1])
    if reports:
        # Only when it is open: a hidden table takes the browser as long as the table of all tenants.
        processes = st.expander("Processes", key="operations-processes", icon=":material/memory:", on_change="rerun")
        if processes.open:
            processes.dataframe(
                fleet_view.process_rows(reports),
                hide_index=True,
                key="operations-process-table",
                alt="Each process with its last report, its key server, its faults and the root keys that it monitors",
            )


def _badge(status: Status, words: str) -> str:
    color, icon = COLORS[status]
    return f":{color}-badge[{icon} {words}]"


def _read(context: PageContext, platform: Operations) -> fleet_view.FleetFacts:
    now = context.now()
    reports, backlog = process_reports(context.database), platform.backlog()
    regions = read_totals(platform).regions
    wanted = AuditFilter(names=frozenset({AuditName.AUDIT_RECONCILED}), since=now - _RECONCILIATIONS)
    with context.database.tenant_tx(CANARY_TENANT_ID) as tx:
        reconciliations = tx.audit.hours(wanted)
    return fleet_view.FleetFacts(now, reports, backlog, regions, context.root_key_shards, reconciliations)


@st.fragment(run_every=_COUNT_SECONDS)
def draw_counters(context: PageContext, platform: Operations) -> None:
    """Draw the number of tenants by state and by problem; that of a problem is a button that filters the table."""
    keep_query()
    try:
        if context.left():
            st.rerun()
        totals, problems = read_totals(platform), platform.problems()
    except DatabaseUnavailable:
        st.caption("The counters are not available while the database does not respond.")
        return
    st.header("Tenants")
    st.caption(
        f"{totals.tenants:,} tenants by state and by problem. The number of a problem filters the table below. "
        "Customer data is not shown here."
    )
    st.markdown(" ".join(view.state_badges(totals)))
    counters = view.problem_counters(problems)
    with st.container(horizontal=True, gap="small"):
        for one in counters:
            if one.tenants and st.button(
                f"{one.label}: {one.tenants:,}", icon=one.icon, key=f"operations-count-{one.problem}"
            ):
                table_section.filter_by(TenantFilter(problem=one.problem))
                st.rerun()
    if none := [one.label for one in counters if not one.tenants]:
        st.caption(f"0 tenants: {'; '.join(none)}.")
