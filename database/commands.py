"""Operations that the command line and the dashboard share, each in its own role: protected fields and join tokens."""

import ssl
from datetime import datetime, timedelta
from typing import NamedTuple

from core.errors.compliance import CanaryMissing
from core.errors.services import FieldNotProtected, ProtectionFull, ServiceUnknown
from core.errors.tenants import TenantNotOperational, TenantUnknown
from core.protected_fields import FIELDS
from core.services import refuse_unconnectable
from core.tenants.lifecycle import State
from database.connection.transaction import TenantTransaction
from database.services.enrolment import JoinTokenRow
from openkcm.contract.client_files import certificates
from openkcm.contract.enrolment import JoinToken, join_token
from openkcm.contract.protected_fields import ProtectedField
from openkcm.contract.services import ServiceKind

_CLOSED = frozenset({State.LEAVING, State.OFFBOARDED})


class Change(NamedTuple):
    """A field before and after; None is not protected. Both are equal if nothing changed."""

    before: ProtectedField | None
    after: ProtectedField | None


def protect(tx: TenantTransaction, service: str, field: ProtectedField, by: str) -> Change:
    """Add a field to the protected fields, or change its mode; the database logs the change.

    Args:
        tx: transaction of the tenant.
        service: name of a recorded service, connected or not.
        field: validated by the caller.
        by: subject of the person who makes the change.

    Raises:
        TenantUnknown, TenantNotOperational, ServiceUnknown, ProtectionFull
    """
    before = _begin(tx, service, field, by)
    if before == field:
        return Change(before, field)
    if before is None and len(tx.protection.fields(service)) >= FIELDS:
        raise ProtectionFull
    tx.protection.protect(service, field, by)
    return Change(before, field)


def unprotect(tx: TenantTransaction, service: str, field: ProtectedField, by: str) -> Change:
    """Remove a field from the protected fields, regardless of its mode; arguments and errors as in `protect`.

    Raises:
        FieldNotProtected
    """
    before = _begin(tx, service, field, by)
    if before is None or not tx.protection.unprotect(service, field, by):
        raise FieldNotProtected
    return Change(before, None)


def _begin(tx: TenantTransaction, service: str, field: ProtectedField, by: str) -> ProtectedField | None:
    """Lock the service's list and return the field as stored."""
    tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    if tenant.state in _CLOSED:
        raise TenantNotOperational(tenant.state)
    if tx.services.get(service) is None:
        raise ServiceUnknown
    tx.protection.lock(service, by)
    return find(tx, service, field)


def find(tx: TenantTransaction, service: str, field: ProtectedField) -> ProtectedField | None:
    """Return the stored field of that name, regardless of the mode of `field`."""
    return next((one for one in tx.protection.fields(service) if one.name == field.name), None)


class MadeToken(NamedTuple):
    """A token, whose text is shown once, and its expiry."""

    token: JoinToken
    expires_at: datetime


def make_join_token(  # noqa: PLR0913, PLR0917 - the attributes of a token
    tx: TenantTransaction, service: str, kind: ServiceKind, made_by: str, lifetime: timedelta, secret: str
) -> MadeToken:
    """Create a token with which one agent can enrol once as a service; the database logs it.

    Args:
        tx: transaction of the tenant.
        service: name, validated by the caller.
        kind: kind of the service.
        made_by: subject of the person who creates the token.
        lifetime: at most one day.
        secret: 32 random bytes from the caller, in base64url without padding.

    Raises:
        TenantUnknown, TenantNotOperational, ServiceConflict: for each reason for which the workflow would reject it.
    """
    tenant, authority = tx.tenants.get(), tx.certificates.authority()
    if tenant is None:
        raise TenantUnknown
    refuse_unconnectable(tenant.state, kind, tx.enrolments.known_kind(service))
    if authority is None:
        raise CanaryMissing("the tenant has no certificate authority", "run openkcmctl tenant show")
    root = ssl.PEM_cert_to_DER_cert(certificates("", authority.chain_pem)[1])
    token = join_token(tx.tenant_id, secret, root)
    return MadeToken(token, tx.enrolments.add_token(JoinTokenRow(token.hash, service, kind, made_by, lifetime)))
