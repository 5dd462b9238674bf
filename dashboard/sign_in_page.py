"""The sign-in page, and the page that replaces a refused one."""

import httpx2
import streamlit as st

from core.errors.tenants import AccessDenied, SessionEnded
from dashboard.auth.routes import Route, RouteKind
from dashboard.components.formatting import said
from dashboard.components.tenant_status import sentence
from dashboard.wiring import Dependencies
from openkcm.errors import OpenKcmError

_PROBE_SECONDS = 3.0


def draw(parts: Dependencies, route: Route) -> None:
    """Draw the sign-in page, without revealing whether the tenant exists."""
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


def draw_refusal(refused: OpenKcmError) -> None:
    """Draw why the page is not shown, and what to do next."""
    if isinstance(refused, SessionEnded):
        st.title("Your session has ended")
        st.write("You signed out in another tab, or the session was idle for too long.")
        if st.button("Sign in again", type="primary", key="sign-in-again"):
            st.login()
    elif isinstance(refused, AccessDenied):
        st.title("403 · Access denied")
        st.write(said(refused))
        st.link_button("Go to your page", "/")
    else:
        st.title("Page unavailable")
        st.error(
            f"{sentence(refused.message)} Services continue to use the keys they hold; nothing was changed. Try "
            "again in a minute.",
            icon=":material/cloud_off:",
        )


def _answers(metadata_url: str) -> bool:
    """Return whether the discovery document of the single sign-on is available; Streamlit would show a bare error."""
    try:
        return httpx2.get(metadata_url, timeout=_PROBE_SECONDS, follow_redirects=True).is_success
    except httpx2.HTTPError:
        return False
