"""Emergency controls at the top of each page, and their dialogs. The session stores which dialog is open."""

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
from dashboard.approvals.reason import draw_request
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
class _Control:
    """Labels and function of a control: dialog button, icon, progress, result, and button at the top of pages."""

    button: str
    icon: str
    doing: str
    done: str
    act: Callable[[PageContext], TenantRow]
    opens: str


_CONTROLS: Mapping[StatusChange, _Control] = MappingProxyType(
    {
        StatusChange.SUSPEND: _Control(
            "Suspend", "pause_circle", "Suspending", "suspended", standing_actions.suspend, "Suspend…"
        ),
        StatusChange.RESUME: _Control(
            "Resume", "play_circle", "Resuming", "resumed", standing_actions.resume, "Resume…"
        ),
        StatusChange.LOCK: _Control("Lock", "lock", "Locking", "locked", standing_actions.lock, "Lock all keys…"),
        StatusChange.UNLOCK: _Control(
            "Unlock", "lock_open", "Unlocking", "unlocked", standing_actions.unlock, "Unlock…"
        ),
    }
)


def draw_controls(context: PageContext, tenant: TenantRow) -> None:
    """Draw the buttons for the changes that the state permits, beside the title of each page, for key managers."""
    if not context.may(Permission.MANAGE_KEYS):
        return
    for move in stopping.moves(tenant):
        control = _CONTROLS[move]
        st.button(
            control.opens,
            icon=f":material/{control.icon}:",
            key=f"standing.{move}",
            help=stopping.explained(tenant),
            on_click=_open,
            args=(move,),
        )


def draw_open(context: PageContext, tenant: TenantRow) -> None:
    """Draw the dialog, if one is open."""
    move = st.session_state.get(_OPEN)
    if move is not None:
        st.dialog(_title(move), dismissible=False)(guarded_fragment(_draw_dialog))(context, tenant, StatusChange(move))


def _open(move: StatusChange) -> None:
    st.session_state[_OPEN] = move
    st.session_state.pop(_DONE, None)


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _title(move: StatusChange) -> str:
    return next(action.title for action in ACTIONS if action.move is not None and action.move.value == move.value)


def _draw_dialog(context: PageContext, tenant: TenantRow, move: StatusChange) -> None:
    slot = st.empty()
    after: TenantRow | Approval | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = _draw_question(context, tenant, move)
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    if isinstance(after, Approval):
        st.info(approvals.asked(after, context.now()), title="Approval requested", icon=":material/group:")
    else:
        _draw_answer(move, after)
    if st.button("Close", key="standing.close"):
        _close()


def _draw_question(context: PageContext, tenant: TenantRow, move: StatusChange) -> TenantRow | Approval | None:
    control = _CONTROLS[move]
    two = move is StatusChange.LOCK and approval_actions.policy_of(context).wants_two_for(Action.LOCK)
    button = "Request approval" if two else control.button
    action = next(action for action in ACTIONS if action.move is not None and action.move.value == move.value)
    if move is StatusChange.LOCK:
        _draw_stops(context)
    st.markdown(f"**What happens**  \n{action.happens}")
    st.markdown(f"**Can it be undone?**  \n{action.undone}")
    if move is StatusChange.UNLOCK and LockReason.ROOT_KEY in tenant.locks:
        st.warning(
            "The root key does not work. Unlocking removes the administrator's lock; the tenant unlocks "
            f"automatically when the root key works again. {root_key.NO_FALLBACK}",
            title="Tenant stays locked",
            icon=":material/warning:",
        )
    reason = draw_request(context, "standing.reason") if two else ""
    typed = context.tenant_id
    if move is StatusChange.LOCK:
        typed = st.text_input(f"Type {context.tenant_id} to confirm", key="standing.confirm").strip()
    with st.container(horizontal=True):
        asked = st.button(button, type="primary", icon=f":material/{control.icon}:", key=f"standing.{move}.do")
        if st.button("Cancel", key="standing.cancel"):
            _close()
    if not asked:
        return None
    if typed != context.tenant_id:
        st.warning(f"Nothing was done. Enter {context.tenant_id} to confirm, then select {button} again.")
        return None
    try:
        with st.spinner(control.doing):
            return standing_actions.ask_to_lock(context, reason) if two else control.act(context)
    except OpenKcmError as failed:
        draw_refusal(failed, f"Tenant not {control.done}", "Check the tenant's state before you retry.")
        return None


def _draw_stops(context: PageContext) -> None:
    """List the services that stop, from stored data: the dry run of a lock."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        lines = stopping.stops(tx.services.all(), context.now())
    if lines:
        st.markdown("**Stops immediately**")
        st.markdown("\n".join(f"- {line}" for line in lines))
    else:
        st.markdown("**Stops immediately**  \nNo service is connected.")


def _draw_answer(move: StatusChange, after: TenantRow) -> None:
    control = _CONTROLS[move]
    if move is StatusChange.UNLOCK and (why := stopping.why_locked_still(after)):
        st.warning(why, title="Administrator's lock removed; tenant still locked", icon=":material/warning:")
        return
    status = standing(after.state, after.locks)
    words = status.meaning if after.state is State.ACTIVE else f"{status.meaning} {status.advice}"
    st.success(words, title=f"Tenant {control.done}", icon=":material/check:")
