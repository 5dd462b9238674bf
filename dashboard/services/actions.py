"""Actions on services from the dashboard. Each checks the permission again and records request and result.

The request is stored and a workflow executes it, as for the command. A private key generated here is kept only in the
session of the user until the download.

Also join tokens for agents and protected fields; for these the database records the change itself.
"""

import io
import secrets
import zipfile
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from core.errors.services import ServiceUnknown
from core.errors.tenants import TenantUnknown
from core.services import refuse_another_key, refuse_unconnectable
from core.tenants.roles import Permission
from dashboard.page_context import PageContext, ask, require
from database import commands as protecting
from database.commands import Change, MadeToken, make_join_token
from database.services.repository import ServiceCertificateRow, ServiceRequestRow
from database.tenants import TenantRow
from openkcm.contract import csr as signing_requests
from openkcm.contract.audit_events import AuditName
from openkcm.contract.client_files import AUTHORITY, CERTIFICATE, KEY, Offer, certificates, configuration, parse_folder
from openkcm.contract.names import parse_service_name
from openkcm.contract.protected_fields import ProtectedField
from openkcm.contract.services import ServiceKind

_FILE_MODE, _FOLDER_MODE = 0o100600, 0o40700
_UNIX = 3


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """What to connect. The same input again is the same request: a retry is idempotent.

    `key_pem` is the private key if it was generated here, empty if the service's machine has it. `certificate_days` is
    the lifetime of the certificate for an appliance that cannot renew it. `another` asks for a further certificate of
    a connected service.
    """

    request_id: str
    service: str
    kind: ServiceKind
    folder: str
    csr_pem: str
    key_pem: str
    certificate_days: int | None
    another: bool = False


@dataclass(frozen=True, slots=True)
class IssuedCredentials:
    """The credentials of a connected service: file name → text, with the private key if it was generated here."""

    service: str
    kind: ServiceKind
    folder: str
    leaf: ServiceCertificateRow
    files: dict[str, str]

    @property
    def has_key(self) -> bool:
        return KEY in self.files


def wish(  # noqa: PLR0913 - the fields of the form
    service: str,
    kind: ServiceKind,
    folder: str,
    csr_pem: str | None,
    certificate_days: int | None = None,
    *,
    another: bool = False,
) -> ServiceRequest:
    """Return a validated request; without a CSR, generate a key here.

    Raises:
        InvalidName, CsrRefused: nothing was generated.
    """
    name, where = parse_service_name(service.strip()), parse_folder(folder)
    if csr_pem is not None:
        signing_requests.requested_key(csr_pem)
        return ServiceRequest(uuid4().hex, name, kind, where, csr_pem, "", certificate_days, another)
    key = signing_requests.new_key()
    request, private = signing_requests.request_of(key), signing_requests.key_pem(key)
    return ServiceRequest(uuid4().hex, name, kind, where, request, private, certificate_days, another)


def connect(context: PageContext, wanted: ServiceRequest) -> IssuedCredentials:
    """Connect a service and return its credentials.

    Raises:
        ServiceAlreadyConnected: it is connected with another key, and the request does not ask for a further
            certificate; nothing was stored.
        OpenKcmError: rejected, or not done yet; the same request can be retried.
    """
    require(context, Permission.MANAGE_SERVICES, AuditName.SERVICE_CONNECT_REQUESTED, wanted.service)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, known = tx.tenants.get(), tx.services.get(wanted.service)
        if tenant is None:
            raise TenantUnknown
        refuse_unconnectable(tenant.state, wanted.kind, None if known is None else known.kind)
        newest = tx.services.leaf(wanted.service)
        if known is not None and newest is not None and not wanted.another:
            refuse_another_key(known.state, newest.certificate_pem, wanted.csr_pem)
        tx.services.request(
            ServiceRequestRow(wanted.request_id, wanted.service, wanted.kind, wanted.csr_pem, wanted.certificate_days)
        )
        tx.audit.append(
            context.event(
                AuditName.SERVICE_CONNECT_REQUESTED,
                wanted.service,
                "intended",
                kind=wanted.kind,
                request=wanted.request_id,
                key="made by the service" if not wanted.key_pem else "made by the dashboard",
            )
        )
    ask(
        context,
        AuditName.SERVICE_CONNECT_REQUESTED,
        wanted.service,
        lambda: context.workflows.connect_service(
            context.tenant_id, tenant.region, wanted.service, wanted.request_id, another_key=wanted.another
        ),
        request=wanted.request_id,
    )
    with context.database.tenant_tx(context.tenant_id) as tx:
        leaf, chain = tx.services.issued(wanted.service, wanted.request_id)
    return IssuedCredentials(wanted.service, wanted.kind, wanted.folder, leaf, _files(context, wanted, leaf, chain))


def renew(context: PageContext, service: str) -> tuple[ServiceCertificateRow, str]:
    """Issue the next certificate for a service's newest key; return it, and the PEM for the service.

    Raises:
        OpenKcmError: rejected, or not done yet; a retry is idempotent.
    """
    tenant = _intend(context, AuditName.SERVICE_RENEW_REQUESTED, service)
    ask(
        context,
        AuditName.SERVICE_RENEW_REQUESTED,
        service,
        lambda: context.workflows.renew_service(context.tenant_id, tenant.region, service),
    )
    with context.database.tenant_tx(context.tenant_id) as tx:
        leaf = tx.services.leaf(service)
        authority = None if leaf is None else tx.certificates.issuer(leaf.authority)
    if leaf is None or authority is None:
        raise ServiceUnknown("the service has been disconnected", "connect it again")
    return leaf, certificates(leaf.certificate_pem, authority.chain_pem)[0]


def disconnect(context: PageContext, service: str) -> None:
    """Revoke every certificate of a service immediately; raises OpenKcmError."""
    tenant = _intend(context, AuditName.SERVICE_DISCONNECT_REQUESTED, service)
    ask(
        context,
        AuditName.SERVICE_DISCONNECT_REQUESTED,
        service,
        lambda: context.workflows.disconnect_service(context.tenant_id, tenant.region, service),
    )


def archive(delivery: IssuedCredentials) -> bytes:
    """Return the files as a ZIP of their folder, readable by the owner alone when unpacked on Unix."""
    buffer, folder = io.BytesIO(), delivery.folder.rpartition("/")[2]
    when = delivery.leaf.not_before.timetuple()[:6]
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, mode, text in (
            (f"{folder}/", _FOLDER_MODE, ""),
            *((f"{folder}/{file}", _FILE_MODE, text) for file, text in delivery.files.items()),
        ):
            entry = zipfile.ZipInfo(name, when)
            entry.create_system, entry.external_attr = _UNIX, mode << 16
            zipped.writestr(entry, text)
    return buffer.getvalue()


def _files(context: PageContext, wanted: ServiceRequest, leaf: ServiceCertificateRow, chain: str) -> dict[str, str]:
    presented, root = certificates(leaf.certificate_pem, chain)
    offer = Offer(context.addresses.crypto_https, context.addresses.crypto_kmip)
    own = {KEY: wanted.key_pem} if wanted.key_pem else {}
    both = presented + wanted.key_pem if wanted.key_pem else ""
    files = configuration(wanted.kind, wanted.service, wanted.folder, offer, both)
    return own | {CERTIFICATE: presented, AUTHORITY: root} | files


def _intend(context: PageContext, name: AuditName, service: str) -> TenantRow:
    """Record the intended action on a known service and return its tenant."""
    require(context, Permission.MANAGE_SERVICES, name, service)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            raise TenantUnknown
        if tx.services.get(service) is None:
            raise ServiceUnknown
        tx.audit.append(context.event(name, service, "intended"))
    return tenant


def make_token(context: PageContext, service: str, kind: ServiceKind, lifetime: timedelta) -> MadeToken:
    """Create a join token; its text is returned and not stored.

    Raises:
        InvalidName, TenantNotOperational, ServiceConflict, SessionEnded, PermissionDenied: nothing was created.
    """
    name = parse_service_name(service.strip())
    require(context, Permission.MANAGE_SERVICES, AuditName.JOIN_TOKEN_REQUESTED, name)
    with context.database.tenant_tx(context.tenant_id) as tx:
        return make_join_token(tx, name, kind, context.person.subject, lifetime, secrets.token_urlsafe(32))


def protect(context: PageContext, service: str, field: ProtectedField) -> Change:
    """Add a protected field, or change its protection.

    Raises:
        TenantNotOperational, ServiceUnknown, ProtectionFull, SessionEnded, PermissionDenied: nothing was changed.
    """
    require(context, Permission.MANAGE_SERVICES, AuditName.PROTECTION_CHANGE_REQUESTED, service)
    with context.database.tenant_tx(context.tenant_id) as tx:
        return protecting.protect(tx, service, field, context.person.subject)


def unprotect(context: PageContext, service: str, field: ProtectedField) -> Change:
    """Remove a protected field; raises as `protect`, and FieldNotProtected."""
    require(context, Permission.MANAGE_SERVICES, AuditName.PROTECTION_CHANGE_REQUESTED, service)
    with context.database.tenant_tx(context.tenant_id) as tx:
        return protecting.unprotect(tx, service, field, context.person.subject)
