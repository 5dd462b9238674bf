"""The dialogs of the page Services. Which one is open lies in the session, so that a rerun keeps it open.

A private key that was made here lies in the session until the dialog is closed, and is never stored.
"""

from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

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
_OWN_MACHINE = "The service's own machine makes its key (recommended)"
_HERE = "Make the key here and download it once"


class _Open(NamedTuple):
    dialog: str
    service: str = ""


class _Entered(NamedTuple):
    """What was typed; the same again is the same request, tried again."""

    service: str
    kind: ServiceKind
    folder: str
    csr_pem: str | None


def open_connect() -> None:
    st.session_state[_OPEN] = _Open("connect")


def open_renew(service: str) -> None:
    st.session_state[_OPEN] = _Open("renew", service)


def open_disconnect(service: str) -> None:
    st.session_state[_OPEN] = _Open("disconnect", service)


def draw_open(seat: PageContext, tenant: TenantRow) -> None:
    """Draw the dialog that is open, if there is one."""
    match st.session_state.get(_OPEN):
        case _Open("connect"):
            st.dialog("Connect a service", width="large", dismissible=False)(_connect)(seat, tenant)
        case _Open("renew", service):
            st.dialog("Renew a certificate", dismissible=False)(_renew)(seat, service)
        case _Open("disconnect", service):
            st.dialog("Disconnect a service", dismissible=False)(_disconnect)(seat, service)


def _close() -> None:
    for name in (_OPEN, _WISH, _DELIVERY):
        st.session_state.pop(name, None)
    st.rerun()


def _connect(seat: PageContext, tenant: TenantRow) -> None:
    delivery: IssuedCredentials | None = st.session_state.get(_DELIVERY)
    slot = st.empty()
    if delivery is None:
        with slot.container():
            delivery = _draw_form(seat, tenant)
        if delivery is None:
            return
        st.session_state[_DELIVERY] = delivery
        st.session_state.pop(_WISH, None)
        slot.empty()
    _draw_delivery(seat, delivery)


def _draw_form(seat: PageContext, tenant: TenantRow) -> IssuedCredentials | None:
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
        help="1 to 40 lower-case letters, digits and hyphens. It stands in the certificate and cannot be changed.",
    )
    folder = st.text_input(
        "Folder on the service's machine",
        key="services.folder",
        placeholder=guides.folder_of(name),
        help="Where its files will lie; its configuration names them by this path.",
    )
    way = st.radio("Its private key", [_OWN_MACHINE, _HERE], key="services.way")
    where = folder.strip() or guides.folder_of(name.strip())
    # Both ways draw into the same places: where their number changes, a rerun that another one interrupts leaves what
    # comes after them on the page twice.
    places = [st.empty() for _ in range(4)]
    csr_pem = _draw_request(places, where) if way == _OWN_MACHINE else None
    if way == _HERE:
        places[0].info(
            "The key is made in this server's memory, handed to you once as a ZIP file and never stored. Whoever has "
            "that file can use the service's keys until you disconnect it. Where you can, let the service's own "
            "machine make its key instead.",
            title="For convenience",
            icon=":material/info:",
        )
    st.caption(
        "What happens: the service gets a key of its own (once in its life) and a certificate for at most 72 hours, "
        "which is renewed by itself. Disconnecting it takes that back at once."
    )
    entered = _Entered(name, kind, where, csr_pem)
    with st.container(horizontal=True):
        asked = st.button("Connect", type="primary", icon=":material/add_link:", key="services.connect.do")
        if st.button("Cancel", key="services.cancel"):
            _close()
    if not asked:
        return None
    if reason := why_not(tenant):
        st.warning(reason)
        return None
    return _connected(seat, entered)


def _draw_request(places: Sequence[DeltaGenerator], folder: str) -> str:
    words, command, field, upload = places
    words.markdown(
        f"Run this on the service's machine. `{KEY}` stays there; what is printed goes into the field below."
    )
    command.code(guides.request_command(folder), language="bash", wrap_lines=True)
    typed = field.text_area(
        "Certificate request (PKCS #10, PEM)",
        key="services.csr",
        max_chars=LONGEST,
        height=140,
        placeholder="-----BEGIN CERTIFICATE REQUEST-----",
    )
    file = upload.file_uploader("or upload client.csr", type=["csr", "pem", "req", "txt"], key="services.csr.file")
    if file is None:
        return str(typed)
    return file.getvalue()[: LONGEST + 1].decode("ascii", "replace")


def _connected(seat: PageContext, entered: _Entered) -> IssuedCredentials | None:
    try:
        wanted = _wish(entered)
        with st.spinner(f"Connecting {wanted.service}: its key and certificate are being made"):
            return service_actions.connect(seat, wanted)
    except OpenKcmError as refused:
        draw_refusal(refused, "Not connected", "What you entered is still here.")
        return None


def _wish(entered: _Entered) -> ServiceRequest:
    """Return the wish of what was entered: the one that was tried before, when nothing was changed since."""
    before: tuple[_Entered, ServiceRequest] | None = st.session_state.get(_WISH)
    if before is None or before[0] != entered:
        before = entered, service_actions.wish(*entered)
        st.session_state[_WISH] = before
    return before[1]


def _draw_delivery(seat: PageContext, delivery: IssuedCredentials) -> None:
    until = moment(delivery.leaf.not_after, seat.now())
    st.success(
        f"Its certificate is valid until {until}.", title=f"{delivery.service} is connected", icon=":material/check:"
    )
    if delivery.has_key:
        st.warning(
            "This file holds the private key. It was never stored and is gone when you close this window. If you lose "
            "it, connect the service again; if somebody else may have it, disconnect the service.",
            title="Download it now",
            icon=":material/key:",
        )
    file = f"{delivery.service}-openkcm.zip"
    st.download_button(
        "Download the files (ZIP)",
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
    st.markdown(f"Its folder then holds: {', '.join(f'`{name}`' for name in delivery.files)}.")
    if not delivery.has_key:
        with st.expander(f"The certificate ({CERTIFICATE})"):
            st.code(delivery.files[CERTIFICATE], language=None)
    with st.expander("What to do next", expanded=True):
        st.markdown("\n".join(f"- {step}" for step in guides.steps(delivery.kind)))
    if st.button("Close", key="services.close"):
        _close()


def _renew(seat: PageContext, service: str) -> None:
    st.markdown(
        f"**{service}** gets its next certificate now, for the key that it has. Nothing stops: the certificate in use "
        "stays valid until its end. Certificates are renewed by themselves after two thirds of their life, so you need "
        "this only after a failure. There is nothing to undo."
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
            leaf, presented = service_actions.renew(seat, service)
    except OpenKcmError as refused:
        draw_refusal(refused, "Not renewed", "The certificate in use was not changed.")
        return
    st.success(
        f"It is valid until {moment(leaf.not_after, seat.now())}. The client openkcm.sdk.client fetches it by itself; "
        f"everything else needs this file as its {CERTIFICATE}.",
        title="Renewed",
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


def _disconnect(seat: PageContext, service: str) -> None:
    st.markdown(
        f"Every certificate of **{service}** is revoked at once and its connections end: from then on it can "
        "neither read nor write what it encrypted. A key that it fetched before may serve it until its own cache ends."
    )
    st.markdown(
        "**Can it be undone?** Its key stays. When you connect it again under this name it gets a new certificate and "
        "opens what it encrypted before; the revoked certificates never work again."
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
        st.warning(f"Nothing was done. Type {service} into the field, then press Disconnect again.")
        return
    try:
        with st.spinner("Disconnecting"):
            service_actions.disconnect(seat, service)
    except OpenKcmError as refused:
        draw_refusal(refused, "Not disconnected yet", "Until it is, its certificates go on working.")
        return
    st.success("Every certificate is revoked.", title=f"{service} is disconnected", icon=":material/check:")
