"""What is seen before somebody is let in, and instead of a page when they are not."""

import httpx2
import streamlit as st

from core.errors.tenants import AccessDenied, SessionEnded
from dashboard.auth.routes import Route, RouteKind
from dashboard.components.formatting import said
from dashboard.components.tenant_status import sentence
from dashboard.wiring import Dependencies
from openkcm.errors import OpenKcmError

_PROBE_SECONDS = 3.0


def draw(parts: Dependencies, place: Route) -> None:
    """Offer to sign in; says nothing about whether there is such a tenant."""
    st.title("OpenKCM")
    st.header("Customer Managed Key Service", divider="gray")
    if place.kind is RouteKind.DOOR and st.user.is_logged_in:
        st.write("You are signed in.")
        st.link_button("Go to your page", "/", type="primary")
        return
    if place.kind is RouteKind.TENANT:
        st.write(f"Sign in to manage the encryption of **{place.tenant_id}**.")
    else:
        st.write("Sign in to manage your organization's encryption.")
    if st.button("Sign in with your platform account", type="primary", icon=":material/login:", key="sign-in"):
        if _answers(parts.metadata_url):
            st.login()
        else:
            st.error(
                "Your platform's single sign-on does not answer, so nobody can sign in now. "
                "Your keys and services are not affected. Try again in a minute, or tell your platform's operator.",
                icon=":material/cloud_off:",
            )
    if parts.develops:
        st.info(
            "**Development sign-on.** People are fixed and no password is asked. Start at the "
            "[marketplace page](/marketplace/) to enable OpenKCM for an organization.",
            icon=":material/construction:",
        )


def draw_refusal(refused: OpenKcmError) -> None:
    """Say why nothing is shown, and what to do."""
    if isinstance(refused, SessionEnded):
        st.title("Your session has ended")
        st.write("You signed out in another tab, or did not use this one for a while.")
        if st.button("Sign in again", type="primary", key="sign-in-again"):
            st.login()
    elif isinstance(refused, AccessDenied):
        st.title("403 · You cannot open this page")
        st.write(said(refused))
        st.link_button("Go to your own page", "/")
    else:
        st.title("This page cannot be shown now")
        st.error(
            f"{sentence(refused.message)} Your services go on encrypting with what they hold; "
            "nothing was changed. Try again in a minute.",
            icon=":material/cloud_off:",
        )


def _answers(metadata_url: str) -> bool:
    """Return whether the single sign-on describes itself; Streamlit itself would show a bare error."""
    try:
        return httpx2.get(metadata_url, timeout=_PROBE_SECONDS, follow_redirects=True).is_success
    except httpx2.HTTPError:
        return False
