"""Policy of a tenant: cryptoperiods, actions that need a second person, revoked KMIP keys, and resources in the audit.

The upper bounds follow the cryptoperiods of NIST SP 800-57 part 1 (5.3.6: about a year for a key that wraps others, at
most two years for a key that encrypts). The lower bounds prevent continuous rotation.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from core.errors.tenants import PolicyRefused
from core.tenants.approvals import Action, Argument

TENANT_KEY_BOUNDS = (30, 730)
SERVICE_KEY_BOUNDS = (7, 365)

TenantKeyDays = Annotated[int, Field(ge=TENANT_KEY_BOUNDS[0], le=TENANT_KEY_BOUNDS[1])]
ServiceKeyDays = Annotated[int, Field(ge=SERVICE_KEY_BOUNDS[0], le=SERVICE_KEY_BOUNDS[1])]


class TenantPolicy(BaseModel):
    """The cryptoperiods are in days; defaults until the tenant sets its own."""

    model_config = ConfigDict(frozen=True)

    tenant_key_days: TenantKeyDays = 365
    service_key_days: ServiceKeyDays = 90
    four_eyes: frozenset[Action] = frozenset()
    revoked_keys_readable: bool = False
    """Whether services may get deactivated and compromised KMIP objects, as the specification permits.

    They then keep access to the keys that were revoked, until these are destroyed.
    """
    resources_recorded: bool = False
    """Whether audit records of key operations name the resource or object, instead of a count for each service.

    One record for each resource and second costs audit volume, and a resource name may be personal data.
    """

    @property
    def tenant_key_age(self) -> timedelta:
        """Age at which a version of the tenant key (L2) is rotated."""
        return timedelta(days=self.tenant_key_days)

    @property
    def service_key_age(self) -> timedelta:
        """Age at which a version of a service key (L3) is rotated."""
        return timedelta(days=self.service_key_days)

    def wants_two_for(self, action: Action) -> bool:
        """Return whether an action needs a second person.

        A change of the policy needs one if any action does; otherwise one person could remove the rule first.
        """
        return action in self.four_eyes or (action is Action.CHANGE_POLICY and bool(self.four_eyes))

    def as_argument(self) -> Argument:
        """Return the policy as the argument of an approval; equal policies give equal arguments."""
        return {
            "tenant_key_days": self.tenant_key_days,
            "service_key_days": self.service_key_days,
            "four_eyes": list[JsonValue](sorted(self.four_eyes)),
            "revoked_keys_readable": self.revoked_keys_readable,
            "resources_recorded": self.resources_recorded,
        }

    def in_words(self) -> str:
        """Return the policy as one line for the audit record."""
        two = ", ".join(sorted(self.four_eyes)) or "nothing"
        revoked = "readable" if self.revoked_keys_readable else "not readable"
        resources = "recorded" if self.resources_recorded else "not recorded"
        return (
            f"tenant key {self.tenant_key_days} d, service keys {self.service_key_days} d, two people for {two}, "
            f"revoked KMIP keys {revoked}, resources {resources}"
        )


_RULES = {
    "tenant_key_days": "tenant key days: {} to {}".format(*TENANT_KEY_BOUNDS),
    "service_key_days": "service key days: {} to {}".format(*SERVICE_KEY_BOUNDS),
    "four_eyes": f"two people: any of {', '.join(Action)}",
}


def parse_policy(
    tenant_key_days: int,
    service_key_days: int,
    four_eyes: Iterable[str],
    *,
    revoked_keys_readable: bool = False,
    resources_recorded: bool = False,
) -> TenantPolicy:
    """Return a policy; raises PolicyRefused with the bounds of each invalid value."""
    try:
        return TenantPolicy.model_validate(
            {
                "tenant_key_days": tenant_key_days,
                "service_key_days": service_key_days,
                "four_eyes": frozenset(four_eyes),
                "revoked_keys_readable": revoked_keys_readable,
                "resources_recorded": resources_recorded,
            }
        )
    except ValidationError as wrong:
        fields = dict.fromkeys(str(error["loc"][0]) for error in wrong.errors(include_input=False))
        raise PolicyRefused(hint="; ".join(_RULES.get(field, field) for field in fields)) from None
