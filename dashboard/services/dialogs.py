"""The dialogs of the page Services. The session stores which one is open, so that a rerun keeps it open.

A private key generated here is kept in the session until the dialog is closed, and is never stored.
"""

from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.certificates import APPLIANCE_DAYS
from dashboard.components.formatting import KIND_NAMES, moment
from dashboard.components.fragments import draw_refusal
from dashboard.page_context import PageContext
from dashboard.services import actions as service_actions
from dashboard.services import setup_guides as guides
from dashboard.services.actions import IssuedCredentials, ServiceRequest
from dashboard.services.view import why_not
from database.tenants import TenantRow
from openkcm.contract.client_files import CERTIFICATE, KEY
from openkcm.contract.csr import LONGEST
from openkcm.contract.services import ServiceKind
from openkcm.errors import OpenKcmError

_OPEN, _WISH, _DELIVERY = "services.open", "services.wish", "services.delivery"
_OWN_MACHINE = "Generate on the service's machine (recommended)"
_HERE = "Generate here and download once"


class _Open(NamedTuple):
    dialog: str
    service: str = ""


class _Entered(NamedTuple):
    """The input; the same input again is the same request, retried."""

    service: str
    kind: ServiceKind
    folder: str
    csr_pem: str | None
    certificate_days: int | None


def open_connect() -> None:
    st.session_state[_OPEN] = _Open("connect")


def open_renew(service: str) -> None:
    st.session_state[_OPEN] = _Open("renew", service)


def open_disconnect(service: str) -> None:
    st.session_state[_OPEN] = _Open("disconnect", service)


def draw_open(context: PageContext, tenant: TenantRow) -> None:
    """Draw the dialog, if one is open."""
    match st.session_state.get(_OPEN):
        case _Open("connect"):
            st.dialog("Connect service", width="large", dismissible=False)(_connect)(context, tenant)
        case _Open("renew", service):
            st.dialog("Renew certificate", dismissible=False)(_renew)(context, service)
        case _Open("disconnect", service):
            st.dialog("Disconnect service", dismissible=False)(_disconnect)(context, service)


def _close() -> None:
    for name in (_OPEN, _WISH, _DELIVERY):
        st.session_state.pop(name, None)
    st.rerun()


def _connect(context: PageContext, tenant: TenantRow) -> None:
    delivery: IssuedCredentials | None = st.session_state.get(_DELIVERY)
    slot = st.empty()
    if delivery is None:
        with slot.container():
            delivery = _draw_form(context, tenant)
        if delivery is None:
            return
        st.session_state[_DELIVERY] = delivery
        st.session_state.pop(_WISH, None)
        slot.empty()
    _draw_delivery(context, delivery)


def _draw_form(context: PageContext, tenant: TenantRow) -> IssuedCredentials | None:
    kinds = list(ServiceKind)
    kind = st.radio(
        "Kind",
        kinds,
        kinds.index(ServiceKind.MONGODB),
        format_func=lambda one: KIND_NAMES[one],
        horizontal=True,
        key="services.kind",
    )
    name = st.text_input(
        "Name",
        key="services.name",
        max_chars=40,
        help="1 to 40 lower-case letters, digits and hyphens. Part of the certificate; cannot be changed.",
    )
    folder = st.text_input(
        "Folder on the service's machine",
        key="services.folder",
        placeholder=guides.folder_of(name),
        help="Folder of its files; the configuration refers to it.",
    )
    way = st.radio("Private key", [_OWN_MACHINE, _HERE], key="services.way")
    where = folder.strip() or guides.folder_of(name.strip())
    # Both options use the same placeholders: if their number changed, an interrupted rerun would leave the elements
    # after them on the page twice.
    places = [st.empty() for _ in range(4)]
    csr_pem = _draw_request(places, where) if way == _OWN_MACHINE else None
    if way == _HERE:
        places[0].info(
            "The key is generated in this server's memory, returned once as a ZIP file and never stored. The file "
            "grants access to the service's keys until you disconnect the service. If possible, generate the key "
            "on the service's machine instead.",
            title="Less secure option",
            icon=":material/info:",
        )
    days = _draw_lifetime()
    entered = _Entered(name, kind, where, csr_pem, days)
    with st.container(horizontal=True):
        asked = st.button("Connect", type="primary", icon=":material/add_link:", key="services.connect.do")
        if st.button("Cancel", key="services.cancel"):
            _close()
    if not asked:
        return None
    if reason := why_not(tenant):
        st.warning(reason)
        return None
    return _connected(context, entered)


def _draw_lifetime() -> int | None:
    """Return the lifetime of the certificate in days, None for the usual one."""
    appliance = st.checkbox("Appliance that cannot run the agent", key="services.appliance")
    words, field = st.empty(), st.empty()
    if not appliance:
        words.caption(
            "The service gets a dedicated key and a certificate valid for at most 72 hours. The client library or "
            "`openkcm agent` renews the certificate. Disconnecting the service revokes it immediately."
        )
        return None
    words.warning(
        "The certificate is not renewed automatically: the service stops at its end. A stolen key works until then, or "
        "until you disconnect the service, which revokes the certificate immediately. You are notified when a sixth of "
        "the lifetime is left. It never lasts longer than the CA of your tenant.",
        title="You must replace this certificate",
        icon=":material/warning:",
    )
    least, most = APPLIANCE_DAYS
    return int(field.number_input("Certificate lifetime in days", least, most, 90, key="services.days"))


def _draw_request(places: Sequence[DeltaGenerator], folder: str) -> str:
    words, command, field, upload = places
    words.markdown(f"Run this on the service's machine. `{KEY}` stays there; paste the output into the field below.")
    command.code(guides.request_command(folder), language="bash", wrap_lines=True)
    typed = field.text_area(
        "Certificate signing request (PKCS #10, PEM)",
        key="services.csr",
        max_chars=LONGEST,
        height=140,
        placeholder="-----BEGIN CERTIFICATE REQUEST-----",
    )
    file = upload.file_uploader("Or upload client.csr", type=["csr", "pem", "req", "txt"], key="services.csr.file")
    if file is None:
        return str(typed)
    return file.getvalue()[: LONGEST + 1].decode("ascii", "replace")


def _connected(context: PageContext, entered: _Entered) -> IssuedCredentials | None:
    try:
        wanted = _wish(entered)
        with st.spinner(f"Connecting {wanted.service}: creating key and certificate"):
            return service_actions.connect(context, wanted)
    except OpenKcmError as refused:
        draw_refusal(refused, "Service not connected", "Your input is still here.")
        return None


def _wish(entered: _Entered) -> ServiceRequest:
    """Return the request for the input: the previous one, if the input has not changed."""
    before: tuple[_Entered, ServiceRequest] | None = st.session_state.get(_WISH)
    if before is None or before[0] != entered:
        before = entered, service_actions.wish(*entered)
        st.session_state[_WISH] = before
    return before[1]


def _draw_delivery(context: PageContext, delivery: IssuedCredentials) -> None:
    until = moment(delivery.leaf.not_after, context.now())
    st.success(f"Certificate valid until {until}.", title=f"{delivery.service} is connected", icon=":material/check:")
    if delivery.has_key:
        st.warning(
            "This file contains the private key. It is not stored and cannot be downloaded again. If it is lost, "
            "connect the service again. If it may be compromised, disconnect the service.",
            title="Download it now",
            icon=":material/key:",
        )
    file = f"{delivery.service}-openkcm.zip"
    st.download_button(
        "Download files (ZIP)",
        data=service_actions.archive(delivery),
        file_name=file,
        mime="application/zip",
        icon=":material/download:",
        type="primary",
        on_click="ignore",
        key="services.download",
    )
    st.markdown("On the service's machine:")
    st.code(guides.unpack_command(file, delivery.folder), language="bash", wrap_lines=True)
    st.markdown(f"The folder then contains: {', '.join(f'`{name}`' for name in delivery.files)}.")
    if not delivery.has_key:
        with st.expander(f"Certificate ({CERTIFICATE})"):
            st.code(delivery.files[CERTIFICATE], language=None)
    with st.expander("Next steps", expanded=True):
        st.markdown("\n".join(f"- {step}" for step in guides.steps(delivery.kind)))
    if st.button("Close", key="services.close"):
        _close()


def _renew(context: PageContext, service: str) -> None:
    st.markdown(
        f"Issues a new certificate for the existing key of **{service}**. The current certificate stays valid "
        "until it expires. Certificates are renewed automatically after two thirds of their lifetime, so this is "
        "needed only after a failure, or for an appliance. There is nothing to undo."
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
        f"Valid until {moment(leaf.not_after, context.now())}. openkcm.sdk.client and `openkcm agent` fetch it "
        f"automatically; other clients need this file as {CERTIFICATE}.",
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
