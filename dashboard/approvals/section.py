"""The part "Waiting for a second person" of the page Settings, and the dialog in which somebody decides."""

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
_HEADING = "Waiting for a second person"


@polling_fragment
def draw_part(seat: PageContext) -> None:
    """Draw what waits, and what became of what waited; it follows what others do."""
    now = seat.now()
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        policy, pending, latest = tx.policy.get(), tx.approvals.pending(), tx.approvals.latest()
    shown = approvals.waiting(pending, seat.person, policy, now)
    if not shown and not policy.four_eyes:
        return
    st.header(_HEADING, anchor="waiting")
    if not shown:
        st.caption("Nothing waits. What takes two people appears here as soon as one of you asks for it.")
    for one in shown:
        _draw_waiting(seat, one)
    ended = approvals.ended(latest, now)
    if ended:
        with st.expander("What became of the last ones", key="approvals.ended"):
            st.markdown("\n".join(f"- {line}" for line in ended))


def _draw_waiting(seat: PageContext, one: Waiting) -> None:
    with st.container(border=True, gap="small", key=f"approvals.{one.approval_id}"):
        st.markdown(f":material/group: **{one.title}**")
        if one.exactly:
            st.markdown("\n".join(f"- {line}" for line in one.exactly))
        st.markdown(f"{one.asked} It can be approved until {one.until}.")
        st.markdown(f"**What happens then**  \n{one.happens}")
        if one.why_not:
            st.caption(one.why_not)
        with st.container(horizontal=True):
            for choice in (VoteChoice.APPROVE, VoteChoice.DECLINE):
                _draw_button(one, choice, disabled=bool(one.why_not))
            if one.own and seat.may(Permission.MANAGE_KEYS):
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


def draw_open(seat: PageContext) -> None:
    """Draw the dialog that is open, if there is one."""
    opened: tuple[VoteChoice, Waiting] | None = st.session_state.get(_OPEN)
    if opened is not None:
        choice, one = opened
        st.dialog(f"{CHOICES[choice][0]}: {one.title}", dismissible=False)(guarded_fragment(_draw_dialog))(
            seat, choice, one
        )


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _draw_dialog(seat: PageContext, choice: VoteChoice, one: Waiting) -> None:
    slot = st.empty()
    after: Approval | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = _draw_question(seat, choice, one)
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    _draw_answer(after)
    if st.button("Close", key="approvals.close"):
        _close()


def _draw_question(seat: PageContext, choice: VoteChoice, one: Waiting) -> Approval | None:
    button, icon, follows = CHOICES[choice]
    st.markdown(one.asked)
    if one.exactly:
        st.markdown("\n".join(f"- {line}" for line in one.exactly))
    if choice is VoteChoice.APPROVE:
        st.markdown(f"**What happens**  \n{one.happens}")
    st.markdown(follows)
    with st.container(horizontal=True):
        said = st.button(button, type="primary", icon=f":material/{icon}:", key="approvals.do")
        if st.button("Cancel", key="approvals.cancel"):
            _close()
    if not said:
        return None
    try:
        with st.spinner("Deciding"):
            return approval_actions.decide(seat, one.approval_id, choice)
    except OpenKcmError as failed:
        draw_refusal(failed, "Not done", "What became of it is said on the page Settings.")
        return None


def _draw_answer(after: Approval) -> None:
    tone, title, words = DONE.get(after.state, (Severity.WORKING, "Approved", "It is being carried out."))
    draw = {Severity.GOOD: st.success, Severity.WARNING: st.warning, Severity.WORKING: st.info}[tone]
    draw(words, title=title, icon=ICONS[tone])
