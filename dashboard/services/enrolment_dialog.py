"""The dialog that creates a join token and shows it once.

The token is kept in the session until the dialog is closed, and is never stored.
"""

from datetime import timedelta
from types import MappingProxyType

import streamlit as st

from dashboard.components.formatting import KIND_NAMES, moment
from dashboard.components.fragments import draw_refusal
from dashboard.page_context import PageContext
from dashboard.services import actions as join_actions
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


def draw_open(context: PageContext) -> None:
    """Draw the dialog if it is open."""
    if _OPEN in st.session_state:
        st.dialog("Enrol an agent", width="large", dismissible=False)(_join)(context)


def _close() -> None:
    for name in (_OPEN, _MADE):
        st.session_state.pop(name, None)
    st.rerun()


def _join(context: PageContext) -> None:
    made: tuple[MadeToken, str, ServiceKind] | None = st.session_state.get(_MADE)
    slot = st.empty()
    if made is None:
        with slot.container():
            made = _draw_form(context)
        if made is None:
            return
        st.session_state[_MADE] = made
        slot.empty()
    _draw_token(context, *made)


def _draw_form(context: PageContext) -> tuple[MadeToken, str, ServiceKind] | None:
    st.markdown(
        "An agent beside the service generates its key, requests its certificate and renews it automatically. A "
        "join token authorizes one enrolment: it must stay secret until it has been used or has expired."
    )
    kinds = list(ServiceKind)
    kind = st.radio("Kind", kinds, 0, format_func=lambda one: KIND_NAMES[one], horizontal=True, key="join.kind")
    name = st.text_input("Name", key="join.name", max_chars=40, help="1 to 40 lower-case letters, digits and hyphens.")
    lifetime = st.radio("Valid for", list(_LIFETIMES), 1, horizontal=True, key="join.lifetime")
    with st.container(horizontal=True):
        asked = st.button("Create token", type="primary", icon=":material/key:", key="join.do")
        if st.button("Cancel", key="join.cancel"):
            _close()
    if not asked:
        return None
    try:
        return join_actions.make_token(context, name, kind, _LIFETIMES[lifetime]), name.strip(), kind
    except OpenKcmError as refused:
        draw_refusal(refused, "Token not created", "Your input is still here.")
        return None


def _draw_token(context: PageContext, made: MadeToken, service: str, kind: ServiceKind) -> None:
    st.warning(
        f"Valid once, for {service} only, until {moment(made.expires_at, context.now())}. It is not stored and cannot "
        "be shown again.",
        title="Copy the token now",
        icon=":material/key:",
    )
    st.code(made.token.text, language=None, wrap_lines=True)
    st.markdown("Run this command on the service's machine and paste the token when asked:")
    st.code(
        agent_command(context.addresses.enrolment, service, kind, folder_of(service)), language=None, wrap_lines=True
    )
    if st.button("Close", key="join.close"):
        _close()
