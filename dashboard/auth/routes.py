"""Where a browser is, told by the path alone: a tenant, the operators' desk, the development marketplace, the door.

Every place is the root of the whole Streamlit application (`/tenant/<tenant_id>/`, and `/tenant/<tenant_id>/keys` for a
page of it), so that assets, downloads and the socket of a place lie beneath it. Whoever answers a request therefore
knows its tenant from the request line, which no widget, query or script can change.
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
    DOOR = "sign-in"


@dataclass(frozen=True, slots=True)
class Route:
    kind: RouteKind
    tenant_id: str = ""

    @property
    def root(self) -> str:
        """The path under which everything of this place lies, without a slash at its end."""
        return f"/{self.kind}/{self.tenant_id}" if self.tenant_id else f"/{self.kind}"


DOOR = Route(RouteKind.DOOR)
OPERATIONS = Route(RouteKind.OPERATIONS)
MARKETPLACE = Route(RouteKind.MARKETPLACE)
DEVELOPMENT_SIGN_ON = "/dev-sign-on"
"""Path of the sign-on of the development stack."""


def of_tenant(tenant_id: str) -> Route:
    """Return a tenant's place."""
    return Route(RouteKind.TENANT, tenant_id)


def find(path: str) -> tuple[Route, str] | None:
    """Return the place of a path and what remains of it (empty, or beginning with a slash); None when there is none."""
    first, _, rest = path.removeprefix("/").partition("/")
    inner = f"/{rest}" if path.removeprefix("/") != first else ""
    if first != TENANTS:
        return next(((place, inner) for place in (OPERATIONS, MARKETPLACE, DOOR) if place.kind == first), None)
    tenant_id, _, _ = rest.partition("/")
    try:
        place = of_tenant(parse_tenant_id(tenant_id))
    except IllegalTenantId:
        return None
    return place, rest.removeprefix(tenant_id)


def named(root: str) -> Route | None:
    """Return the place whose root this is, None for anything else."""
    found = find(root)
    return found[0] if found is not None and not found[1] else None
