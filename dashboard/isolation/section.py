"""The sections Tenant isolation and Readiness of the page Compliance."""

import streamlit as st

from dashboard.components.formatting import moment
from dashboard.components.fragments import ICONS
from dashboard.isolation import view as isolation
from dashboard.overview.progress import progress, ready
from dashboard.page_context import PageContext


def draw_isolation(context: PageContext) -> None:
    """Draw the clauses of the standard with the newest checks, their age and their evidence."""
    now = context.now()
    with context.database.tenant_tx(context.tenant_id) as tx:
        checked = isolation.check(tx.boundaries.latest_run())
        complete, daily = tx.boundaries.examination(), tx.boundaries.daily()
    st.header("Tenant isolation", anchor="isolation")
    if checked is None:
        st.caption(
            "No isolation check has run yet. Before a tenant becomes active, attacks from another tenant are "
            "attempted, and each result appears here."
        )
        return
    verdict = isolation.verdict(checked, now)
    st.markdown(f"{ICONS[verdict.tone]} **{verdict.words}**  \n{verdict.detail}")
    complete_at = None if complete is None else complete.examined_at
    daily_at = None if daily is None else daily.line.examined_at
    for words in isolation.ages(checked, complete_at, daily_at, now):
        st.caption(words)
    if pending := isolation.pending(checked):
        st.markdown("  \n".join(f":material/schedule: {words}" for words in pending))
    with st.expander("Isolation by clause", key="isolation.clauses", icon=":material/fact_check:"):
        rows = isolation.clauses(checked, now)
        st.markdown("  \n".join(f"{ICONS[row.tone]} **{row.clause}** {row.means}: {row.how}" for row in rows))
    with st.expander("Checks and evidence", key="isolation.evidence", icon=":material/plagiarism:"):
        st.caption(
            "Each check has a positive control: the same call on the caller's own resources, which must succeed."
        )
        st.markdown("\n".join(f"- {line}" for line in isolation.evidence(checked)))


def draw_readiness(context: PageContext) -> None:
    """Draw the time from the marketplace event to ready, with the steps; nothing before the tenant is ready."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, steps = tx.tenants.get(), tx.steps.latest()
    if tenant is None or not (words := ready(tenant, context.provisioning_slo_seconds)):
        return
    st.header("Readiness", anchor="readiness")
    st.markdown(f":material/timer: {words}")
    st.caption(f"Ready since {moment(tenant.ready_at, context.now())}.")
    if steps:
        with st.expander("Provisioning steps", key="readiness.steps", icon=":material/checklist:"):
            made = progress(tenant, steps, context.provisioning_slo_seconds, context.now())
            st.markdown("  \n".join(f":material/{line.icon}: {line.title} · {line.note}" for line in made.lines))
