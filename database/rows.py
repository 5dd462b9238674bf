"""The rows of a tenant as the rest of the controller sees them; `interfaces` hands them out. Imports no psycopg."""

import hashlib
import ssl
from dataclasses import dataclass
from datetime import datetime

from core.certificates import AuthorityState
from core.keys.rotation import KeyState
from core.services import ServiceState
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from core.tenants.provisioning import Step, StepState
from openkcm.contract.services import ServiceKind


@dataclass(frozen=True, slots=True)
class TenantRow:
    tenant_id: str
    organization: str
    region: str
    state: State
    root_key_mode: str
    requested_at: datetime
    ready_at: datetime | None
    promise_broken_at: datetime | None
    locks: tuple[LockReason, ...] = ()
    unlocks_to: State | None = None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of the running or last operation. `attempts` counts tries that failed so far."""

    number: int
    step: Step
    state: StepState
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key held by Vault, by name; `kind` is L2, CA or payload. `oldest` is the first version that opens anything."""

    name: str
    kind: str
    version: int
    created_at: datetime
    oldest: int
    rotated_at: datetime


@dataclass(frozen=True, slots=True)
class AuthorityRow:
    """The tenant's certificate authority. `serial` is lower-case hex without separators; the PEMs are public."""

    serial: str
    certificate_pem: str
    chain_pem: str
    not_after: datetime
    key_version: int = 1
    """Of the tenant's Transit key, which alone signs for this authority."""
    state: AuthorityState = AuthorityState.CURRENT

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate, hex: by it a presented chain's issuer is recognised."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate_pem)).hexdigest()


@dataclass(frozen=True, slots=True)
class RouteRow:
    """Where the crypto service finds a tenant's keys, and by which issuers' certificates (SHA-256 of the CA, hex).

    `former_issuer_fingerprint` is that of the former authority, for as long as its certificates last.
    """

    l2_key: str
    issuer_fingerprint: str
    region: str
    former_issuer_fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A signature over `audit_events.head_message`, by the Transit key named in `key` (`name:version`)."""

    seq: int
    chain_hash: bytes
    signature: str
    key: str


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A connected service. `certificate_not_after` is of its newest certificate that is not revoked."""

    service: str
    kind: ServiceKind
    state: ServiceState
    connected_at: datetime | None
    disconnected_at: datetime | None
    last_seen_at: datetime | None
    certificate_not_after: datetime | None
    certificate_not_before: datetime | None


@dataclass(frozen=True, slots=True)
class ServiceRequestRow:
    """What somebody outside asked for; workflows are told its id alone and read the rest from here."""

    request_id: str
    service: str
    kind: ServiceKind
    csr_pem: str


@dataclass(frozen=True, slots=True)
class LeafRow:
    """A service's certificate; only serials on record open anything. `generation` counts from 1 for each service."""

    serial: str
    service: str
    generation: int
    request_id: str
    certificate_pem: str
    not_before: datetime
    not_after: datetime
    authority: str
    """The serial of the authority that signed it."""
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ServiceKeyRow:
    """An L3: `wrapped` is L1.wrap(L2.encrypt(L3)), bound to the context of `service` and `version`."""

    service: str
    version: int
    l2_key: str
    root_key_mode: str
    root_key: str
    wrapped: bytes
    root_key_id: str | None = None
    """Which of the customer's keys it is; None: the platform's."""
    state: KeyState = KeyState.ACTIVE
    l2_version: int = 1
    """The version of L2 that the wrap lies under."""


@dataclass(frozen=True, slots=True)
class KeyVersionRow:
    """An L3 by name, without what is wrapped."""

    service: str
    version: int
    l2_key: str
    root_key_mode: str
    root_key: str
    created_at: datetime
    state: KeyState = KeyState.ACTIVE
    l2_version: int = 1
    activated_at: datetime | None = None
    deactivated_at: datetime | None = None
    destroyed_at: datetime | None = None
    last_opened_at: datetime | None = None
    """When the crypto service last opened it, to the minute."""
    emptied_at: datetime | None = None
    """When no managed object was left under it; from then on none may be."""


@dataclass(frozen=True, slots=True)
class CallerRow:
    """Everything that decides what a client certificate may do, read in one query by its serial."""

    service: str
    service_state: ServiceState
    tenant_state: State
    region: str
    l2_key: str
    issuer_fingerprint: str
    former_issuer_fingerprint: str | None
    authority_pem: str
    authority_state: AuthorityState
    not_after: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """A KMIP managed object of one service, indexed [tenant][L2][object] (MTCI M1).

    `object_type` and `state` are KMIP's enumeration values (`state` 0: the type has none); `attributes` is a TTLV
    structure, opaque here; `material` is sealed under the service's L3 of `key_version`, None once destroyed.
    `revision` is 1 when created; a change names the revision it saw.
    """

    object_id: str
    service: str
    l2_key: str
    object_type: int
    state: int
    names: tuple[str, ...]
    attributes: bytes
    key_version: int
    material: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class ObjectCountRow:
    """How many managed objects of a service are in a state (KMIP's enumeration, 0: the type has none)."""

    service: str
    state: int
    count: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A sign-on to the dashboard. `subject` is the sign-on's own name for a person; `ended_at` once they signed out."""

    session_id: str
    subject: str
    expires_at: datetime
    last_seen_at: datetime
    ended_at: datetime | None
