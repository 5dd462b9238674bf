"""One tenant for operators: status, locks, operations with their steps, workflows in the Temporal UI, and the retry."""

from contextlib import suppress

import streamlit as st

from core.names import CANARY_TENANT_ID
from core.tenants.lifecycle import State
from core.tenants.status import verdict
from dashboard.components.fragments import REFRESH_SECONDS, polling_fragment
from dashboard.components.local_time import shown_time
from dashboard.operations import retry_dialog, table_section, view
from dashboard.page_context import PageContext
from database.platform.operators import Operations
from database.platform.status import read_facts
from database.tenants import TenantRow
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import IllegalTenantId

_OPERATIONS = 10


def draw(context: PageContext, platform: Operations, tenant_id: str) -> None:
    """Draw the tenant that the address names."""
    tenant = None
    with suppress(IllegalTenantId), context.database.tenant_tx(parse_tenant_id(tenant_id)) as tx:
        tenant, steps, operations = tx.tenants.get(), tx.steps.latest(), tx.steps.operations(_OPERATIONS)
    if st.button("All tenants", icon=":material/arrow_back:", key="operations-back"):
        table_section.choose(None)
    if tenant is None:
        st.title("Tenant not found")
        st.error("No tenant has this id. Check the address, or select a tenant.", icon=":material/search_off:")
        return
    now = context.now()
    st.title(tenant_id)
    line = view.line(tenant, platform.provisioning_slo_seconds, now)
    st.badge(line.badge.label, icon=line.badge.icon, color=line.badge.color)
    st.text(line.organization)
    st.caption(line.facts)
    _draw_status(context, tenant_id)
    for lock in view.lock_lines(tenant):
        st.warning(lock.text, title=lock.title, icon=":material/lock:")
    if line.trouble:
        st.warning(line.trouble, icon=":material/warning:")
    _draw_actions(context, tenant, is_canary=False)
    st.header("Steps of the latest operation")
    if not steps:
        st.info("No step has started: the workflow has not started, or no worker polls its task queue.")
    for step in map(view.step_line, steps):
        st.markdown(f"{step.icon} {step.text}")
        if step.trouble:
            st.caption(step.trouble)
    if operations:
        st.header("Latest operations")
        st.dataframe(
            [view.operation_row(one) for one in operations],
            column_config={"Planned, UTC": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm", timezone="UTC")},
            hide_index=True,
            key="operations-latest",
            placeholder="-",
            alt="The latest operations of the tenant with their state, steps and error",
        )


@polling_fragment
def _draw_status(context: PageContext, tenant_id: str) -> None:
    """Draw the measured status, without numbers of requests and names of services."""
    now = context.now()
    facts = read_facts(context.database, tenant_id, context.root_key_shards, now)
    if facts is not None:
        badges = view.status_badges(verdict(facts), shown_time(now, now))
        st.markdown(" ".join(one.markdown for one in badges), help=f"Measured every {REFRESH_SECONDS:.0f} seconds.")


def draw_canary(context: PageContext) -> None:
    """Draw the tenant against which the isolation of every new tenant is checked."""
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
            _draw_actions(context, tenant, is_canary=True)


def _draw_actions(context: PageContext, tenant: TenantRow, *, is_canary: bool) -> None:
    """Draw the retry of a failed tenant, and links to its workflows.

    On the page of all tenants the names contain that of the canary: a screen reader lists the actions of a page without
    their surroundings.
    """
    tenant_id = tenant.tenant_id
    with st.container(horizontal=True):
        retry = f"Retry {tenant_id}…" if is_canary else "Retry…"
        if tenant.state is State.FAILED and st.button(
            retry, icon=":material/replay:", key=f"operations-retry-{tenant_id}"
        ):
            retry_dialog.ask(tenant_id)
        if context.addresses.temporal_ui is None:
            return
        links = view.workflow_links(context.addresses.temporal_ui, tenant_id)
        for name, address in links[:1] if is_canary else links:
            st.link_button(
                f"{name}: {tenant_id}" if is_canary else name,
                address,
                icon=":material/open_in_new:",
                key=f"operations-temporal-{tenant_id}-{name}",
            )
