"""How a service's protection is changed: the command and the dashboard do it alike, each in a role of its own.

How a join token is made: the command and the dashboard do it alike, each in a role of its own.
"""

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta

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
        raise TenantNotOperational(tenant.state)
    if tx.services.get(service) is None:
        raise ServiceUnknown
    tx.protection.lock(service, by)
    return find(tx, service, field)


def find(tx: TenantTransaction, service: str, field: ProtectedField) -> ProtectedField | None:
    """Return what the list says of a field, whatever the mode that `field` has."""
    return next((one for one in tx.protection.fields(service) if one.name == field.name), None)


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token, whose text is shown once, and until when it can be used."""

    token: JoinToken
    expires_at: datetime


def make_join_token(  # noqa: PLR0913, PLR0917 - what a token is made of
    tx: TenantTransaction, service: str, kind: ServiceKind, made_by: str, lifetime: timedelta, secret: str
) -> MadeToken:
    """Make a token by which an agent may once be a service; the database puts it on record.

    Args:
        tx: of the tenant.
        service: checked.
        kind: what the service is.
        made_by: who answers for it.
        lifetime: at most a day.
        secret: 32 bytes that the caller drew, in base64url without padding.

    Raises:
        TenantUnknown, TenantNotOperational, ServiceConflict: what the workflow would refuse is refused here.
    """
    tenant, authority = tx.tenants.get(), tx.certificates.authority()
    if tenant is None:
        raise TenantUnknown
    refuse_unconnectable(tenant.state, kind, tx.enrolments.known_kind(service))
    if authority is None:
        raise CanaryMissing("the tenant has no certificate authority", "openkcmctl tenant show says how it stands")
    root = ssl.PEM_cert_to_DER_cert(certificates("", authority.chain_pem)[1])
    token = join_token(tx.tenant_id, secret, root)
    return MadeToken(token, tx.enrolments.add_token(JoinTokenRow(token.hash, service, kind, made_by, lifetime)))
