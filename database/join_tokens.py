"""How a join token is made: the command and the dashboard do it alike, each in a role of its own."""

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.errors.compliance import CanaryMissing
from core.errors.tenants import TenantUnknown
from core.services import refuse_unconnectable
from database.enrolment_rows import JoinTokenRow
from database.transaction import TenantTransaction
from openkcm.contract.client_files import certificates
from openkcm.contract.enrolment import JoinToken, join_token
from openkcm.contract.services import ServiceKind


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
        TenantUnknown, TenantClosed, ServiceConflict: what the workflow would refuse is refused here.
    """
    tenant, authority = tx.tenants.get(), tx.certificates.authority()
    if tenant is None:
        raise TenantUnknown
    refuse_unconnectable(tenant.state, kind, tx.enrolments.known_kind(service))
    if authority is None:
        raise CanaryMissing("the tenant has no certificate authority", "openkcm tenant show says how it stands")
    root = ssl.PEM_cert_to_DER_cert(certificates("", authority.chain_pem)[1])
    token = join_token(tx.tenant_id, secret, root)
    return MadeToken(token, tx.enrolments.add_token(JoinTokenRow(token.hash, service, kind, made_by, lifetime)))
