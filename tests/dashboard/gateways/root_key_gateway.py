"""The effects of the workflows on the rows of root keys: take credentials, check, wrap, switch or abandon."""

from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from config.credential_encryption import decrypt_credentials
from core.errors.tenants import TenantNotOperational
from core.keys.root_keys import Credentials, PlatformKeyRef, Problem, refuse_incomplete
from core.names import root_key
from core.tenants.locks import may_change_root_key
from database.connection.database import Database
from database.keys import EncryptedRootKeyRow, ServiceKeyRow
from tests.crypto_service.authority import key_pem
from tests.dashboard.gateways.approval_gateway import request
from workflows.client.updates import OperationTimeout, UpdateRejected

_KEY = ec.generate_private_key(ec.SECP256R1())
INTAKE_PRIVATE = key_pem(_KEY)
INTAKE_PUBLIC = (
    _KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
)


@dataclass
class RootKeyRequests:
    """`problems` are found by a preflight; a change stops after `wraps` service keys and continues on a retry."""

    worker: Database
    intake_key: str = INTAKE_PRIVATE
    problems: list[Problem] = field(default_factory=list)
    wraps: int | None = None
    taken: list[Credentials] = field(default_factory=list)

    @request(lambda _, request_id: f"preflight {request_id}")
    def preflight_root_key(self, tenant_id: str, request_id: str) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            self._take(tx, tenant_id, request_id)
            tx.root_keys.found(request_id, self.problems)

    @request(lambda _, request_id: f"change {request_id}")
    def change_root_key(self, tenant_id: str, request_id: str) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            tenant = tx.tenants.get()
        assert tenant is not None
        if not may_change_root_key(tenant.state, tenant.locks):
            raise TenantNotOperational(tenant.state)
        number, refused = self._begin(tenant_id, request_id)
        if refused is not None:
            raise UpdateRejected(
                refused,
                "the root key was not changed and the former one is in force",
                f"openkcmctl root-key show {tenant_id} says what was found",
            )
        with self.worker.tenant_tx(tenant_id) as tx:
            rows = tx.root_keys.unstaged(number, 1000 if self.wraps is None else self.wraps)
            tx.root_keys.stage(number, [(row, _wrap(row)) for row in rows])
            if tx.root_keys.switch(number):
                return
        raise OperationTimeout

    def _begin(self, tenant_id: str, request_id: str) -> tuple[int, str | None]:
        with self.worker.tenant_tx(tenant_id) as tx:
            tenant, before = tx.tenants.get(), tx.root_keys.changes()
            assert tenant is not None
            running = next((change for change in before if change.state == "running"), None)
            if running is not None:
                return running.number, None
            number, place = len(before) + 1, tx.root_keys.requested(request_id).place
            platform = isinstance(place, PlatformKeyRef)
            self._take(tx, tenant_id, request_id)
            if not platform:
                tx.root_keys.admit(EncryptedRootKeyRow(request_id, place, "vault:v1:sealed"))
            name = root_key(tenant.region) if platform else place.name
            tx.root_keys.begin(number, place.provider, name, None if platform else request_id)
            tx.root_keys.found(request_id, self.problems)
            if self.problems:
                tx.root_keys.abandon(number, self.problems[0].code)
                return number, self.problems[0].code
            if not platform:
                tx.root_keys.prove(request_id, b"wrapped probe", sha256(b"probe").digest())
            return number, None

    def _take(self, tx, tenant_id: str, request_id: str) -> None:
        wanted = tx.root_keys.requested(request_id)
        if isinstance(wanted.place, PlatformKeyRef):
            assert wanted.sealed is None
            return
        assert wanted.sealed is not None, "the credentials of a request are taken once"
        credentials = decrypt_credentials([self.intake_key], tenant_id, request_id, wanted.sealed)
        refuse_incomplete(wanted.place, credentials)
        self.taken.append(credentials)


def _wrap(row: ServiceKeyRow) -> bytes:
    return b"rewrapped: " + row.wrapped
