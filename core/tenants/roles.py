"""Users of the dashboard, their roles and permissions; the single sign-on assigns the roles."""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from openkcm.contract.names import RESERVED_PREFIX

OPERATORS = f"{RESERVED_PREFIX}operators"
"""The id of the sessions and audit records of operators; a tenant cannot have it, because the prefix is reserved."""


class PersonRole(StrEnum):
    """Role of a user in the single sign-on; the first three belong to a customer, the last to the platform."""

    ADMINISTRATOR = "administrator"
    KEY_ADMINISTRATOR = "key-administrator"
    AUDITOR = "auditor"
    OPERATOR = "operator"


class Permission(StrEnum):
    VIEW = "view"
    VIEW_AUDIT = "view-audit"
    MANAGE_SERVICES = "manage-services"
    MANAGE_KEYS = "manage-keys"
    MANAGE_NOTIFICATIONS = "manage-notifications"
    OPERATE = "operate"


PERMISSIONS = MappingProxyType(
    {
        PersonRole.ADMINISTRATOR: frozenset(
            {
                *(Permission.VIEW, Permission.VIEW_AUDIT, Permission.MANAGE_SERVICES, Permission.MANAGE_KEYS),
                Permission.MANAGE_NOTIFICATIONS,
            }
        ),
        # Separation of duties: a user who rotates and locks keys neither connects services nor reads the audit stream.
        PersonRole.KEY_ADMINISTRATOR: frozenset({Permission.VIEW, Permission.MANAGE_KEYS}),
        PersonRole.AUDITOR: frozenset({Permission.VIEW, Permission.VIEW_AUDIT}),
        # An operator keeps tenants running and cannot see how a customer uses its keys.
        PersonRole.OPERATOR: frozenset({Permission.OPERATE}),
    }
)


@dataclass(frozen=True, slots=True)
class Person:
    """An authenticated user. `tenant_id` is the user's tenant, `OPERATORS` for operators."""

    subject: str
    name: str
    tenant_id: str
    roles: frozenset[PersonRole]

    @property
    def is_operator(self) -> bool:
        """Whether the user works for the platform, not for a customer."""
        return self.tenant_id == OPERATORS

    def may(self, permission: Permission) -> bool:
        """Return whether any role of the user grants the permission."""
        return any(permission in PERMISSIONS[role] for role in self.roles)
