"""What somebody does to a service on the dashboard: asked again whether they may, written down before and after.

The request is stored and a workflow does the rest, as for the command. A private key that is made here lives in the
session of whoever asked for it, until they have it, and nowhere else.

What somebody does to let an agent enrol: asked again whether they may, and on record by the database itself.

What somebody does to a service's protected fields: asked again whether they may; the database puts it on record.
"""

import io
import secrets
import zipfile
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from core.errors.services import ServiceUnknown
from core.errors.tenants import TenantUnknown
from core.services import refuse_unconnectable
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
    """What to connect. The same wish again is the same request: trying again after a failure does no harm.

    `key_pem` is the private key where it was made here, empty where the service's own machine has it.
    """

    request_id: str
    service: str
    kind: ServiceKind
    folder: str
    csr_pem: str
    key_pem: str


@dataclass(frozen=True, slots=True)
class IssuedCredentials:
    """What a connected service is handed: file name → text, the key among it where it was made here."""

    service: str
    kind: ServiceKind
    folder: str
    leaf: ServiceCertificateRow
    files: dict[str, str]

    @property
    def has_key(self) -> bool:
        return KEY in self.files


def wish(service: str, kind: ServiceKind, folder: str, csr_pem: str | None) -> ServiceRequest:
    """Return a checked wish; without a request a key is made here.

    Raises:
        InvalidName, CsrRefused: nothing was made.
    """
    name, where = parse_service_name(service.strip()), parse_folder(folder)
    if csr_pem is not None:
        signing_requests.requested_key(csr_pem)
        return ServiceRequest(uuid4().hex, name, kind, where, csr_pem, "")
    key = signing_requests.new_key()
    return ServiceRequest(
        uuid4().hex, name, kind, where, signing_requests.request_of(key), signing_requests.key_pem(key)
    )


def connect(seat: PageContext, wanted: ServiceRequest) -> IssuedCredentials:
    """Connect a service and return what it is handed.

    Raises:
        OpenKcmError: refused, or not done yet; the same wish can be tried again.
    """
    require(seat, Permission.MANAGE_SERVICES, AuditName.SERVICE_CONNECT_REQUESTED, wanted.service)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant, known = tx.tenants.get(), tx.services.get(wanted.service)
        if tenant is None:
            raise TenantUnknown
        refuse_unconnectable(tenant.state, wanted.kind, None if known is None else known.kind)
        tx.services.request(ServiceRequestRow(wanted.request_id, wanted.service, wanted.kind, wanted.csr_pem))
        tx.audit.append(
            seat.event(
                AuditName.SERVICE_CONNECT_REQUESTED,
                wanted.service,
                "intended",
                kind=wanted.kind,
                request=wanted.request_id,
                key="made by the service" if not wanted.key_pem else "made by the dashboard",
            )
        )
    ask(
        seat,
        AuditName.SERVICE_CONNECT_REQUESTED,
        wanted.service,
        lambda: seat.door.connect_service(seat.tenant_id, tenant.region, wanted.service, wanted.request_id),
        request=wanted.request_id,
    )
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        leaf, chain = tx.services.issued(wanted.service, wanted.request_id)
    return IssuedCredentials(wanted.service, wanted.kind, wanted.folder, leaf, _files(seat, wanted, leaf, chain))


def renew(seat: PageContext, service: str) -> tuple[ServiceCertificateRow, str]:
    """Issue the next certificate for a service's newest key now and return it, and the PEM the service presents.

    Raises:
        OpenKcmError: refused, or not done yet; trying again does no harm.
    """
    tenant = _intend(seat, AuditName.SERVICE_RENEW_REQUESTED, service)
    ask(
        seat,
        AuditName.SERVICE_RENEW_REQUESTED,
        service,
        lambda: seat.door.renew_service(seat.tenant_id, tenant.region, service),
    )
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        leaf = tx.services.leaf(service)
        authority = None if leaf is None else tx.certificates.issuer(leaf.authority)
    if leaf is None or authority is None:
        raise ServiceUnknown("the service was disconnected meanwhile", "connect it again")
    return leaf, certificates(leaf.certificate_pem, authority.chain_pem)[0]


def disconnect(seat: PageContext, service: str) -> None:
    """Revoke every certificate of a service at once; raises OpenKcmError."""
    tenant = _intend(seat, AuditName.SERVICE_DISCONNECT_REQUESTED, service)
    ask(
        seat,
        AuditName.SERVICE_DISCONNECT_REQUESTED,
        service,
        lambda: seat.door.disconnect_service(seat.tenant_id, tenant.region, service),
    )


def archive(delivery: IssuedCredentials) -> bytes:
    """Return the files as a ZIP of their folder, readable by its owner alone where it is unpacked on Unix."""
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


def _files(seat: PageContext, wanted: ServiceRequest, leaf: ServiceCertificateRow, chain: str) -> dict[str, str]:
    presented, root = certificates(leaf.certificate_pem, chain)
    offer = Offer(seat.addresses.crypto_https, seat.addresses.crypto_kmip)
    own = {KEY: wanted.key_pem} if wanted.key_pem else {}
    both = presented + wanted.key_pem if wanted.key_pem else ""
    files = configuration(wanted.kind, wanted.service, wanted.folder, offer, both)
    return own | {CERTIFICATE: presented, AUTHORITY: root} | files


def _intend(seat: PageContext, name: AuditName, service: str) -> TenantRow:
    """Put on record what is about to be asked of a known service and return its tenant."""
    require(seat, Permission.MANAGE_SERVICES, name, service)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            raise TenantUnknown
        if tx.services.get(service) is None:
            raise ServiceUnknown
        tx.audit.append(seat.event(name, service, "intended"))
    return tenant


def make_token(seat: PageContext, service: str, kind: ServiceKind, lifetime: timedelta) -> MadeToken:
    """Make a join token; its text lies in the caller's hands and nowhere else.

    Raises:
        InvalidName, TenantNotOperational, ServiceConflict, SessionEnded, PermissionDenied: nothing was made.
    """
    name = parse_service_name(service.strip())
    require(seat, Permission.MANAGE_SERVICES, AuditName.JOIN_TOKEN_REQUESTED, name)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        return make_join_token(tx, name, kind, seat.person.subject, lifetime, secrets.token_urlsafe(32))


def protect(seat: PageContext, service: str, field: ProtectedField) -> Change:
    """Put a field on the list, or change how it is protected.

    Raises:
        TenantNotOperational, ServiceUnknown, ProtectionFull, SessionEnded, PermissionDenied: nothing was changed.
    """
    require(seat, Permission.MANAGE_SERVICES, AuditName.PROTECTION_CHANGE_REQUESTED, service)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        return protecting.protect(tx, service, field, seat.person.subject)


def unprotect(seat: PageContext, service: str, field: ProtectedField) -> Change:
    """Take a field off the list; raises as `protect`, and FieldNotProtected."""
    require(seat, Permission.MANAGE_SERVICES, AuditName.PROTECTION_CHANGE_REQUESTED, service)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        return protecting.unprotect(tx, service, field, seat.person.subject)
