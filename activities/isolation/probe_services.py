"""The services of the canary tenants, with which the platform attacks the crypto service as a client.

They are connected like a customer's: a stored request, the service's workflow, a certificate of the tenant CA, and the
same key hierarchy. Their private keys are created here and stay in this process's memory, so a restarted worker
connects its services again.
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

from activities.runtime.audit_trail import Clock
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
"""The services: one of each canary tenant, and two more of the first: a sibling and one that is revoked each time."""
_RENEWAL_FRACTION = 2 / 3
"""The part of a certificate's lifetime after which it is replaced."""


class ProbeServiceNotReady(PlatformError):
    """The service's workflow rejected the connection; another worker's check may have disconnected the service."""

    code: ClassVar[str] = "probe_service_not_ready"
    message = "a service of a canary tenant could not be connected"
    hint = "the platform retries; if it fails again, see the service's workflow of that tenant"


class ServiceConnections(Protocol):
    """A client of the workflow that connects services; both methods raise ProbeServiceNotReady and Temporal errors."""

    def connect(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        """Execute a stored request; the certificate is recorded when this returns."""
        ...

    def disconnect(self, tenant_id: str, region: str, service: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Kept:
    identity: Identity
    until: datetime


class ProbeServices:
    """Identities of the canary tenants' services; safe to share between threads."""

    def __init__(self, database: Database, connections: ServiceConnections, clock: Clock) -> None:
        self._database = database
        self._connections = connections
        self._clock = clock
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._lock = threading.Lock()

    def identity(self, tenant_id: str, service: str) -> Identity:
        """Return a service with a valid certificate; connect it first where necessary.

        Raises: CanaryMissing, SecondCanaryMissing, TemporalUnavailable and other errors of the workflow.
        """
        with self._lock:
            kept = self._kept.get((tenant_id, service))
            if kept is None or self._clock() >= kept.until:
                kept = self._kept[tenant_id, service] = self._connect(tenant_id, service)
            return kept.identity

    def check_platform_tenants(self) -> None:
        """Raise CanaryMissing or SecondCanaryMissing unless both canary tenants are active."""
        for tenant_id in PLATFORM_TENANTS:
            self._region(tenant_id)

    def forget(self) -> None:
        """Discard all identities after a certificate was rejected; each service is connected again on its next use."""
        with self._lock:
            self._kept.clear()

    def revocation(self) -> tuple[Identity, Callable[[], None]]:
        """Return a service with a new single-use certificate, and the function that revokes it."""
        with self._lock:
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
        until = row.not_before + (row.not_after - row.not_before) * _RENEWAL_FRACTION
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
    """Return an identity that presents a certificate for `key` and trusts the root of its chain."""
    presented_pem, root_pem = certificates(leaf.certificate_pem, chain_pem)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(tenant_id, service, leaf.serial, presented_pem, root_pem, leaf.not_after, key_pem)
