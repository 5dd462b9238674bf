"""The page Approvals: pending requests with what they stop, and the latest decisions with their reasons."""

import streamlit as st

from core.errors.platform import DatabaseUnavailable
from core.tenants.approvals import VoteChoice
from core.tenants.roles import Permission
from dashboard.approvals import dialog
from dashboard.approvals import view as approvals
from dashboard.approvals.dry_run import read_facts
from dashboard.approvals.view import CHOICES, Waiting
from dashboard.components.fragments import admitted, draw_unknown, polling_fragment
from dashboard.page_context import PageContext
from dashboard.status.section import draw_header

PATH = "approvals"


def draw(context: PageContext) -> None:
    if not admitted(context):
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant = tx.tenants.get()
    if tenant is None:
        draw_unknown()
        return
    draw_header(context, tenant, "Approvals")
    st.caption("Actions that one person requested and another person must approve.")
    _draw_requests(context)
    dialog.draw_open(context)


def number_waiting(context: PageContext) -> int:
    """Return how many requests wait for this user; 0 while the database is unavailable."""
    if not context.may(Permission.MANAGE_KEYS):
        return 0
    try:
        with context.database.tenant_tx(context.tenant_id) as tx:
            pending = tx.approvals.pending()
    except DatabaseUnavailable:
        return 0
    return len(approvals.for_person(pending, context.person, context.now()))


@polling_fragment
def _draw_requests(context: PageContext) -> None:
    """Draw pending and recent requests; refreshes automatically."""
    now = context.now()
    with context.database.tenant_tx(context.tenant_id) as tx:
        policy, pending, latest = tx.policy.get(), tx.approvals.pending(), tx.approvals.latest()
        facts = read_facts(tx, context.tenant_id, (one.action for one in pending), context.offboard_grace_days)
    shown = approvals.waiting(pending, context.person, policy, facts, now)
    st.header("Pending", anchor="pending")
    for one in shown:
        _draw_waiting(context, one)
    if not shown:
        st.caption("No pending requests. Actions that require approval appear here when they are requested.")
    if not policy.four_eyes:
        st.caption("No action requires approval: one person alone can execute each.")
        context.navigation.draw_link("settings", "Select actions that require approval", icon=":material/tune:")
    st.header("Recent decisions", anchor="decisions")
    ended = approvals.ended(latest, now)
    st.markdown("\n".join(f"- {line}" for line in ended) or "No decisions.")


def _draw_waiting(context: PageContext, one: Waiting) -> None:
    with st.container(border=True, gap="small", key=f"approvals.{one.approval_id}"):
        st.markdown(f":material/group: **{one.title}**")
        dialog.draw_request(one)
        if one.why_not:
            st.caption(one.why_not)
        with st.container(horizontal=True):
            for choice in (VoteChoice.APPROVE, VoteChoice.DECLINE):
                _draw_button(one, choice, disabled=bool(one.why_not))
            if one.own and context.may(Permission.MANAGE_KEYS):
                _draw_button(one, VoteChoice.WITHDRAW, disabled=False)


def _draw_button(one: Waiting, choice: VoteChoice, *, disabled: bool) -> None:
    button, icon, _ = CHOICES[choice]
    if st.button(
        f"{button} {one.name}",
        icon=f":material/{icon}:",
        key=f"approvals.{choice}.{one.approval_id}",
        disabled=disabled,
        help=one.why_not if disabled else None,
    ):
        dialog.open_dialog(one.approval_id, one.title, choice)
        st.rerun()
