"""One rerun: resolve the route, authorize the user, draw the page. Nothing is drawn before authorization.

Also the pages of each route: title, icon, path and function. The first page has the path of the route.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import streamlit as st

from core.errors.platform import DatabaseUnavailable
from core.errors.tenants import AccessDenied, SessionEnded
from core.tenants.lifecycle import State
from dashboard import sign_in_page, wiring
from dashboard.approvals import page as approvals
from dashboard.audit import page as audit
from dashboard.auth.claims import Session
from dashboard.auth.middleware import PLACE_HEADER, SOURCE_HEADER
from dashboard.auth.routes import OPERATIONS as OPERATIONS_ROUTE
from dashboard.auth.routes import Route, RouteKind, named
from dashboard.components.address import keep_query, restore_query
from dashboard.components.formatting import plain
from dashboard.components.help import draw_help
from dashboard.components.navigation import Navigation
from dashboard.components.session_notice import draw_session_notice
from dashboard.keys import page as keys
from dashboard.offboarding import section as offboarding
from dashboard.operations import page as operations
from dashboard.overview import page as overview
from dashboard.page_context import PageContext
from dashboard.reports import page as compliance
from dashboard.services import page as services
from dashboard.settings import page as settings
from dashboard.usage import page as usage
from dashboard.wiring import Dependencies
from database.tenants import TenantRow
from openkcm.errors import OpenKcmError

_ASSETS = Path(__file__).with_name("assets")
_WATCH_SECONDS = 2
_FAILED = "router-failed"
"""Session state: the outage that a page has met. The next run shows it in place of the page and reads nothing."""


@dataclass(frozen=True, slots=True)
class NavPage:
    """A page of a route; `path` is its part of the address (auth/routes.py), empty for the first.

    Its help is the section of docs/dashboard.md with its title.
    """

    title: str
    icon: str
    path: str
    draw: Callable[[PageContext], None]
    number: Callable[[PageContext], int] | None = None
    """Returns the number that follows the title when it is not 0: what waits for the user on the page."""


TENANT = (
    NavPage("Overview", ":material/dashboard:", "", overview.draw),
    NavPage("Keys", ":material/key:", "keys", keys.draw),
    NavPage("Services", ":material/hub:", "services", services.draw),
    NavPage("Approvals", ":material/group:", approvals.PATH, approvals.draw, approvals.number_waiting),
    NavPage("Usage", ":material/bar_chart:", "usage", usage.draw),
    NavPage("Compliance", ":material/verified_user:", "compliance", compliance.draw),
    NavPage("Audit", ":material/fact_check:", "audit", audit.draw),
    NavPage("Settings", ":material/tune:", "settings", settings.draw),
)


OPERATIONS = (NavPage("Operations", ":material/monitoring:", "", operations.draw),)


_ENTRIES = {RouteKind.TENANT: TENANT, RouteKind.OPERATIONS: OPERATIONS}


def draw() -> None:
    """Draw the page for the request of the browser."""
    st.set_page_config(page_title="OpenKCM", page_icon=str(_ASSETS / "icon.svg"), layout="wide")
    st.logo(str(_ASSETS / "wordmark.svg"), icon_image=str(_ASSETS / "icon.svg"))
    parts = wiring.parts()
    route = named(st.context.headers.get(PLACE_HEADER, ""))
    if route is None:
        st.stop()
    elif route.kind is RouteKind.MARKETPLACE and parts.development is not None:
        # This page has no users: whether a browser is signed in makes no difference and is not checked.
        _draw_alone(route, parts.development.draw_marketplace)
    elif route.kind is RouteKind.SIGN_IN or not st.user.is_logged_in:
        _draw_alone(route, partial(sign_in_page.draw, parts, route))
    else:
        _draw_signed_in(parts, route)


def _draw_alone(route: Route, draws: Callable[[], None]) -> None:
    """Draw something instead of the pages of a route, at each of their addresses, without a menu.

    Without `st.navigation` Streamlit would show a menu of the folder `pages` to every visitor.
    """
    paths = [entry.path for entry in _ENTRIES.get(route.kind, ())] or [""]
    pages = [st.Page(draws, title="OpenKCM", url_path=path, default=not path) for path in paths]
    st.navigation(pages, position="hidden").run()


def _draw_signed_in(parts: Dependencies, route: Route) -> None:
    source = st.context.headers.get(SOURCE_HEADER, "")
    try:
        _require_readable()
        with st.spinner("Loading…"):  # appears while the database is slow: a changed page is blank until then
            sign_on = parts.guard.admit(st.user.to_dict(), route, st.query_params.to_dict(), source)
            tenant = parts.guard.tenant(sign_on)
    except (AccessDenied, SessionEnded, DatabaseUnavailable) as refused:
        _draw_alone(route, partial(_draw_refusal, parts, route, refused))
        st.stop()
    entries = LEFT if tenant is not None and tenant.state is State.OFFBOARDED else _ENTRIES[route.kind]
    pages: dict[str, st.Page] = {}
    context = parts.page_context(sign_on, source, Navigation(pages))
    for entry in entries:
        pages[entry.path] = st.Page(
            partial(_draw_page, entry, context),
            title=_title(entry, context),
            icon=entry.icon,
            url_path=entry.path,
            default=not entry.path,
        )
    # Without sections: Streamlit puts their titles into the list as elements that a screen reader cannot count.
    chosen = st.navigation(list(pages.values()))
    [entry] = [entry for entry in entries if entry.path == chosen.url_path]
    _set_title(entry.title, _organization(tenant, sign_on))
    restore_query(entry.path)
    with st.sidebar:
        _draw_person(sign_on, tenant)
        draw_help(entry.title, parts.settings.documentation_url)
    _watch(parts, sign_on, source)
    chosen.run()


def _title(entry: NavPage, context: PageContext) -> str:
    number = 0
    if entry.number is not None:
        with suppress(DatabaseUnavailable):  # the page itself reports it
            number = entry.number(context)
    return f"{entry.title} ({number})" if number else entry.title


def _require_readable() -> None:
    """Raise the outage that the page has met in the run before."""
    failed = st.session_state.pop(_FAILED, None)
    if failed is not None:
        raise DatabaseUnavailable(*failed)


def _organization(tenant: TenantRow | None, sign_on: Session) -> str:
    """Return the name of the user's organization; empty for an operator."""
    if sign_on.person.is_operator:
        return ""
    return sign_on.person.tenant_id if tenant is None else tenant.organization


def _set_title(*parts: str) -> None:
    """Set the title of the browser's tab: `Keys · ACME Corporation · OpenKCM`."""
    st.set_page_config(page_title=" · ".join([*filter(None, parts), "OpenKCM"]))


def _draw_page(entry: NavPage, context: PageContext) -> None:
    """Draw a page. Unexpected errors are only logged, so that no detail is shown."""
    try:
        entry.draw(context)
    except DatabaseUnavailable as down:
        # A new run, because what the page has drawn so far may no longer be true.
        st.session_state[_FAILED] = down.message, down.hint
        st.rerun()


def _draw_refusal(parts: Dependencies, route: Route, refused: OpenKcmError) -> None:
    sign_in_page.draw_refusal(refused, operator=route == OPERATIONS_ROUTE)
    if isinstance(refused, DatabaseUnavailable):
        _retry(parts, time.monotonic())


@st.fragment(run_every=_WATCH_SECONDS)
def _retry(parts: Dependencies, drawn_at: float) -> None:
    """Draw the page again once its data is available; not in the run that has just failed."""
    if time.monotonic() - drawn_at > _WATCH_SECONDS / 2 and not parts.readiness.is_unavailable:
        st.rerun()


def _draw_person(sign_on: Session, tenant: TenantRow | None) -> None:
    person = sign_on.person
    if organization := _organization(tenant, sign_on):
        st.markdown(f"**{plain(organization)}**")
    if tenant is not None:
        st.caption(plain(f"{tenant.tenant_id} · {tenant.region}"))
    roles = ", ".join(sorted(role.replace("-", " ") for role in person.roles))
    st.caption(plain(f"{person.name} · {roles}"))
    if st.button("Sign out", icon=":material/logout:", key="sign-out", width="stretch"):
        st.logout()  # the middleware ends the session


@st.fragment(run_every=_WATCH_SECONDS)
def _watch(parts: Dependencies, sign_on: Session, source: str) -> None:
    """Detect in every open tab that the session was ended in another, is about to end, or that nothing can be read."""
    keep_query()
    try:
        ends_at = parts.guard.ends_at(sign_on)
    except DatabaseUnavailable:
        if parts.readiness.is_unavailable:
            st.rerun()
        return
    if ends_at is None:
        st.rerun()
    draw_session_notice(
        ends_at,
        sign_on.expires_at,
        parts.guard.now(),
        parts.guard.idle,
        lambda: _stay(parts, sign_on, source),
    )


def _stay(parts: Dependencies, sign_on: Session, source: str) -> None:
    """Count as activity; a failure shows at the next poll."""
    with suppress(DatabaseUnavailable):
        parts.guard.holds(sign_on, source)


LEFT = (
    NavPage("Tenant closed", ":material/domain_disabled:", "", offboarding.draw),
    next(entry for entry in TENANT if entry.path == "audit"),
)
"""Pages of an offboarded tenant: the data of all other pages is erased."""
