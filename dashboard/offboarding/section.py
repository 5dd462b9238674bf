"""Offboarding on the page Settings, and the restore of an offboarding tenant on any page; their dialogs.

Also the page of an offboarded tenant: what was destroyed, and the erasure certificate.
"""

from enum import StrEnum

import streamlit as st

from core.tenants.approvals import Action, Approval
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.approvals import view as approvals
from dashboard.approvals.reason import draw_request
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


def draw_part(context: PageContext, tenant: TenantRow) -> None:
    """Draw the section of the page Settings that offboards the tenant."""
    if not leaving.may_leave(tenant):
        return
    st.header("Offboard tenant", anchor="leave")
    st.markdown(action_of(KeyAction.OFFBOARD).happens)
    if not context.may(Permission.MANAGE_KEYS):
        st.caption("Read-only for your role. A key administrator of your organization can offboard the tenant.")
        return
    if st.button("Offboard tenant", icon=":material/logout:", key="leaving.leave"):
        _open(_Way.LEAVE)


def draw_leaving(context: PageContext, tenant: TenantRow) -> None:
    """Draw the offboarding dialog, if it is open."""
    if st.session_state.get(_OPEN) is _Way.LEAVE:
        st.dialog("Offboard tenant", dismissible=False)(guarded_fragment(_draw_leave))(context, tenant)


def draw_restore_button(context: PageContext, left: OffboardingRow | None) -> None:
    """Draw the button that restores the tenant, for users with the permission while a restore is possible."""
    if not leaving.is_restorable(left) or not context.may(Permission.MANAGE_KEYS):
        return
    if st.button("Restore tenant", icon=":material/settings_backup_restore:", key="leaving.restore"):
        _open(_Way.RESTORE)


def draw_restoring(context: PageContext) -> None:
    """Draw the restore dialog, if it is open."""
    if st.session_state.get(_OPEN) is _Way.RESTORE:
        st.dialog("Restore tenant", dismissible=False)(guarded_fragment(_draw_restore))(context)


def _open(way: _Way) -> None:
    st.session_state[_OPEN] = way
    st.session_state.pop(_DONE, None)
    st.rerun()


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _draw_leave(context: PageContext, tenant: TenantRow) -> None:
    slot = st.empty()
    after: TenantRow | Approval | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = _draw_leave_question(context, tenant)
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    if isinstance(after, Approval):
        st.info(approvals.asked(after, context.now()), title="Approval requested", icon=":material/group:")
    else:
        with context.database.tenant_tx(context.tenant_id) as tx:
            status = leaving.notice(standing(after.state, after.locks), tx.leaving.get(), context.now())
        st.success(f"{status.meaning} {status.advice}", title=status.title, icon=":material/check:")
    if st.button("Close", key="leaving.close"):
        _close()


def _draw_leave_question(context: PageContext, tenant: TenantRow) -> TenantRow | Approval | None:
    two = approval_actions.policy_of(context).wants_two_for(Action.OFFBOARD)
    button = "Request approval" if two else "Offboard"
    _draw_dry_run(context)
    action = action_of(KeyAction.OFFBOARD)
    st.markdown(f"**What happens**  \n{action.happens}")
    st.markdown(f"**Can it be undone?**  \n{action.undone}")
    reason = draw_request(context, "leaving.reason") if two else ""
    typed = st.text_input(f"Type {tenant.tenant_id} to confirm", key="leaving.confirm").strip()
    with st.container(horizontal=True):
        asked = st.button(button, type="primary", icon=":material/logout:", key="leaving.leave.do")
        if st.button("Cancel", key="leaving.cancel"):
            _close()
    if not asked:
        return None
    if typed != tenant.tenant_id:
        st.warning(f"Nothing was done. Enter {tenant.tenant_id} to confirm, then select {button} again.")
        return None
    try:
        with st.spinner("Requesting approval" if two else "Starting offboarding"):
            return leaving_actions.ask_to_leave(context, reason) if two else leaving_actions.leave(context)
    except OpenKcmError as failed:
        draw_refusal(failed, "Offboarding not started", "Check the tenant's state before you retry.")
        return None


def _draw_dry_run(context: PageContext) -> None:
    """List what stops now and what is destroyed after the grace period, from stored data."""
    now = context.now()
    with context.database.tenant_tx(context.tenant_id) as tx:
        stops = stopping.stops(tx.services.all(), now)
        keys = leaving.keys_to_destroy(tx.keys.all(), tx.services.keys())
    st.markdown("**Stops immediately**")
    st.markdown("\n".join(f"- {line}" for line in stops) or "No service is connected.")
    st.markdown(f"**Destroyed after {leaving.until(context.offboard_grace_days, now)}**")
    st.markdown("\n".join(f"- {line}" for line in keys))
    st.caption(
        "All tenant records are deleted as well, except those needed as proof of erasure. The erasure "
        "certificate lists them."
    )


def _draw_restore(context: PageContext) -> None:
    slot = st.empty()
    after: TenantRow | None = st.session_state.get(_DONE)
    if after is None:
        with slot.container():
            after = _draw_restore_question(context)
        if after is None:
            return
        st.session_state[_DONE] = after
        slot.empty()
    status = standing(after.state, after.locks)
    st.success(f"{status.meaning} {status.advice}", title="Tenant restored", icon=":material/check:")
    if st.button("Close", key="leaving.close"):
        _close()


def _draw_restore_question(context: PageContext) -> TenantRow | None:
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
            return leaving_actions.restore(context)
    except OpenKcmError as failed:
        draw_refusal(failed, "Tenant not restored", "The notice above the page shows the progress of offboarding.")
        return None


CERTIFICATE = "destruction-certificate.json"
"""The last part of the certificate's address."""


def draw(context: PageContext) -> None:
    if not admitted(context):
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        left, certificate, keys = tx.leaving.get(), tx.leaving.certificate(), tx.leaving.keys_to_destroy()
    if left is None:
        draw_unknown()
        return
    st.title("Tenant closed", anchor=False)
    st.caption(f"Tenant `{context.tenant_id}`. The id is never reused.")
    st.markdown("\n\n".join(leaving.summary(left, certificate, context.now())))
    if certificate is not None:
        st.header("Erasure certificate", anchor="certificate")
        st.markdown(
            f"It states what was destroyed and when ({leaving.destroyed(keys)}), with fingerprints, and what "
            "remains in backups. Verify it offline with `openkcm audit verify FILE` and the platform's public key."
        )
        st.link_button(
            "Download certificate",
            f"{of_tenant(context.tenant_id).root}/{CERTIFICATE}",
            key="left.certificate",
            icon=":material/download:",
        )
    with st.expander("Retained records", icon=":material/inventory_2:"):
        st.markdown("\n".join(f"- {line}" for line in leaving.stays()))
