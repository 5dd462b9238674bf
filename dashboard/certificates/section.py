"""The certificate authorities on the page Services, and the dialog that rolls them."""

import streamlit as st

from core.tenants.roles import Permission
from dashboard.certificates import actions as authority_actions
from dashboard.certificates import view as authorities
from dashboard.components.fragments import draw_refusal, guarded_fragment
from dashboard.page_context import PageContext
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_OPEN, _DONE = "authorities.open", "authorities.done"


def draw_part(seat: PageContext, tenant: TenantRow) -> None:
    """Draw the authorities that count, and the button for whoever may."""
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        rows = tx.certificates.authorities()
        until = {row.serial: tx.certificates.issued_until(row.serial) for row in rows}
    said = authorities.lines(rows, until, seat.now())
    if not said:
        return
    st.header("Certificate authority", anchor="authority")
    st.markdown("\n".join(f"- {line}" for line in said))
    if not seat.may(Permission.MANAGE_SERVICES):
        st.caption("Your role lets you look at this. An administrator of your organization rolls it.")
        return
    why_not = authorities.why_not(tenant, rows)
    st.caption(why_not or "It is rolled by itself when a third of its life is left.")
    if st.button("Roll now", icon=":material/autorenew:", key="authorities.roll", disabled=bool(why_not)):
        st.session_state[_OPEN] = True
        st.session_state.pop(_DONE, None)
        st.rerun()


def draw_open(seat: PageContext) -> None:
    """Draw the dialog, if it is open."""
    if st.session_state.get(_OPEN):
        st.dialog("Roll the certificate authority", dismissible=False)(guarded_fragment(_draw_dialog))(seat)


def _close() -> None:
    for name in (_OPEN, _DONE):
        st.session_state.pop(name, None)
    st.rerun()


def _draw_dialog(seat: PageContext) -> None:
    slot = st.empty()
    if not st.session_state.get(_DONE):
        with slot.container():
            done = _draw_question(seat)
        if not done:
            return
        st.session_state[_DONE] = True
        slot.empty()
    st.success(
        "New certificates come from it now. The former goes on until its last certificate has expired.",
        title="The authority is rolled",
        icon=":material/check:",
    )
    if st.button("Close", key="authorities.close"):
        _close()


def _draw_question(seat: PageContext) -> bool:
    st.markdown(f"**What happens**  \n{authorities.HAPPENS}")
    st.markdown(f"**Can it be undone?**  \n{authorities.UNDONE}")
    with st.container(horizontal=True):
        asked = st.button("Roll", type="primary", key="authorities.do")
        if st.button("Cancel", key="authorities.cancel"):
            _close()
    if not asked:
        return False
    try:
        with st.spinner("Rolling"):
            authority_actions.roll(seat)
    except OpenKcmError as failed:
        draw_refusal(failed, "Not rolled", "The authority before it is in force, and every certificate works.")
        return False
    return True
