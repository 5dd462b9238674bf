"""The dialog that decides a pending request. The session stores which one is open, and the result."""

import streamlit as st

from core.tenants.approvals import Approval, ApprovalState, VoteChoice, is_over
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.approvals.dry_run import Effect, read_facts
from dashboard.approvals.reason import REASON, draw_field
from dashboard.approvals.view import CHOICES, Waiting
from dashboard.components.fragments import ICONS, draw_refusal, guarded_fragment
from dashboard.components.tenant_status import Severity
from dashboard.page_context import PageContext
from openkcm.errors import OpenKcmError

_OPEN, _DONE = "approvals.open", "approvals.done"
_MANY = 8
"""Lines of an effect above which they scroll."""


def open_dialog(approval_id: str, title: str, choice: VoteChoice) -> None:
    """Open the dialog for one request and one choice, with the next rerun."""
    st.session_state[_OPEN] = (approval_id, title, choice)
    st.session_state.pop(_DONE, None)


def draw_open(context: PageContext) -> None:
    """Draw the dialog, if it is open."""
    dialog: tuple[str, str, VoteChoice] | None = st.session_state.get(_OPEN)
    if dialog is not None:
        approval_id, title, choice = dialog
        st.dialog(f"{CHOICES[choice][0]}: {title}", dismissible=False)(guarded_fragment(_draw_dialog))(
            context, approval_id, choice
        )


def _forget() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)


def _close() -> None:
    _forget()
    st.rerun()


def _draw_dialog(context: PageContext, approval_id: str, choice: VoteChoice) -> None:
    slot = st.empty()
    after: Approval | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = _draw_question(context, approval_id, choice)
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    tone, title, words = approvals.outcome(after, context.person, context.now())
    draw = {Severity.GOOD: st.success, Severity.WARNING: st.warning, Severity.WORKING: st.info}[tone]
    draw(words, title=title, icon=ICONS[tone])
    if st.button("Close", key="approvals.close"):
        _close()


def _draw_question(context: PageContext, approval_id: str, choice: VoteChoice) -> Approval | None:
    """Draw the request as it is now and return it when it is decided, also by another person meanwhile."""
    approval, one = _read(context, approval_id)
    if one is None:
        return approval
    button, icon, follows = CHOICES[choice]
    draw_request(one, what_happens=choice is VoteChoice.APPROVE)
    st.markdown(follows)
    reason = ""
    if choice is not VoteChoice.WITHDRAW:
        needed = choice is VoteChoice.DECLINE
        reason = draw_field(
            f"approvals.reason.{choice}",
            "The requester sees it. It is recorded.",
            REASON if needed else f"{REASON} (optional)",
        )
    with st.container(horizontal=True):
        confirmed = st.button(button, type="primary", icon=f":material/{icon}:", key="approvals.do")
        if st.button("Cancel", key="approvals.cancel"):
            _close()
    if not confirmed:
        return None
    try:
        with st.spinner("Submitting decision"):
            return approval_actions.decide(context, approval_id, choice, reason)
    except OpenKcmError as failed:
        draw_refusal(failed, "Decision failed", "The page Approvals shows the current state.")
        return None


def _read(context: PageContext, approval_id: str) -> tuple[Approval | None, Waiting | None]:
    """Return a request, and what is shown of it while it is pending."""
    now = context.now()
    with context.database.tenant_tx(context.tenant_id) as tx:
        approval, policy = tx.approvals.get(approval_id), tx.policy.get()
        actions = [] if approval is None else [approval.action]
        facts = read_facts(tx, context.tenant_id, actions, context.offboard_grace_days)
    if approval is None or approval.state is not ApprovalState.PENDING:
        return approval, None
    if is_over(approval, now):
        return approvals.as_expired(approval), None
    return approval, next(iter(approvals.waiting([approval], context.person, policy, facts, now)), None)


def draw_request(one: Waiting, *, what_happens: bool = True) -> None:
    """Draw a request: what exactly, why, who, until when, what it stops and destroys."""
    if one.exactly:
        st.markdown("\n".join(f"- {line}" for line in one.exactly))
    st.markdown(f"**Reason:** {one.reason}")
    st.markdown(f"{one.asked} Expires {one.until}.")
    for effect in one.effects:
        _draw_effect(effect)
    if what_happens:
        st.markdown(f"**What happens**  \n{one.happens}")


def _draw_effect(effect: Effect) -> None:
    st.markdown(f"**{effect.title}**")
    with st.container(height=240 if len(effect.lines) > _MANY else "content", border=False):
        st.markdown("\n".join(f"- {line}" for line in effect.lines))
