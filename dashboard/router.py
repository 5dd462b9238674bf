"""One rerun: where is the browser, who sits there, which pages are theirs. Nothing is drawn before the guard agreed.

Which pages lie at which place. Title, icon, path and page of each; the first has the place's own path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import streamlit as st

from core.errors.platform import DatabaseUnavailable
from core.errors.tenants import AccessDenied, SessionEnded
from dashboard import sign_in_page as front_door
from dashboard import wiring
from dashboard.audit import page as audit
from dashboard.auth.authorization import SessionAuthorizer
from dashboard.auth.claims import Session
from dashboard.auth.middleware import PLACE_HEADER, SOURCE_HEADER
from dashboard.auth.routes import Route, RouteKind, named
from dashboard.keys import page as keys
from dashboard.offboarding import section as left
from dashboard.operations import page as operations
from dashboard.overview import page as overview
from dashboard.page_context import PageContext
from dashboard.reports import page as compliance
from dashboard.services import page as services
from dashboard.settings import page as settings
from dashboard.usage import page as usage
from dashboard.wiring import Dependencies
from openkcm.errors import OpenKcmError

_ASSETS = Path(__file__).with_name("assets")
_WATCH_SECONDS = 3


@dataclass(frozen=True, slots=True)
class NavPage:
    """A page of a place; `path` is its part of the address, empty for the first."""

    title: str
    icon: str
    path: str
    draw: Callable[[PageContext], None]


TENANT = (
    NavPage("Overview", ":material/dashboard:", "", overview.draw),
    NavPage("Keys", ":material/key:", "keys", keys.draw),
    NavPage("Services", ":material/hub:", "services", services.draw),
    NavPage("Usage", ":material/bar_chart:", "usage", usage.draw),
    NavPage("Compliance", ":material/verified_user:", "compliance", compliance.draw),
    NavPage("Audit", ":material/fact_check:", "audit", audit.draw),
    NavPage("Settings", ":material/tune:", "settings", settings.draw),
)


OPERATIONS = (NavPage("Operations", ":material/monitoring:", "", operations.draw),)


_ENTRIES = {RouteKind.TENANT: TENANT, RouteKind.OPERATIONS: OPERATIONS}


def draw() -> None:
    """Draw what the browser that asked may see."""
    st.set_page_config(page_title="OpenKCM", page_icon=str(_ASSETS / "icon.svg"), layout="wide")
    st.logo(str(_ASSETS / "wordmark.svg"), icon_image=str(_ASSETS / "icon.svg"))
    parts = wiring.parts()
    place = named(st.context.headers.get(PLACE_HEADER, ""))
    if place is None:
        st.stop()
    elif place.kind is RouteKind.MARKETPLACE and parts.development is not None:
        # Nobody is anybody here: whether a browser is signed in makes no difference and is not looked at.
        _draw_alone(place, parts.development.draw_marketplace)
    elif place.kind is RouteKind.DOOR or not st.user.is_logged_in:
        _draw_alone(place, partial(front_door.draw, parts, place))
    else:
        _draw_signed_in(parts, place)


def _draw_alone(place: Route, draws: Callable[[], None]) -> None:
    """Draw something in the stead of a place's pages, at each of their addresses, and without a menu.

    Without `st.navigation` Streamlit makes a menu of its own of the folder `pages`, for whoever comes by.
    """
    paths = [entry.path for entry in _ENTRIES.get(place.kind, ())] or [""]
    pages = [st.Page(draws, title="OpenKCM", url_path=path, default=not path) for path in paths]
    st.navigation(pages, position="hidden").run()


def _draw_signed_in(parts: Dependencies, place: Route) -> None:
    source = st.context.headers.get(SOURCE_HEADER, "")
    try:
        sign_on = parts.guard.admit(st.user.to_dict(), place, st.query_params.to_dict(), source)
        entries = LEFT if parts.guard.has_left(sign_on) else _ENTRIES[place.kind]
    except (AccessDenied, SessionEnded, DatabaseUnavailable) as refused:
        _draw_alone(place, partial(front_door.draw_refusal, refused))
        st.stop()
    seat = parts.seat(sign_on, source)
    chosen = st.navigation(
        [
            st.Page(
                partial(_draw_page, entry, seat),
                title=entry.title,
                icon=entry.icon,
                url_path=entry.path,
                default=not entry.path,
            )
            for entry in entries
        ]
    )
    with st.sidebar:
        _draw_person(parts, sign_on, source)
    _watch(parts.guard, sign_on)
    chosen.run()


def _draw_page(entry: NavPage, seat: PageContext) -> None:
    """Draw a page; what it could not do is said in its own words, and what it did not foresee stays ours to look up."""
    try:
        entry.draw(seat)
    except DatabaseUnavailable as down:
        front_door.draw_refusal(down)


def _draw_person(parts: Dependencies, sign_on: Session, source: str) -> None:
    person = sign_on.person
    st.caption(f"{person.name} · {', '.join(sorted(role.replace('-', ' ') for role in person.roles))}")
    if st.button("Sign out", icon=":material/logout:", key="sign-out", width="stretch"):
        try:
            parts.guard.end(sign_on, source)
        except OpenKcmError as failed:
            # Signing out of this browser must work all the same; the session ends by itself when it is idle.
            st.warning(f"{failed.message}. {failed.hint}.")
        st.logout()


@st.fragment(run_every=_WATCH_SECONDS)
def _watch(guard: SessionAuthorizer, sign_on: Session) -> None:
    """Notice in every open tab that the session was ended in one of them."""
    if guard.has_ended(sign_on):
        st.rerun()


LEFT = (NavPage("Farewell", ":material/waving_hand:", "", left.draw), TENANT[5])
"""Of a tenant that has left there is nothing else to look at: everything that the other pages show is erased."""
