"""Names that client and server agree on: tenants, services and their SPIFFE IDs."""

import re

from openkcm.errors import IllegalTenantId, InvalidName

TENANT_ID_PATTERN = r"^[a-z0-9][a-z0-9-]{2,39}$"
TENANT_DOMAIN = "tenants.openkcm.internal"
RESERVED_PREFIX = "openkcm-"

_TENANT_ID = re.compile(r"[a-z0-9][a-z0-9-]{2,39}")
_SERVICE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


def parse_tenant_id(text: str) -> str:
    """Return the marketplace account id unchanged when it may name a tenant.

    Raises:
        IllegalTenantId: it does not match `TENANT_ID_PATTERN` or has the platform's prefix `openkcm-`.
    """
    if not _TENANT_ID.fullmatch(text) or text.startswith(RESERVED_PREFIX):
        raise IllegalTenantId
    return text


def parse_service_name(text: str) -> str:
    """Return the name of a customer's service unchanged when a certificate may contain it."""
    if not _SERVICE_NAME.fullmatch(text):
        raise InvalidName("service name", "1 to 40 lower-case letters, digits and hyphens, not starting with a hyphen")
    return text


def tenant_dns(tenant_id: str) -> str:
    """Return the DNS name to which the tenant CA is constrained and which each leaf contains."""
    return f"{tenant_id}.{TENANT_DOMAIN}"


def service_spiffe(tenant_id: str, service: str) -> str:
    """Return the SPIFFE URI of one service; it never determines the tenant (the issuer does)."""
    return f"spiffe://{tenant_dns(tenant_id)}/service/{service}"
