"""The dialog that makes a join token and shows it once, and the services that wait for one.

The token lies in the session until the dialog is closed, and is never stored.
"""

from collections.abc import Sequence
from datetime import timedelta
from types import MappingProxyType

import streamlit as st

from core.tenants.roles import Permission
from dashboard.components.formatting import KIND_NAMES, moment
from dashboard.components.fragments import draw_refusal
from dashboard.page_context import PageContext
from dashboard.services import actions as join_actions
from dashboard.services.view import Found
from database.commands import MadeToken
from openkcm.contract.enrolment import agent_command, folder_of
from openkcm.contract.services import ServiceKind
from openkcm.errors import OpenKcmError

_OPEN, _MADE = "join.open", "join.made"
_LIFETIMES = MappingProxyType(
    {
        "15 minutes": timedelta(minutes=15),
        "1 hour": timedelta(hours=1),
        "8 hours": timedelta(hours=8),
        "24 hours": timedelta(hours=24),
    }
)


def open_join(service: str = "", kind: ServiceKind = ServiceKind.POSTGRESQL) -> None:
    st.session_state[_OPEN] = (service, kind)
    st.session_state["join.name"], st.session_state["join.kind"] = service, kind


def draw_discovered(seat: PageContext, waiting: Sequence[Found], *, closed: bool) -> None:
    """Draw what was discovered and is not connected; draws nothing where there is none."""
    if not waiting:
        return
    st.subheader(f"Discovered: {len(waiting):,} not connected", anchor=False)
    with st.grid(2, min_column_width=340):
        for one in waiting:
            with st.container(border=True, height="stretch", gap="xsmall"):
                st.markdown(f":material/travel_explore: **{one.service}**")
                st.markdown(f"- {one.words}")
                if closed or not seat.may(Permission.MANAGE_SERVICES):
                    continue
                st.button(
                    "Connect with an agent",
                    icon=":material/add_link:",
                    key=f"join.connect.{one.service}",
                    on_click=open_join,
                    args=(one.service, one.kind),
                )


def draw_open(seat: PageContext) -> None:
    """Draw the dialog if it is open."""
    if _OPEN in st.session_state:
        st.dialog("Let an agent enrol", width="large", dismissible=False)(_join)(seat)


def _close() -> None:
    for name in (_OPEN, _MADE):
        st.session_state.pop(name, None)
    st.rerun()


def _join(seat: PageContext) -> None:
    made: tuple[MadeToken, str, ServiceKind] | None = st.session_state.get(_MADE)
    slot = st.empty()
    if made is None:
        with slot.container():
            made = _draw_form(seat)
        if made is None:
            return
        st.session_state[_MADE] = made
        slot.empty()
    _draw_token(seat, *made)


def _draw_form(seat: PageContext) -> tuple[MadeToken, str, ServiceKind] | None:
    st.markdown(
        "An agent beside the service makes the service's key, asks for its certificate and renews it by itself. A join "
        "token proves once that it may: whoever has it can be this service until it was used or has expired."
    )
    kinds = list(ServiceKind)
    kind = st.radio("Kind", kinds, 0, format_func=lambda one: KIND_NAMES[one], horizontal=True, key="join.kind")
    name = st.text_input("Name", key="join.name", max_chars=40, help="1 to 40 lower-case letters, digits and hyphens.")
    lifetime = st.radio("It can be used for", list(_LIFETIMES), 1, horizontal=True, key="join.lifetime")
    with st.container(horizontal=True):
        asked = st.button("Make the token", type="primary", icon=":material/key:", key="join.do")
        if st.button("Cancel", key="join.cancel"):
            _close()
    if not asked:
        return None
    try:
        return join_actions.make_token(seat, name, kind, _LIFETIMES[lifetime]), name.strip(), kind
    except OpenKcmError as refused:
        draw_refusal(refused, "No token was made", "What you entered is still here.")
        return None


def _draw_token(seat: PageContext, made: MadeToken, service: str, kind: ServiceKind) -> None:
    st.warning(
        f"It is good once, for {service} alone, until {moment(made.expires_at, seat.now())}. It was not stored and is "
        "gone when you close this window; make another one then.",
        title="Copy the token now",
        icon=":material/key:",
    )
    st.code(made.token.text, language=None, wrap_lines=True)
    st.markdown("Run this beside the service and paste the token when it asks:")
    st.code(
        agent_command(seat.addresses.enrolment, service, kind, folder_of(service)), language="bash", wrap_lines=True
    )
    if st.button("Close", key="join.close"):
        _close()
