"""The dialog that connects a service and delivers its files, with the guide of its kind.

A private key generated here is kept in the session until the dialog is closed, and is never stored.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.certificates import APPLIANCE_DAYS
from core.errors.services import ServiceAlreadyConnected
from dashboard.components.formatting import KIND_NAMES, moment, plain
from dashboard.components.fragments import draw_refusal
from dashboard.components.outage_words import pending_title
from dashboard.page_context import PageContext
from dashboard.services import actions as service_actions
from dashboard.services import setup_guides
from dashboard.services.actions import IssuedCredentials, ServiceRequest
from dashboard.services.dialogs import open_renew
from dashboard.services.view import renewal, why_not
from database.commands import MadeToken
from database.tenants import TenantRow
from openkcm.contract.client_files import CERTIFICATE, KEY
from openkcm.contract.csr import LONGEST
from openkcm.contract.enrolment import agent_command
from openkcm.contract.services import ServiceKind
from openkcm.errors import OpenKcmError

_OPEN, _WISH, _PENDING, _DELIVERY, _EXISTS, _TOKEN = (
    "services.connecting",
    "services.wish",
    "services.pending",
    "services.delivery",
    "services.exists",
    "services.token",
)
_HERE = "Generate here and download once"
_OWN_MACHINE = "Generate on the service's machine"
_TOKEN_LIFETIME = timedelta(hours=1)


class _Entered(NamedTuple):
    """The input; the same input again is the same request, retried."""

    service: str
    kind: ServiceKind
    folder: str
    csr_pem: str | None
    certificate_days: int | None
    another: bool


class _Pending(NamedTuple):
    """A request that is queued or continues: only this dialog has the private key for its certificate."""

    entered: _Entered
    title: str


class _Guide(NamedTuple):
    service: str
    kind: ServiceKind


def open_connect() -> None:
    _forget()
    st.session_state[_OPEN] = True


def open_guide(service: str, kind: ServiceKind) -> None:
    _forget()
    st.session_state[_OPEN] = _Guide(service, kind)


def draw_open(context: PageContext, tenant: TenantRow) -> None:
    """Draw the dialog, if it is open."""
    match st.session_state.get(_OPEN):
        case True:
            st.dialog("Connect service", width="large", dismissible=False)(_connect)(context, tenant)
        case _Guide(service, kind):
            st.dialog(f"Guide for {service}", width="large", on_dismiss=_forget)(_draw_guide)(context, service, kind)


def _forget() -> None:
    for name in (_OPEN, _WISH, _PENDING, _DELIVERY, _EXISTS, _TOKEN):
        st.session_state.pop(name, None)


def _close() -> None:
    _forget()
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
        kinds.index(ServiceKind.MICROSERVICE),
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
    way = st.radio("Private key", [_HERE, _OWN_MACHINE], horizontal=True, key="services.way")
    # A fixed number of elements in each way: if it changed, an interrupted rerun would leave the elements after them on
    # the page twice.
    places = [st.empty() for _ in range(4)]
    with st.expander("Advanced", key="services.advanced"):
        folder = st.text_input(
            "Folder on the service's machine",
            key="services.folder",
            placeholder=setup_guides.folder_of(name.strip()),
            help="Folder of its files; the configuration refers to it.",
        )
        days = _draw_lifetime()
    where = folder.strip() or setup_guides.folder_of(name.strip())
    csr_pem = _draw_request(places, where) if way == _OWN_MACHINE else None
    if way == _HERE:
        places[0].caption(
            "The key is generated in this server's memory, returned once as a ZIP file and never stored. The file "
            "grants access to the service's keys until you disconnect the service."
        )
    places[3].caption(_lifetime_words(kind, days))
    exists = st.session_state.get(_EXISTS) == name.strip() != ""
    another = _draw_existing(context, name.strip()) if exists else False
    entered = _Entered(name, kind, where, csr_pem, days, another)
    label = "Issue another certificate" if another else "Connect"
    is_pending = _draw_pending(entered, label)
    with st.container(horizontal=True):
        asked = st.button(label, type="primary", icon=":material/add_link:", key="services.connect.do")
        if st.button("Discard the private key" if is_pending else "Cancel", key="services.cancel"):
            _close()
    if not asked:
        return None
    if reason := why_not(tenant):
        st.warning(reason)
        return None
    return _connected(context, entered)


def _lifetime_words(kind: ServiceKind, days: int | None) -> str:
    if days is not None:
        return f"The certificate is valid for {days} days and not renewed automatically: the service stops at its end."
    if kind is ServiceKind.MICROSERVICE:
        return f"The certificate is valid for at most 72 hours. {renewal(kind)}"
    return (
        f"The certificate is valid for at most 72 hours. {renewal(kind)} Run `openkcm agent` on its machine, or the "
        "service stops when the certificate expires. The next step has the command."
    )


def _draw_existing(context: PageContext, name: str) -> bool:
    """Draw what exists under the name and the choices; return whether a further certificate is asked for."""
    with context.database.tenant_tx(context.tenant_id) as tx:
        row = tx.services.get(name)
    if row is None:
        return False
    now = context.now()
    st.warning(
        f"{KIND_NAMES[row.kind]}, connected since {moment(row.connected_at, now)}, certificate valid until "
        f"{moment(row.certificate_not_after, now)}. Nothing was issued. Renew its certificate for the same key, choose "
        "another name, or issue another certificate for a second key.",
        title=f"{plain(name)} is already connected",
        icon=":material/warning:",
    )
    if st.button("Renew certificate", icon=":material/autorenew:", key="services.exists.renew"):
        _forget()
        open_renew(name)
        st.rerun()
    return st.checkbox(
        "Issue another certificate: a second key then has access to the service's keys", key="services.another"
    )


def _draw_pending(entered: _Entered, label: str) -> bool:
    """Draw how to get the files of this input's request, if it is pending; return whether it is."""
    pending: _Pending | None = st.session_state.get(_PENDING)
    if pending is None or pending.entered != entered:
        return False
    st.info(
        "The certificate is issued as soon as the platform can. Keep this window open: the private key exists only "
        f"here. Select {label} again in a minute, with the same input, to get the files. If you close the window, the "
        "service needs another certificate.",
        title=pending.title,
        icon=":material/pending:",
    )
    return True


def _draw_lifetime() -> int | None:
    """Return the lifetime of the certificate in days, None for the usual one."""
    appliance = st.checkbox("Appliance that cannot run the agent", key="services.appliance")
    words, field = st.empty(), st.empty()
    if not appliance:
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
    command, field, upload, _ = places
    with command.container():
        st.markdown(f"Run this on the service's machine. `{KEY}` stays there; paste the output into the field below.")
        st.code(setup_guides.request_command(folder), language=None, wrap_lines=True)
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
        if refused.code == ServiceAlreadyConnected.code and not entered.another:
            st.session_state[_EXISTS] = entered.service.strip()
            st.rerun()
        if (pending := pending_title(refused)) and entered.csr_pem is None:
            st.session_state[_PENDING] = _Pending(entered, pending)
            st.rerun()
        draw_refusal(refused, "Service not connected", "Your input is still here.")
        return None


def _wish(entered: _Entered) -> ServiceRequest:
    """Return the request for the input: the previous one, if the input has not changed."""
    before: tuple[_Entered, ServiceRequest] | None = st.session_state.get(_WISH)
    if before is None or before[0] != entered:
        service, kind, folder, csr_pem, days, another = entered
        before = entered, service_actions.wish(service, kind, folder, csr_pem, days, another=another)
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
    with st.container(horizontal=True):
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
        if st.button("Close", key="services.close"):
            _close()
    st.markdown("On the service's machine:")
    st.code(setup_guides.unpack_command(file, delivery.folder), language=None, wrap_lines=True)
    if not delivery.has_key:
        with st.expander(f"Certificate ({CERTIFICATE})"):
            st.code(delivery.files[CERTIFICATE], language=None)
    _draw_tabs(context, delivery.service, delivery.kind, delivery.folder, delivered=True)


def _draw_guide(context: PageContext, service: str, kind: ServiceKind) -> None:
    if not context.present():
        st.rerun()
    st.caption(f"The commands expect the service's files in `{setup_guides.folder_of(service)}`.")
    _draw_tabs(context, service, kind, setup_guides.folder_of(service), delivered=False)


def _draw_tabs(context: PageContext, service: str, kind: ServiceKind, folder: str, *, delivered: bool) -> None:
    guides = setup_guides.guides(kind, folder, context.addresses.crypto_https)
    for guide, tab in zip(guides, st.tabs([one.label for one in guides], key="services.guides"), strict=True):
        with tab:
            if guide.label == setup_guides.AGENT:
                _draw_agent(context, service, kind, folder, delivered=delivered)
            for step in guide.steps:
                st.markdown(step.words)
                if step.command:
                    st.code(step.command, language=None, wrap_lines=True)


def _draw_agent(context: PageContext, service: str, kind: ServiceKind, folder: str, *, delivered: bool) -> None:
    url = context.addresses.enrolment
    if kind is ServiceKind.MICROSERVICE:
        st.markdown(f"Only for software without the client library. {renewal(kind)}")
    else:
        st.markdown(
            f"**Required.** {renewal(kind)} The agent does, and reloads the service. Without it the service stops "
            "when its certificate expires, after at most 72 hours."
        )
    if delivered:
        st.markdown("Run this beside the service, under its user, in the folder with the delivered files:")
        st.code(setup_guides.kept_agent_command(url, service, kind, folder), language=None, wrap_lines=True)
        st.caption("For a folder without a key and a certificate, create a join token instead.")
    made: MadeToken | None = st.session_state.get(_TOKEN)
    if made is None and st.button("Create join token", icon=":material/key:", key="services.token.do"):
        try:
            made = service_actions.make_token(context, service, kind, _TOKEN_LIFETIME)
        except OpenKcmError as refused:
            draw_refusal(refused, "Token not created")
            return
        st.session_state[_TOKEN] = made
    if made is None:
        return
    st.warning(
        f"Valid once, for {service} only, until {moment(made.expires_at, context.now())}. It is not stored and cannot "
        "be shown again.",
        title="Copy the token now",
        icon=":material/key:",
    )
    st.code(made.token.text, language=None, wrap_lines=True)
    st.markdown("Run this command on the service's machine and paste the token when asked:")
    st.code(agent_command(url, service, kind, folder), language=None, wrap_lines=True)
