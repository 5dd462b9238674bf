"""How a service's protection is changed: the command and the dashboard do it alike, each in a role of its own."""

from dataclasses import dataclass

from core.errors.services import FieldNotProtected, ProtectionFull, ServiceUnknown
from core.errors.tenants import TenantClosed, TenantUnknown
from core.protected_fields import FIELDS
from core.tenants.lifecycle import State
from database.transaction import TenantTransaction
from openkcm.contract.protected_fields import ProtectedField

_CLOSED = frozenset({State.LEAVING, State.OFFBOARDED})


@dataclass(frozen=True, slots=True)
class Change:
    """What a field was and what it is; None is not protected. Alike when there was nothing to do."""

    before: ProtectedField | None
    after: ProtectedField | None


def protect(tx: TenantTransaction, service: str, field: ProtectedField, by: str) -> Change:
    """Put a field on the list, or change how it is protected; the database puts it on record.

    Args:
        tx: of the tenant.
        service: one that is on record, connected or not.
        field: checked.
        by: who answers for it.

    Raises:
        TenantUnknown, TenantClosed, ServiceUnknown, ProtectionFull
    """
    before = _begin(tx, service, field, by)
    if before == field:
        return Change(before, field)
    if before is None and len(tx.protection.fields(service)) >= FIELDS:
        raise ProtectionFull
    tx.protection.protect(service, field, by)
    return Change(before, field)


def unprotect(tx: TenantTransaction, service: str, field: ProtectedField, by: str) -> Change:
    """Take a field off the list, whatever its mode; arguments and what is raised as in `protect`.

    Raises:
        FieldNotProtected
    """
    before = _begin(tx, service, field, by)
    if before is None or not tx.protection.unprotect(service, field, by):
        raise FieldNotProtected
    return Change(before, None)


def _begin(tx: TenantTransaction, service: str, field: ProtectedField, by: str) -> ProtectedField | None:
    """Lock the list and return the field as it is on it."""
    tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    if tenant.state in _CLOSED:
        raise TenantClosed(tenant.state)
    if tx.services.get(service) is None:
        raise ServiceUnknown
    tx.protection.lock(service, by)
    return find(tx, service, field)


def find(tx: TenantTransaction, service: str, field: ProtectedField) -> ProtectedField | None:
    """Return what the list says of a field, whatever the mode that `field` has."""
    return next((one for one in tx.protection.fields(service) if one.name == field.name), None)
