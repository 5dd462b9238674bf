"""Who signs on to the dashboard and what they may do; the single sign-on says the role, this page says its meaning."""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from openkcm.contract.names import RESERVED_PREFIX

OPERATORS = f"{RESERVED_PREFIX}operators"
"""Under this id lie the sessions of operators and the record of what they did; it can never be a tenant's."""


class PersonRole(StrEnum):
    """What the sign-on calls somebody; the first three work for a customer, the last one for the platform."""

    ADMINISTRATOR = "administrator"
    KEY_ADMINISTRATOR = "key-administrator"
    AUDITOR = "auditor"
    OPERATOR = "operator"


class Permission(StrEnum):
    VIEW = "view"
    VIEW_AUDIT = "view-audit"
    MANAGE_SERVICES = "manage-services"
    MANAGE_KEYS = "manage-keys"
    OPERATE = "operate"


PERMISSIONS = MappingProxyType(
    {
        PersonRole.ADMINISTRATOR: frozenset(
            {Permission.VIEW, Permission.VIEW_AUDIT, Permission.MANAGE_SERVICES, Permission.MANAGE_KEYS}
        ),
        # Separation of duties: whoever rotates and locks keys neither connects services nor reads who did what.
        PersonRole.KEY_ADMINISTRATOR: frozenset({Permission.VIEW, Permission.MANAGE_KEYS}),
        PersonRole.AUDITOR: frozenset({Permission.VIEW, Permission.VIEW_AUDIT}),
        # An operator keeps tenants running and sees none of what a customer does with its keys.
        PersonRole.OPERATOR: frozenset({Permission.OPERATE}),
    }
)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody whose sign-on was checked. `tenant_id` is the one tenant they work for, `OPERATORS` for operators."""

    subject: str
    name: str
    tenant_id: str
    roles: frozenset[PersonRole]

    @property
    def is_operator(self) -> bool:
        """Whether they work for the platform and not for a customer."""
        return self.tenant_id == OPERATORS

    def may(self, permission: Permission) -> bool:
        """Return whether any of their roles allows it."""
        return any(permission in PERMISSIONS[role] for role in self.roles)
