"""The operations page: tenants by status, stuck tenants, provisioning times; one action, the retry.

It reads states and steps. It does not read a customer's keys, services, usage or records, and operators have no page
for them.
"""

from collections.abc import MutableSequence, Sequence

import streamlit as st

from core.names import CANARY_TENANT_ID
from core.tenants.lifecycle import State
from core.tenants.roles import Permission
from dashboard.components.formatting import said
from dashboard.components.fragments import part
from dashboard.operations import view
from dashboard.operations.actions import retry
from dashboard.page_context import PageContext
from database.platform.operators import Operations, TenantFilter
from database.tenants import TenantRow
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import IllegalTenantId, OpenKcmError

_PAGE = 25
_STUCK = 5
_TIMES = 300
_TROUBLED = 10
_UNDELIVERED = 10
_CHOSEN = "id"
"""The value of the address that names the opened tenant, so that Back, a reload and a shared link show it."""
# Session state of this page.
_CONFIRMING = "operations-confirming"
_RESULT = "operations-result"
_TRAIL = "operations-trail"


def draw(context: PageContext) -> None:
    """Draw all tenants, or one selected tenant."""
    if context.platform is None or not context.may(Permission.OPERATE):
        st.title("Operations")
        st.error("This page is for the platform's operators.", icon=":material/block:")
        return
    _draw_retry_result()
    chosen = st.query_params.get(_CHOSEN)
    if chosen is None:
        _draw_overview(context, context.platform)
    else:
        _draw_tenant(context, context.platform, chosen)
    confirming = st.session_state.get(_CONFIRMING)
    if confirming is not None:
        _confirm(context, confirming)


def _draw_overview(context: PageContext, platform: Operations) -> None:
    st.title("Operations")
    st.caption("All tenants by status. Customer data is not shown here.")
    totals = view.totals(platform.counts())
    if not totals.tenants:
        st.info(
            "No tenants. Each tenant appears when the marketplace event is stored.",
            icon=":material/inbox:",
        )
    else:
        _draw_totals(totals)
        _draw_stuck(context, platform)
        _draw_isolation_alerts(context, platform)
        _draw_undelivered(context, platform)
        _draw_times(platform)
        _draw_list(context, platform, totals)
    _draw_canary(context)


def _draw_totals(totals: view.Totals) -> None:
    with st.grid(min_column_width=140, key="operations-totals"):
        st.metric("Tenants", f"{totals.tenants:,}", border=True)
        for state, tenants in totals.by_state:
            st.metric(state.value.capitalize(), f"{tenants:,}", border=True)
        st.metric(
            "Delayed or failed",
            f"{totals.late:,}",
            border=True,
            help="Failed, not ready within the target time, or ready later.",
        )


def _draw_stuck(context: PageContext, platform: Operations) -> None:
    st.header("Needs attention")
    stuck = platform.stuck(_STUCK + 1)
    if not stuck:
        st.success("No failed tenants, and none over the target time.", icon=":material/check:")
        return
    for tenant in stuck[:_STUCK]:
        _draw_line(context, view.stuck_line(tenant, context.now()), "stuck")
    if len(stuck) > _STUCK:
        st.caption(f"The {_STUCK} longest waiting tenants. Select “Delayed or failed only” below for all.")


def _draw_isolation_alerts(context: PageContext, platform: Operations) -> None:
    troubled = platform.troubled(_TROUBLED + 1)
    if not troubled:
        return
    st.header("Isolation alerts")
    for one in troubled[:_TROUBLED]:
        draw = st.error if one.why == "breached" else st.warning
        draw(view.isolation_line(one, context.now()), icon=":material/gpp_bad:")
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
    with st.grid(min_column_width=140, key="operations-percentiles"):
        for label, value in times.percentiles:
            st.metric(label, value, border=True)
        st.metric(f"Over {times.promise}", f"{times.over:,}", border=True)
    st.echarts_chart(
        view.times_chart(found, platform.provisioning_slo_seconds),
        height=260,
        key="operations-times",
        alt=f"Time to ready of {times.summary}",
    )


@part
def _draw_list(context: PageContext, platform: Operations, totals: view.Totals) -> None:
    st.header("All tenants")
    wanted = _draw_filter(totals)
    trail: MutableSequence[str] = st.session_state.setdefault(_TRAIL, [""])
    rows = platform.page(wanted, trail[-1], _PAGE + 1)
    if not rows:
        st.info("No matching tenants. Change or clear the filter.", icon=":material/search_off:")
    for row in rows[:_PAGE]:
        _draw_line(context, view.line(row, platform.provisioning_slo_seconds, context.now()), "all")
    first = (len(trail) - 1) * _PAGE + 1
    with st.container(horizontal=True, vertical_alignment="center", key="operations-pages"):
        st.button(
            "Previous",
            icon=":material/chevron_left:",
            disabled=len(trail) == 1,
            key="operations-previous",
            on_click=_back,
        )
        st.button(
            "Next",
            icon=":material/chevron_right:",
            disabled=len(rows) <= _PAGE,
            key="operations-next",
            on_click=_further,
            args=[rows[:_PAGE]],
        )
        if rows:
            st.caption(f"{first:,} to {first + min(len(rows), _PAGE) - 1:,}, by id")


def _draw_filter(totals: view.Totals) -> TenantFilter:
    with st.container(horizontal=True, vertical_alignment="bottom", key="operations-filter"):
        search = st.text_input(
            "Find",
            placeholder="id or organization",
            max_chars=200,
            key="operations-search",
            on_change=_from_the_start,
        )
        state = st.selectbox(
            "State",
            [None, *(state for state, _ in totals.by_state)],
            format_func=lambda state: "any state" if state is None else state.value,
            key="operations-state",
            on_change=_from_the_start,
            width=180,
        )
        region = st.selectbox(
            "Region",
            [None, *totals.regions],
            format_func=lambda region: "any region" if region is None else region,
            key="operations-region",
            on_change=_from_the_start,
            width=180,
        )
        late = st.toggle("Delayed or failed only", key="operations-late", on_change=_from_the_start)
    return TenantFilter(state=state, region=region, late=late, search=search.strip() or None)


def _from_the_start() -> None:
    st.session_state[_TRAIL] = [""]


def _back() -> None:
    st.session_state[_TRAIL].pop()


def _further(shown: Sequence[TenantRow]) -> None:
    st.session_state[_TRAIL].append(shown[-1].tenant_id)


def _draw_line(context: PageContext, line: view.Line, where: str) -> None:
    """Draw one tenant with as few elements as possible: a page has many of them."""
    with st.container(border=True, key=f"operations-{where}-{line.tenant_id}", gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(line.text, width="stretch")
            if st.button("Open", key=f"operations-open-{where}-{line.tenant_id}"):
                _choose(line.tenant_id)
        if where == "stuck":
            _draw_acts(context, line.tenant_id, where, can_retry=line.can_retry)


def _draw_acts(context: PageContext, tenant_id: str, where: str, *, can_retry: bool) -> None:
    with st.container(horizontal=True):
        if can_retry and st.button("Retry…", icon=":material/replay:", key=f"operations-retry-{where}-{tenant_id}"):
            st.session_state[_CONFIRMING] = tenant_id
        if context.addresses.temporal_ui is not None:
            st.link_button(
                "Open in Temporal UI",
                view.workflow_link(context.addresses.temporal_ui, tenant_id),
                icon=":material/open_in_new:",
                key=f"operations-temporal-{where}-{tenant_id}",
            )


def _draw_tenant(context: PageContext, platform: Operations, tenant_id: str) -> None:
    try:
        with context.database.tenant_tx(parse_tenant_id(tenant_id)) as tx:
            tenant, steps = tx.tenants.get(), tx.steps.latest()
    except IllegalTenantId:
        tenant, steps = None, ()
    if st.button("All tenants", icon=":material/arrow_back:", key="operations-back"):
        _choose(None)
    if tenant is None:
        st.title("Tenant not found")
        st.error("No tenant has this id. Check the address, or select a tenant.", icon=":material/search_off:")
        return
    st.title(tenant_id)
    line = view.line(tenant, platform.provisioning_slo_seconds, context.now())
    st.badge(line.badge.label, icon=line.badge.icon, color=line.badge.color)
    st.text(line.organization)
    st.caption(line.facts)
    if line.trouble:
        st.warning(line.trouble, icon=":material/warning:")
    st.header("Steps of the latest operation")
    if not steps:
        st.info("No step has started: the workflow has not started, or no worker polls its task queue.")
    for step in map(view.step_line, steps):
        st.markdown(f"{step.icon} {step.text}")
        if step.trouble:
            st.caption(step.trouble)
    _draw_acts(context, tenant_id, "one", can_retry=line.can_retry)


def _draw_canary(context: PageContext) -> None:
    st.header("Canary")
    with context.database.tenant_tx(CANARY_TENANT_ID) as tx:
        tenant = tx.tenants.get()
    badge, meaning = view.canary(tenant)
    with st.container(border=True, key="operations-canary", gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{CANARY_TENANT_ID}**", width="content")
            if badge is not None:
                st.badge(badge.label, icon=badge.icon, color=badge.color)
        st.caption(meaning)
        if tenant is not None:
            _draw_acts(context, CANARY_TENANT_ID, "canary", can_retry=tenant.state is State.FAILED)


def _choose(tenant_id: str | None) -> None:
    if tenant_id is None:
        st.query_params.pop(_CHOSEN, None)
    else:
        st.query_params[_CHOSEN] = tenant_id
    st.rerun()


def _forget() -> None:
    st.session_state.pop(_CONFIRMING, None)


@st.dialog("Retry provisioning?", icon=":material/replay:", on_dismiss=_forget)
def _confirm(context: PageContext, tenant_id: str) -> None:
    st.markdown(
        f"**{tenant_id}** is provisioned again from its first step. Existing resources are kept, verified and "
        "used: no key is created twice and none is destroyed. The tenant is activated only after its isolation "
        "checks have passed."
    )
    st.caption(
        "The retry cannot be cancelled. If the cause persists, it fails again without further effect. Your "
        "request is recorded in the tenant's audit stream, which its customer can read."
    )
    with st.container(horizontal=True):
        if st.button("Retry", type="primary", key="operations-retry-confirmed"):
            st.session_state[_RESULT] = _retry(context, tenant_id)
            _forget()
            st.rerun()
        if st.button("Cancel", key="operations-retry-left"):
            _forget()
            st.rerun()


def _retry(context: PageContext, tenant_id: str) -> tuple[bool, str]:
    """Return whether the request was accepted, and the text for the user."""
    try:
        retry(context, tenant_id)
    except OpenKcmError as refused:
        return False, f"{tenant_id} was not retried; nothing was changed. {said(refused)}"
    return True, f"Provisioning of {tenant_id} started again. Its steps show the progress."


def _draw_retry_result() -> None:
    result = st.session_state.pop(_RESULT, None)
    if result is not None:
        accepted, words = result
        (st.success if accepted else st.error)(words, icon=":material/check:" if accepted else ":material/error:")
