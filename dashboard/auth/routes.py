"""The route of a request, from the path alone: a tenant, operations, the development marketplace, the sign-in page.

Every route is the root of the whole Streamlit application (`/tenant/<tenant_id>/`, and `/tenant/<tenant_id>/keys` for a
page of it). Assets, downloads and the socket of a route are below it. So every handler reads the tenant from the
request line, which no widget, query or script can change.
"""

from dataclasses import dataclass
from enum import StrEnum

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
