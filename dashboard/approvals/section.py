"""Pending approvals on the page Settings, and the dialog that decides them."""

import streamlit as st

from core.tenants.approvals import Approval, VoteChoice
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.approvals.view import CHOICES, DONE, Waiting
from dashboard.components.fragments import ICONS, draw_refusal, guarded_fragment, polling_fragment
from dashboard.components.tenant_status import Severity
from dashboard.page_context import PageContext
from openkcm.errors import OpenKcmError

_OPEN, _DONE = "approvals.open", "approvals.done"
_HEADING = "Pending approvals"


@polling_fragment
def draw_part(context: PageContext) -> None:
    """Draw pending and recent requests; refreshes automatically."""
    now = context.now()
    with context.database.tenant_tx(context.tenant_id) as tx:
        policy, pending, latest = tx.policy.get(), tx.approvals.pending(), tx.approvals.latest()
    shown = approvals.waiting(pending, context.person, policy, now)
    if not shown and not policy.four_eyes:
        return
    st.header(_HEADING, anchor="waiting")
    if not shown:
        st.caption("No pending requests. Actions that require approval appear here when they are requested.")
    for one in shown:
        _draw_waiting(context, one)
    ended = approvals.ended(latest, now)
    if ended:
        with st.expander("Recent decisions", key="approvals.ended"):
            st.markdown("\n".join(f"- {line}" for line in ended))


def _draw_waiting(context: PageContext, one: Waiting) -> None:
    with st.container(border=True, gap="small", key=f"approvals.{one.approval_id}"):
        st.markdown(f":material/group: **{one.title}**")
        if one.exactly:
            st.markdown("\n".join(f"- {line}" for line in one.exactly))
        st.markdown(f"{one.asked} Expires {one.until}.")
        st.markdown(f"**What happens**  \n{one.happens}")
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
        button,
        icon=f":material/{icon}:",
        key=f"approvals.{choice}.{one.approval_id}",
        disabled=disabled,
        help=one.why_not if disabled else None,
    ):
        st.session_state[_OPEN] = (choice, one)
        st.session_state.pop(_DONE, None)
        st.rerun()


def draw_open(context: PageContext) -> None:
    """Draw the dialog, if it is open."""
    dialog: tuple[VoteChoice, Waiting] | None = st.session_state.get(_OPEN)
    if dialog is not None:
        choice, one = dialog
        st.dialog(f"{CHOICES[choice][0]}: {one.title}", dismissible=False)(guarded_fragment(_draw_dialog))(
            context, choice, one
        )


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _draw_dialog(context: PageContext, choice: VoteChoice, one: Waiting) -> None:
    slot = st.empty()
    after: Approval | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = _draw_question(context, choice, one)
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    _draw_answer(after)
    if st.button("Close", key="approvals.close"):
        _close()


def _draw_question(context: PageContext, choice: VoteChoice, one: Waiting) -> Approval | None:
    button, icon, follows = CHOICES[choice]
    st.markdown(one.asked)
    if one.exactly:
        st.markdown("\n".join(f"- {line}" for line in one.exactly))
    if choice is VoteChoice.APPROVE:
        st.markdown(f"**What happens**  \n{one.happens}")
    st.markdown(follows)
    with st.container(horizontal=True):
        confirmed = st.button(button, type="primary", icon=f":material/{icon}:", key="approvals.do")
        if st.button("Cancel", key="approvals.cancel"):
            _close()
    if not confirmed:
        return None
    try:
        with st.spinner("Submitting decision"):
            return approval_actions.decide(context, one.approval_id, choice)
    except OpenKcmError as failed:
        draw_refusal(failed, "Decision failed", "The page Settings shows the current state.")
        return None


def _draw_answer(after: Approval) -> None:
    tone, title, words = DONE.get(after.state, (Severity.WORKING, "Approved", "The action is in progress."))
    draw = {Severity.GOOD: st.success, Severity.WARNING: st.warning, Severity.WORKING: st.info}[tone]
    draw(words, title=title, icon=ICONS[tone])
