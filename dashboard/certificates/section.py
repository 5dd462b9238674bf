"""The certificate authorities on the page Services, and the dialog that replaces the issuing one."""

import streamlit as st

from core.tenants.roles import Permission
from dashboard.certificates import actions as authority_actions
from dashboard.certificates import view as authorities
from dashboard.components.fragments import draw_refusal, guarded_fragment
from dashboard.page_context import PageContext
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_OPEN, _DONE = "authorities.open", "authorities.done"


def draw_part(context: PageContext, tenant: TenantRow) -> None:
    """Draw the relevant authorities, and the button for users with the permission."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        rows = tx.certificates.authorities()
        until = {row.serial: tx.certificates.issued_until(row.serial) for row in rows}
    lines = authorities.lines(rows, until, context.now())
    if not lines:
        st.caption("The tenant has no certificate authority yet.")
        return
    st.markdown("\n".join(f"- {line}" for line in lines))
    if not context.may(Permission.MANAGE_SERVICES):
        st.caption("Read-only for your role. An administrator of your organization can replace the authority.")
        return
    why_not = authorities.why_not(tenant, rows)
    st.caption(why_not or "It is replaced automatically when a third of its lifetime is left.")
    if st.button("Replace authority", icon=":material/autorenew:", key="authorities.roll", disabled=bool(why_not)):
        st.session_state[_OPEN] = True
        st.session_state.pop(_DONE, None)
        st.rerun()


def draw_open(context: PageContext) -> None:
    """Draw the dialog, if it is open."""
    if st.session_state.get(_OPEN):
        st.dialog("Replace certificate authority", dismissible=False)(guarded_fragment(_draw_dialog))(context)


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _draw_dialog(context: PageContext) -> None:
    slot = st.empty()
    if not st.session_state.get(_DONE):
        with slot.container():
            done = _draw_question(context)
        if not done:
            return
        st.session_state[_DONE] = True
        slot.empty()
    st.success(
        "New certificates are issued by the new authority. Certificates of the former one stay valid until they "
        "expire.",
        title="Authority replaced",
        icon=":material/check:",
    )
    if st.button("Close", key="authorities.close"):
        _close()


def _draw_question(context: PageContext) -> bool:
    st.markdown(f"**What happens**  \n{authorities.HAPPENS}")
    st.markdown(f"**Can it be undone?**  \n{authorities.UNDONE}")
    with st.container(horizontal=True):
        asked = st.button("Replace", type="primary", key="authorities.do")
        if st.button("Cancel", key="authorities.cancel"):
            _close()
    if not asked:
        return False
    try:
        with st.spinner("Replacing authority…"):
            authority_actions.roll(context)
    except OpenKcmError as failed:
        draw_refusal(
            failed, "Authority not replaced", "The current authority is unchanged and every certificate is valid."
        )
        return False
    return True
