"""The platform's own services, by which it attacks the crypto service as any holder of a certificate could.

They are connected like a customer's: a stored request, the workflow of the service, a certificate of the tenant's
authority; their keys descend as all keys do. A private key is made here, stays in this process's memory and ends with
it, so a worker that starts again connects its services again.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Protocol
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from activities.audit_trail import Clock
from compliance.isolation.crypto_api.model import Identity
from core.errors.compliance import CanaryMissing, SecondCanaryMissing
from core.names import CANARY_TENANT_ID, PLATFORM_TENANTS
from core.tenants.lifecycle import State
from database.connection.database import Database
from database.services.repository import ServiceRequestRow
from openkcm.contract.client_files import certificates
from openkcm.contract.services import ServiceKind
from openkcm.errors import PlatformError
from vault.pki.certificates import IssuedCertificate

PROBE, SIBLING, REVOKED = "boundary-probe", "boundary-probe-2", "boundary-revoked"
"""The services: one of each of the platform's tenants, and two more of the canary, one to be revoked every time."""
_OLDEST = 2 / 3
"""The part of a certificate's life after which another one is asked for."""


class ProbeServiceNotReady(PlatformError):
    """The service's workflow refused; it may have been disconnected at that very moment, by another worker's check."""

    code: ClassVar[str] = "probe_not_connected"
    message = "a service of the platform's own could not be connected"
    hint = "it is tried again; if it stays, see the service's workflow of the tenant it is about"


class ServiceConnections(Protocol):
    """The workflow that connects services, from the outside. Both raise ProbeServiceNotReady, and when it is down."""

    def connect(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        """Have a stored request done; the certificate is on record when this returns."""
        ...

    def disconnect(self, tenant_id: str, region: str, service: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Kept:
    identity: Identity
    until: datetime


class ProbeServices:
    """Used from several threads; each service is connected by one of them at a time."""

    def __init__(self, database: Database, connections: ServiceConnections, clock: Clock) -> None:
        self._database = database
        self._connections = connections
        self._clock = clock
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._turn = threading.Lock()

    def identity(self, tenant_id: str, service: str) -> Identity:
        """Return a service with a certificate that still lasts, connected first where there is none.

        Raises: CanaryMissing, SecondCanaryMissing; TemporalUnavailable and others of the workflow's.
        """
        with self._turn:
            kept = self._kept.get((tenant_id, service))
            if kept is None or self._clock() >= kept.until:
                kept = self._kept[tenant_id, service] = self._connect(tenant_id, service)
            return kept.identity

    def check_platform_tenants(self) -> None:
        """Raise CanaryMissing or SecondCanaryMissing when one of them could not be let in, whatever it asked for."""
        for tenant_id in PLATFORM_TENANTS:
            self._region(tenant_id)

    def forget(self) -> None:
        """Have every service connected again before it is next used: a certificate of one of them was refused."""
        with self._turn:
            self._kept.clear()

    def revocation(self) -> tuple[Identity, Callable[[], None]]:
        """Return a service with a certificate of its own for this one time, and what revokes it."""
        with self._turn:
            identity = self._connect(CANARY_TENANT_ID, REVOKED).identity
        region = self._region(CANARY_TENANT_ID)
        return identity, lambda: self._connections.disconnect(CANARY_TENANT_ID, region, REVOKED)

    def _connect(self, tenant_id: str, service: str) -> _Kept:
        region, request_id = self._region(tenant_id), uuid4().hex
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        csr_pem = request.public_bytes(serialization.Encoding.PEM).decode("ascii")
        with self._database.tenant_tx(tenant_id) as tx:
            tx.services.request(ServiceRequestRow(request_id, service, ServiceKind.MICROSERVICE, csr_pem))
        self._connections.connect(tenant_id, region, service, request_id)
        with self._database.tenant_tx(tenant_id) as tx:
            row, chain_pem = tx.services.issued(service, request_id)
        leaf = IssuedCertificate(row.serial, row.certificate_pem, row.not_after)
        until = row.not_before + (row.not_after - row.not_before) * _OLDEST
        return _Kept(presenting(tenant_id, service, leaf, chain_pem, key), until)

    def _region(self, tenant_id: str) -> str:
        with self._database.tenant_tx(tenant_id) as tx:
            row = tx.tenants.get()
        if row is None or row.state is not State.ACTIVE:
            missing: type[PlatformError] = CanaryMissing if tenant_id == CANARY_TENANT_ID else SecondCanaryMissing
            raise missing
        return row.region


def presenting(
    tenant_id: str, service: str, leaf: IssuedCertificate, chain_pem: str, key: ec.EllipticCurvePrivateKey
) -> Identity:
    """Return who presents a certificate for `key`, and trusts the end of its chain."""
    presented_pem, root_pem = certificates(leaf.certificate_pem, chain_pem)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(tenant_id, service, leaf.serial, presented_pem, root_pem, leaf.not_after, key_pem)
