"""The page Settings as values: options, bounds and meanings."""

from dataclasses import dataclass

from core.tenants.approvals import Action
from core.tenants.policy import SERVICE_KEY_BOUNDS, TENANT_KEY_BOUNDS, TenantPolicy
from dashboard.approvals.view import WORDS


@dataclass(frozen=True, slots=True)
class Age:
    """Maximum age of a kind of key; `field` is the field of the policy."""

    field: str
    label: str
    bounds: tuple[int, int]
    happens: str


AGES = (
    Age(
        "tenant_key_days",
        "Tenant key (L2) rotation, in days",
        TENANT_KEY_BOUNDS,
        "The tenant key gets a new version and every service key is re-wrapped. Your data is not re-encrypted and "
        "no service is interrupted.",
    ),
    Age(
        "service_key_days",
        "Service key (L3) rotation, in days",
        SERVICE_KEY_BOUNDS,
        "The service encrypts with a new version; older versions continue to decrypt.",
    ),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """An action for which approval can be required."""

    action: Action
    title: str
    why: str


CHOICES = tuple(Choice(action, WORDS[action].title, WORDS[action].why) for action in Action)

WARNING = (
    "Make sure that at least two key administrators of your organization can sign in. The platform cannot replace "
    "the second one, and turning this off requires approval as well."
)

REVOKED_KEYS_LABEL = "Services may still get revoked KMIP keys"
REVOKED_KEYS = (
    "Storage that reads old data needs keys that were deactivated or reported as compromised. While this is on, "
    "revoking a KMIP key does not stop its service from getting it; destroying it does."
)

RESOURCES_LABEL = "Record the resource or object of each key operation"
RESOURCES = (
    "While this is off, a record counts the key operations of a service in a second. While it is on, each resource and "
    "second has a record, so that the Audit page can show who read what. This increases the audit volume up to one "
    "record for each operation, and a resource name may be personal data that stays in the audit stream. Records "
    "before the change stay as they are."
)


def value_of(policy: TenantPolicy, age: Age) -> int:
    """Return the configured maximum age of this kind of key."""
    return policy.tenant_key_days if age.field == "tenant_key_days" else policy.service_key_days


def rule(age: Age) -> str:
    """Return the bounds and the effect of a rotation."""
    least, most = age.bounds
    return f"{least} to {most} days. {age.happens}"
