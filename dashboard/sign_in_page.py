"""The sign-in page, and the page that replaces a refused one."""

from typing import Literal

import httpx2
import streamlit as st

from core.errors.tenants import SessionEnded
from dashboard.auth.problems import OTHER_ACCOUNT, Way, problem_of
from dashboard.auth.routes import Route, RouteKind
from dashboard.components.formatting import plain
from dashboard.wiring import Dependencies
from openkcm.errors import OpenKcmError

_PROBE_SECONDS = 3.0


def draw(parts: Dependencies, route: Route) -> None:
    """Draw the sign-in page, without revealing whether the tenant exists."""
    st.set_page_config(page_title="Sign in · OpenKCM")
    st.title("OpenKCM")
    st.header("Customer Managed Key Service", divider="gray")
    if route.kind is RouteKind.SIGN_IN and st.user.is_logged_in:
        st.write("You are signed in.")
        st.link_button("Go to your page", "/", type="primary")
        return
    if route.kind is RouteKind.TENANT:
        st.write(f"Sign in to manage the encryption of **{route.tenant_id}**.")
    else:
        st.write("Sign in to manage your organization's encryption.")
    if st.button("Sign in with your platform account", type="primary", icon=":material/login:", key="sign-in"):
        if _answers(parts.metadata_url):
            st.login()
        else:
            st.error(
                "Sign-in is unavailable: your platform's single sign-on does not respond. Keys and services are "
                "not affected. Try again in a minute, or contact your platform's operator.",
                icon=":material/cloud_off:",
            )
    if parts.develops:
        st.info(
            "**Development sign-on.** Users are predefined and no password is required. Start at the [marketplace "
            "page](/marketplace/) to enable OpenKCM for an organization.",
            icon=":material/construction:",
        )


def draw_refusal(refused: OpenKcmError, *, operator: bool = False) -> None:
    """Draw why the page is not shown, and what to do next."""
    problem = problem_of(refused, operator=operator)
    st.set_page_config(page_title=f"{problem.title} · OpenKCM")
    st.title(problem.title)
    st.caption(f"{problem.status.value} {problem.status.phrase}")
    st.write(plain(problem.happened))
    st.write(plain(problem.advice))
    with st.container(horizontal=True):
        for number, way in enumerate(problem.ways):
            _draw_way(refused, way, number)


def _draw_way(refused: OpenKcmError, way: Way, number: int) -> None:
    kind: Literal["primary", "secondary"] = "secondary" if number else "primary"
    if way.target == OTHER_ACCOUNT:
        if st.button(way.label, type=kind, key=f"refused-way-{number}"):
            st.logout()
    elif way.target:
        st.link_button(way.label, way.target, type=kind)
    elif st.button(way.label, type=kind, key=f"refused-way-{number}"):
        if isinstance(refused, SessionEnded):
            st.login()
        else:
            st.rerun()


def _answers(metadata_url: str) -> bool:
    """Return whether the discovery document of the single sign-on is available; Streamlit would show a bare error."""
    try:
        return httpx2.get(metadata_url, timeout=_PROBE_SECONDS, follow_redirects=True).is_success
    except httpx2.HTTPError:
        return False
