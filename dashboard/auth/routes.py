"""The route of a request, from the path alone: a tenant, operations, the development marketplace, the sign-in page.

Every route is the root of the whole Streamlit application (`/tenant/<tenant_id>/`, and `/tenant/<tenant_id>/keys` for a
page of it). Assets, downloads and the socket of a route are below it. So every handler reads the tenant from the
request line, which no widget, query or script can change.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from openkcm.contract.names import parse_tenant_id
from openkcm.errors import IllegalTenantId

TENANTS = "tenant"


class RouteKind(StrEnum):
    TENANT = TENANTS
    OPERATIONS = "operations"
    MARKETPLACE = "marketplace"
    SIGN_IN = "sign-in"


@dataclass(frozen=True, slots=True)
class Route:
    kind: RouteKind
    tenant_id: str = ""

    @property
    def root(self) -> str:
        """The path prefix of everything in this route, without a trailing slash."""
        return f"/{self.kind}/{self.tenant_id}" if self.tenant_id else f"/{self.kind}"


SIGN_IN = Route(RouteKind.SIGN_IN)
OPERATIONS = Route(RouteKind.OPERATIONS)
MARKETPLACE = Route(RouteKind.MARKETPLACE)
DEVELOPMENT_SIGN_ON = "/dev-sign-on"
"""Path of the sign-on of the development stack."""


PAGES: Mapping[RouteKind, frozenset[str]] = MappingProxyType(
    {
        RouteKind.TENANT: frozenset({"", "keys", "services", "approvals", "usage", "compliance", "audit", "settings"}),
        RouteKind.OPERATIONS: frozenset({""}),
        RouteKind.MARKETPLACE: frozenset({""}),
        RouteKind.SIGN_IN: frozenset({""}),
    }
)
"""The pages of each route by their path; every other path of a route is not found. The router draws them."""

TENANT_PARAMETER = "tenant"
"""No page reads a tenant from the query; such a parameter is an attempt to find one that does."""

_SIGNED_IN = frozenset({RouteKind.TENANT, RouteKind.OPERATIONS})
_LONGEST_ADDRESS = 1000
_MOST_VALUES = 50
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class PageAddress:
    """A page of a route that requires a session, with the values of its address (its query, encoded)."""

    route: Route
    page: str = ""
    query: str = ""

    @property
    def url(self) -> str:
        """The address below this server, beginning with one slash."""
        return f"{self.route.root}/{self.page}{'?' if self.query else ''}{self.query}"


def of_tenant(tenant_id: str) -> Route:
    """Return the route of a tenant."""
    return Route(RouteKind.TENANT, tenant_id)


def find(path: str) -> tuple[Route, str] | None:
    """Return the route of a path and the remaining path (empty, or with a leading slash); None for an unknown path."""
    first, _, rest = path.removeprefix("/").partition("/")
    inner = f"/{rest}" if path.removeprefix("/") != first else ""
    if first != TENANTS:
        return next(((route, inner) for route in (OPERATIONS, MARKETPLACE, SIGN_IN) if route.kind == first), None)
    tenant_id, _, _ = rest.partition("/")
    try:
        route = of_tenant(parse_tenant_id(tenant_id))
    except IllegalTenantId:
        return None
    return route, rest.removeprefix(tenant_id)


def named(root: str) -> Route | None:
    """Return the route with this root, None for anything else."""
    found = find(root)
    return found[0] if found is not None and not found[1] else None


def page_address(url: str, origin: str) -> PageAddress | None:
    """Return the page of a complete address (`<origin>/tenant/<tenant_id>/keys?service=ledger`).

    Return None for everything that is no page for signed-in users: another origin, an unknown route or page, a path
    with encoded characters, and an address that is too long. A query that no page would write is dropped.
    """
    if len(url) > _LONGEST_ADDRESS or not url.startswith(f"{origin}/") or not url.isprintable():
        return None
    parts = urlsplit(url)
    if "%" in parts.path or "\\" in parts.path:
        return None
    found = find(parts.path)
    if found is None or found[0].kind not in _SIGNED_IN:
        return None
    route, inner = found
    page = inner.removeprefix("/")
    return PageAddress(route, page, _plain_query(parts.query)) if inner and page in PAGES[route.kind] else None


def write_return(page: PageAddress) -> str:
    """Return the page as the value of a cookie."""
    return quote(page.url, safe="")


def read_return(value: str, origin: str) -> PageAddress | None:
    """Return the page in a cookie, which the browser may have changed; None for anything but a page."""
    return page_address(f"{origin}{unquote(value)}", origin) if len(value) <= 3 * _LONGEST_ADDRESS else None


def _plain_query(query: str) -> str:
    """Return a query, encoded again; empty if it has a value that no page of ours would write."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_VALUES)
    except ValueError:
        return ""
    usual = all(_NAME.fullmatch(name) and name != TENANT_PARAMETER and value.isprintable() for name, value in pairs)
    return urlencode(pairs) if usual else ""
