"""The part of the page Keys that stops and starts a tenant, and its dialogs. Which one is open lies in the session."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import streamlit as st

from core.messages.tenants import StatusChange
from core.tenants.approvals import Action, Approval
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.components.fragments import draw_refusal, guarded_fragment
from dashboard.components.key_actions import ACTIONS
from dashboard.components.tenant_status import standing
from dashboard.page_context import PageContext
from dashboard.root_keys import view as root_key
from dashboard.tenants import actions as standing_actions
from dashboard.tenants import view as stopping
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_OPEN, _DONE = "standing.open", "standing.done"


@dataclass(frozen=True, slots=True)
class _Face:
    """How a move looks: its button, its icon, what it is called while and when it is done, and who does it."""

    button: str
    icon: str
    doing: str
    done: str
    act: Callable[[PageContext], TenantRow]


_FACES: Mapping[StatusChange, _Face] = MappingProxyType(
    {
        StatusChange.SUSPEND: _Face("Suspend", "pause_circle", "Suspending", "suspended", standing_actions.suspend),
        StatusChange.RESUME: _Face("Resume", "play_circle", "Resuming", "resumed", standing_actions.resume),
        StatusChange.LOCK: _Face("Lock (kill switch)", "lock", "Locking", "locked", standing_actions.lock),
        StatusChange.UNLOCK: _Face("Unlock", "lock_open", "Unlocking", "unlocked", standing_actions.unlock),
    }
)


def draw_part(seat: PageContext, tenant: TenantRow) -> None:
    """Draw what can be stopped or started now, and the buttons for whoever may."""
    st.header("Stop and start", anchor="stop-and-start")
    st.markdown(stopping.explained(tenant))
    offered = stopping.moves(tenant)
    if not offered:
        return
    if not seat.may(Permission.MANAGE_KEYS):
        st.caption("Your role lets you look at this. A key administrator of your organization does it.")
        return
    with st.container(horizontal=True):
        for move in offered:
            face = _FACES[move]
            st.button(
                face.button,
                icon=f":material/{face.icon}:",
                key=f"standing.{move}",
                on_click=_open,
                args=(move,),
            )


def draw_open(seat: PageContext, tenant: TenantRow) -> None:
    """Draw the dialog that is open, if there is one."""
    move = st.session_state.get(_OPEN)
    if move is not None:
        st.dialog(_title(move), dismissible=False)(guarded_fragment(_draw_dialog))(seat, tenant, StatusChange(move))


def _open(move: StatusChange) -> None:
    st.session_state[_OPEN] = move
    st.session_state.pop(_DONE, None)


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _title(move: StatusChange) -> str:
    return next(action.title for action in ACTIONS if action.move is not None and action.move.value == move.value)


def _draw_dialog(seat: PageContext, tenant: TenantRow, move: StatusChange) -> None:
    slot = st.empty()
    after: TenantRow | Approval | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = _draw_question(seat, tenant, move)
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    if isinstance(after, Approval):
        st.info(approvals.asked(after, seat.now()), title="Somebody else has to approve", icon=":material/group:")
    else:
        _draw_answer(move, after)
    if st.button("Close", key="standing.close"):
        _close()


def _draw_question(seat: PageContext, tenant: TenantRow, move: StatusChange) -> TenantRow | Approval | None:
    face = _FACES[move]
    two = move is StatusChange.LOCK and approval_actions.policy_of(seat).wants_two_for(Action.LOCK)
    button = "Ask for approval" if two else face.button
    action = next(action for action in ACTIONS if action.move is not None and action.move.value == move.value)
    if move is StatusChange.LOCK:
        _draw_stops(seat)
    st.markdown(f"**What happens**  \n{action.happens}")
    st.markdown(f"**Can it be undone?**  \n{action.undone}")
    if move is StatusChange.UNLOCK and LockReason.ROOT_KEY in tenant.locks:
        st.warning(
            "Its root key does not work where you hold it. Unlocking releases the kill switch; the tenant stays locked "
            f"until the root key works again, and then unlocks by itself. {root_key.NO_FALLBACK}",
            title="It will stay locked for now",
            icon=":material/warning:",
        )
    if two:
        st.info(approvals.needs_two(seat.approval_hours), title="This takes two people", icon=":material/group:")
    typed = seat.tenant_id
    if move is StatusChange.LOCK:
        typed = st.text_input(f"Type {seat.tenant_id} to confirm", key="standing.confirm").strip()
    with st.container(horizontal=True):
        asked = st.button(button, type="primary", icon=f":material/{face.icon}:", key=f"standing.{move}.do")
        if st.button("Cancel", key="standing.cancel"):
            _close()
    if not asked:
        return None
    if typed != seat.tenant_id:
        st.warning(f"Nothing was done. Type {seat.tenant_id} into the field, then press {button} again.")
        return None
    try:
        with st.spinner(face.doing):
            return standing_actions.ask_to_lock(seat) if two else face.act(seat)
    except OpenKcmError as failed:
        draw_refusal(failed, f"Not {face.done} yet", "Look at the tenant's state before you try again.")
        return None


def _draw_stops(seat: PageContext) -> None:
    """List what stops, from what is on record: the dry run of the kill switch."""
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        lines = stopping.stops(tx.services.all(), seat.now())
    if lines:
        st.markdown("**What stops**")
        st.markdown("\n".join(f"- {line}" for line in lines))
    else:
        st.markdown("**What stops**  \nNo service is connected, so nothing stops.")


def _draw_answer(move: StatusChange, after: TenantRow) -> None:
    face = _FACES[move]
    if move is StatusChange.UNLOCK and (why := stopping.why_locked_still(after)):
        st.warning(why, title="Unlocked here, and locked still", icon=":material/warning:")
        return
    told = standing(after.state, after.locks)
    words = told.meaning if after.state is State.ACTIVE else f"{told.meaning} {told.advice}"
    st.success(words, title=f"The tenant is {face.done}", icon=":material/check:")
