"""The dialogs that renew the certificate of a service and disconnect it.

The session stores which one is open, so that a rerun keeps it open.
"""

from typing import NamedTuple

import streamlit as st

from dashboard.components.formatting import moment
from dashboard.components.fragments import draw_refusal
from dashboard.page_context import PageContext
from dashboard.services import actions as service_actions
from openkcm.contract.client_files import CERTIFICATE
from openkcm.errors import OpenKcmError

_OPEN = "services.open"


class _Open(NamedTuple):
    dialog: str
    service: str


def open_renew(service: str) -> None:
    st.session_state[_OPEN] = _Open("renew", service)


def open_disconnect(service: str) -> None:
    st.session_state[_OPEN] = _Open("disconnect", service)


def draw_open(context: PageContext) -> None:
    """Draw the dialog, if one is open."""
    match st.session_state.get(_OPEN):
        case _Open("renew", service):
            st.dialog("Renew certificate", dismissible=False)(_renew)(context, service)
        case _Open("disconnect", service):
            st.dialog("Disconnect service", dismissible=False)(_disconnect)(context, service)


def _close() -> None:
    st.session_state.pop(_OPEN, None)
    st.rerun()


def _renew(context: PageContext, service: str) -> None:
    st.markdown(
        f"Issues a new certificate for the existing key of **{service}**. The current certificate stays valid "
        "until it expires. The client library and the agent fetch it; anything else needs the file installed. There "
        "is nothing to undo."
    )
    with st.container(horizontal=True):
        asked = st.button("Renew", type="primary", icon=":material/autorenew:", key="services.renew.do")
        closed = st.button("Close", key="services.close")
    if closed:
        _close()
    if not asked:
        return
    try:
        with st.spinner("Renewing"):
            leaf, presented = service_actions.renew(context, service)
    except OpenKcmError as refused:
        draw_refusal(refused, "Certificate not renewed", "The current certificate is unchanged.")
        return
    st.success(
        f"Valid until {moment(leaf.not_after, context.now())}. openkcm.sdk.client and `openkcm agent` fetch it; "
        f"without them, install this file as {CERTIFICATE} on the service's machine.",
        title="Certificate renewed",
        icon=":material/check:",
    )
    st.download_button(
        f"Download {CERTIFICATE}",
        data=presented,
        file_name=CERTIFICATE,
        mime="application/x-pem-file",
        icon=":material/download:",
        on_click="ignore",
        key="services.renewed",
    )


def _disconnect(context: PageContext, service: str) -> None:
    st.markdown(
        f"All certificates of **{service}** are revoked immediately and its connections end. It can then neither "
        "read nor write encrypted data. A key that it fetched earlier works until its cache expires."
    )
    st.markdown(
        "**Can it be undone?** Its key is kept. When you connect it again under this name, it gets a new "
        "certificate and can decrypt its existing data. Revoked certificates are never valid again."
    )
    typed = st.text_input(f"Type {service} to confirm", key="services.confirm")
    with st.container(horizontal=True):
        asked = st.button("Disconnect", type="primary", icon=":material/link_off:", key="services.disconnect.do")
        closed = st.button("Close", key="services.close")
    if closed:
        _close()
    if not asked:
        return
    if typed.strip() != service:
        st.warning(f"Nothing was done. Enter {service} to confirm, then select Disconnect again.")
        return
    try:
        with st.spinner("Disconnecting"):
            service_actions.disconnect(context, service)
    except OpenKcmError as refused:
        draw_refusal(refused, "Service not disconnected", "Its certificates are still valid.")
        return
    st.success("All certificates are revoked.", title=f"{service} is disconnected", icon=":material/check:")
