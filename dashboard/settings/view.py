"""The page Settings as values: what can be chosen, within which bounds, and what each choice means."""

from dataclasses import dataclass

from core.tenants.approvals import Action
from core.tenants.policy import SERVICE_KEY_BOUNDS, TENANT_KEY_BOUNDS, TenantPolicy
from dashboard.approvals.view import WORDS


@dataclass(frozen=True, slots=True)
class Age:
    """How old a kind of key may become; `field` is the policy's."""

    field: str
    label: str
    bounds: tuple[int, int]
    happens: str


AGES = (
    Age(
        "tenant_key_days",
        "Days until the tenant key (L2) is rotated",
        TENANT_KEY_BOUNDS,
        "It gets a new version and every service key is wrapped anew under it. Your data is not encrypted anew and no "
        "service is interrupted.",
    ),
    Age(
        "service_key_days",
        "Days until a service key (L3) is rotated",
        SERVICE_KEY_BOUNDS,
        "The service encrypts with a new version from then on; what was encrypted before still opens.",
    ),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """An action for which two people can be wanted."""

    action: Action
    title: str
    why: str


CHOICES = tuple(Choice(action, WORDS[action].title, WORDS[action].why) for action in Action)

WARNING = (
    "Make sure that at least two people of your organization who manage keys can sign in. Nobody of the platform can "
    "stand in for the second one, and taking this back takes two of you as well."
)


def value_of(policy: TenantPolicy, age: Age) -> int:
    """Return how old this kind of key may become now."""
    return policy.tenant_key_days if age.field == "tenant_key_days" else policy.service_key_days


def rule(age: Age) -> str:
    """Return the bounds and what happens at that age."""
    least, most = age.bounds
    return f"{least} to {most} days. {age.happens}"
