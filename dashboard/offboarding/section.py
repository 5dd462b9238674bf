"""Leaving OpenKCM on the page Settings, and restoring a tenant that is leaving from any page; their dialogs.

What is shown of a tenant that has left: that it has, what was destroyed, and the certificate of it.
"""

from enum import StrEnum

import streamlit as st

from core.tenants.approvals import Action, Approval
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.auth.routes import of_tenant
from dashboard.components.fragments import admitted, draw_refusal, draw_unknown, guarded_fragment
from dashboard.components.key_actions import KeyAction, action_of
from dashboard.components.tenant_status import standing
from dashboard.offboarding import actions as leaving_actions
from dashboard.offboarding import view as leaving
from dashboard.page_context import PageContext
from dashboard.tenants import view as stopping
from database.offboarding import OffboardingRow
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_OPEN, _DONE = "leaving.open", "leaving.done"


class _Way(StrEnum):
    LEAVE = "leave"
    RESTORE = "restore"


def draw_part(seat: PageContext, tenant: TenantRow) -> None:
    """Draw the part of the page Settings by which the tenant leaves."""
    if not leaving.may_leave(tenant):
        return
    st.header("Leave OpenKCM", anchor="leave")
    st.markdown(action_of(KeyAction.OFFBOARD).happens)
    if not seat.may(Permission.MANAGE_KEYS):
        st.caption("Your role lets you look at this. A key administrator of your organization does it.")
        return
    if st.button("Leave OpenKCM", icon=":material/logout:", key="leaving.leave"):
        _open(_Way.LEAVE)


def draw_leaving(seat: PageContext, tenant: TenantRow) -> None:
    """Draw the dialog of leaving, if it is open."""
    if st.session_state.get(_OPEN) is _Way.LEAVE:
        st.dialog("Leave OpenKCM", dismissible=False)(guarded_fragment(_draw_leave))(seat, tenant)


def draw_restore_button(seat: PageContext, left: OffboardingRow | None) -> None:
    """Draw the button that brings a tenant back, for whoever may, as long as there is a way back."""
    if not leaving.is_restorable(left) or not seat.may(Permission.MANAGE_KEYS):
        return
    if st.button("Restore the tenant", icon=":material/settings_backup_restore:", key="leaving.restore"):
        _open(_Way.RESTORE)


def draw_restoring(seat: PageContext) -> None:
    """Draw the dialog of restoring, if it is open."""
    if st.session_state.get(_OPEN) is _Way.RESTORE:
        st.dialog("Restore the tenant", dismissible=False)(guarded_fragment(_draw_restore))(seat)


def _open(way: _Way) -> None:
    st.session_state[_OPEN] = way
    st.session_state.pop(_DONE, None)
    st.rerun()


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _draw_leave(seat: PageContext, tenant: TenantRow) -> None:
    slot = st.empty()
    after: TenantRow | Approval | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = _draw_leave_question(seat, tenant)
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    if isinstance(after, Approval):
        st.info(approvals.asked(after, seat.now()), title="Somebody else has to approve", icon=":material/group:")
    else:
        with seat.database.tenant_tx(seat.tenant_id) as tx:
            told = leaving.notice(standing(after.state, after.locks), tx.leaving.get(), seat.now())
        st.success(f"{told.meaning} {told.advice}", title=told.title, icon=":material/check:")
    if st.button("Close", key="leaving.close"):
        _close()


def _draw_leave_question(seat: PageContext, tenant: TenantRow) -> TenantRow | Approval | None:
    two = approval_actions.policy_of(seat).wants_two_for(Action.OFFBOARD)
    button = "Ask for approval" if two else "Leave"
    _draw_dry_run(seat)
    action = action_of(KeyAction.OFFBOARD)
    st.markdown(f"**What happens**  \n{action.happens}")
    st.markdown(f"**Can it be undone?**  \n{action.undone}")
    if two:
        st.info(approvals.needs_two(seat.approval_hours), title="This takes two people", icon=":material/group:")
    typed = st.text_input(f"Type {tenant.tenant_id} to confirm", key="leaving.confirm").strip()
    with st.container(horizontal=True):
        asked = st.button(button, type="primary", icon=":material/logout:", key="leaving.leave.do")
        if st.button("Cancel", key="leaving.cancel"):
            _close()
    if not asked:
        return None
    if typed != tenant.tenant_id:
        st.warning(f"Nothing was done. Type {tenant.tenant_id} into the field, then press {button} again.")
        return None
    try:
        with st.spinner("Asking" if two else "Leaving"):
            return leaving_actions.ask_to_leave(seat) if two else leaving_actions.leave(seat)
    except OpenKcmError as failed:
        draw_refusal(failed, "Not leaving yet", "Look at the tenant's state before you try again.")
        return None


def _draw_dry_run(seat: PageContext) -> None:
    """List what stops now and what is destroyed when the grace is over, from what is on record."""
    now = seat.now()
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        stops = stopping.stops(tx.services.all(), now)
        doomed = leaving.doomed(tx.keys.all(), tx.services.keys())
    st.markdown("**What stops at once**")
    st.markdown("\n".join(f"- {line}" for line in stops) or "No service is connected, so nothing stops.")
    st.markdown(f"**What is destroyed after {leaving.until(seat.offboard_grace_days, now)}**")
    st.markdown("\n".join(f"- {line}" for line in doomed))
    st.caption("With the keys every record about your tenant goes, but for what proves it: see the certificate then.")


def _draw_restore(seat: PageContext) -> None:
    slot = st.empty()
    after: TenantRow | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = _draw_restore_question(seat)
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    told = standing(after.state, after.locks)
    st.success(f"{told.meaning} {told.advice}", title="The tenant is restored", icon=":material/check:")
    if st.button("Close", key="leaving.close"):
        _close()


def _draw_restore_question(seat: PageContext) -> TenantRow | None:
    action = action_of(KeyAction.RESTORE)
    st.markdown(f"**What happens**  \n{action.happens}")
    st.markdown(f"**Can it be undone?**  \n{action.undone}")
    with st.container(horizontal=True):
        asked = st.button("Restore", type="primary", key="leaving.restore.do")
        if st.button("Cancel", key="leaving.cancel"):
            _close()
    if not asked:
        return None
    try:
        with st.spinner("Restoring"):
            return leaving_actions.restore(seat)
    except OpenKcmError as failed:
        draw_refusal(failed, "Not restored", "The notice above the page says how far the leaving is.")
        return None


CERTIFICATE = "destruction-certificate.json"
"""The certificate's part of the address."""


def draw(seat: PageContext) -> None:
    if not admitted(seat):
        return
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        left, kept, doomed = tx.leaving.get(), tx.leaving.certificate(), tx.leaving.doomed()
    if left is None:
        draw_unknown()
        return
    st.title("Your tenant has left", anchor=False)
    st.caption(f"Tenant `{seat.tenant_id}`. Its id is never used again.")
    st.markdown("\n\n".join(leaving.farewell(left, kept, seat.now())))
    if kept is not None:
        st.header("The certificate", anchor="certificate")
        st.markdown(
            f"It says what was destroyed and when ({leaving.destroyed(doomed)}), by fingerprints, and what is left "
            "where until when. It verifies without us: `openkcm audit verify FILE`, with the platform's public key."
        )
        st.link_button(
            "Download the certificate",
            f"{of_tenant(seat.tenant_id).root}/{CERTIFICATE}",
            key="left.certificate",
            icon=":material/download:",
        )
    with st.expander("What is kept, and why", icon=":material/inventory_2:"):
        st.markdown("\n".join(f"- {line}" for line in leaving.stays()))
