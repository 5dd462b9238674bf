"""What a tenant asks of its keys: how old they may become.

The bounds keep a key within the cryptoperiods of NIST SP 800-57 part 1 (5.3.6:
about a year for a key that wraps others, at most two for one that encrypts) and a tenant from rotating without end.
"""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

TenantKeyDays = Annotated[int, Field(ge=30, le=730)]
ServiceKeyDays = Annotated[int, Field(ge=7, le=365)]


class TenantPolicy(BaseModel):
    """A tenant's own choice, or the defaults; days."""

    model_config = ConfigDict(frozen=True)

    tenant_key_days: TenantKeyDays = 365
    service_key_days: ServiceKeyDays = 90

    @property
    def tenant_key_age(self) -> timedelta:
        """How old a version of the tenant key (L2) becomes before it is rotated."""
        return timedelta(days=self.tenant_key_days)

    @property
    def service_key_age(self) -> timedelta:
        """How old a version of a service key (L3) becomes before it is rotated."""
        return timedelta(days=self.service_key_days)
