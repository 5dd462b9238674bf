"""The page Settings as values: options, bounds and meanings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.tenants.approvals import Action
from core.tenants.policy import SERVICE_KEY_BOUNDS, TENANT_KEY_BOUNDS, TenantPolicy
from dashboard.approvals.view import WORDS
from dashboard.components.formatting import count


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


REVOKED_KEY = "settings.revoked_keys_readable"
RESOURCES_KEY = "settings.resources_recorded"


def age_key(age: Age) -> str:
    """Return the key of the field of a maximum age."""
    return f"settings.{age.field}"


def choice_key(action: Action) -> str:
    """Return the key of the checkbox of an action."""
    return f"settings.two.{action}"


def fields(policy: TenantPolicy) -> Mapping[str, int | bool]:
    """Return the value of each field of the form for a policy, by the key of its widget."""
    return {
        **{age_key(age): _days(policy, age) for age in AGES},
        **{choice_key(action): action in policy.four_eyes for action in Action},
        REVOKED_KEY: policy.revoked_keys_readable,
        RESOURCES_KEY: policy.resources_recorded,
    }


def _days(policy: TenantPolicy, age: Age) -> int:
    return policy.tenant_key_days if age.field == "tenant_key_days" else policy.service_key_days


def wanted(policy: TenantPolicy, form: Mapping[str, int | bool]) -> TenantPolicy:
    """Return the policy that the values of the form describe.

    While another action requires approval, the change of the policy does too and its checkbox has no choice, so the
    stored choice is kept.
    """
    four_eyes = frozenset(action for action in Action if form[choice_key(action)])
    if is_implied(form) and Action.CHANGE_POLICY not in policy.four_eyes:
        four_eyes -= {Action.CHANGE_POLICY}
    days = {age.field: int(form[age_key(age)]) for age in AGES}
    flags = {"revoked_keys_readable": bool(form[REVOKED_KEY]), "resources_recorded": bool(form[RESOURCES_KEY])}
    return policy.model_copy(update={**days, **flags, "four_eyes": four_eyes})


def is_implied(form: Mapping[str, int | bool]) -> bool:
    """Return whether the form requires approval for a change of the policy because of another action."""
    return any(form[choice_key(action)] for action in Action if action is not Action.CHANGE_POLICY)


def unsaved(changes: Sequence[str]) -> str:
    """Return the text about changes that are not saved: `2 unsaved changes: …`."""
    return f"**{count(len(changes), 'unsaved change')}:** {'; '.join(changes)}"


def rule(age: Age) -> str:
    """Return the bounds and the effect of a rotation."""
    least, most = age.bounds
    return f"{least} to {most} days. {age.happens}"
