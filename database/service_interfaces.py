"""Connected services and what they keep with us: the part of `interfaces` that is about them. Imports no psycopg."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from database.root_key_rows import SealedRootKeyRow
from database.rows import (
    CallerRow,
    KeyVersionRow,
    LeafRow,
    ObjectCountRow,
    ObjectRow,
    ServiceKeyRow,
    ServiceRequestRow,
    ServiceRow,
)
from tenancy.services import ServiceKind


class Services(Protocol):
    def request(self, request: ServiceRequestRow) -> None:
        """Store what is asked for (operator); the same request id again changes nothing."""
        ...

    def requested(self, request_id: str) -> ServiceRequestRow:
        """Return a stored request; raises ServiceUnknown."""
        ...

    def connect(self, service: str, kind: ServiceKind) -> ServiceRow:
        """Create the service as connecting or bring a disconnected one back to it; a connected one stays connected.

        Raises: ServiceConflict when it is of another kind.
        """
        ...

    def connected(self, service: str) -> None:
        """Note that a connecting service has key and certificate."""
        ...

    def disconnect(self, service: str) -> bool:
        """Revoke its certificates and mark it disconnected, at once and together; False when it already was."""
        ...

    def get(self, service: str) -> ServiceRow | None: ...

    def all(self) -> Sequence[ServiceRow]:
        """Return the services by name."""
        ...

    def record_leaf(self, leaf: LeafRow) -> LeafRow:
        """Record a certificate and return the one on record for its service and generation, which is the first."""
        ...

    def issued(self, service: str, request_id: str) -> tuple[LeafRow, str]:
        """Return the certificate that was issued for a request, and the chain above it, which ends in the root.

        Raises: ServiceUnknown when the service was disconnected meanwhile, Overtaken when another request got the
        newest certificate.
        """
        ...

    def leaf(self, service: str) -> LeafRow | None:
        """Return the newest certificate of a service that is not revoked."""
        ...

    def valid_leaves(self, at: datetime) -> Sequence[LeafRow]:
        """Return every certificate that is neither revoked nor expired."""
        ...

    def generation(self, service: str) -> int:
        """Return the generation of a service's newest certificate, revoked ones included; 0 before the first."""
        ...

    def record_key(self, key: ServiceKeyRow) -> ServiceKeyRow:
        """Record an L3 and return the one on record for its service and version, which is the first."""
        ...

    def key(self, service: str, version: int | None = None) -> ServiceKeyRow | None:
        """Return an L3 of a service, the newest without `version`."""
        ...

    def key_and_root(
        self, service: str, version: int | None = None
    ) -> tuple[ServiceKeyRow, SealedRootKeyRow | None] | None:
        """Return an L3 as `key` does and what it takes to use its root key, both as of one moment.

        The second is None for the platform's root key, and for one whose credentials were forgotten.
        """
        ...

    def keys(self) -> Sequence[KeyVersionRow]:
        """Return every version of every L3 by service and version, without what is wrapped."""
        ...

    def caller(self, serial: str) -> CallerRow | None:
        """Return what a certificate on record may do; None when it is not on record or the tenant has no route."""
        ...

    def seen(self, services: Sequence[str], at: datetime) -> None:
        """Move `last_seen_at` of services forward."""
        ...


class ManagedObjects(Protocol):
    """KMIP objects of one service at a time: another service's object is not there."""

    def add(self, rows: Sequence[ObjectRow]) -> None: ...

    def get(self, service: str, object_id: str) -> ObjectRow | None: ...

    def named(self, service: str, name: str) -> Sequence[ObjectRow]: ...

    def of_service(self, service: str, limit: int = 10_000) -> Sequence[ObjectRow]:
        """Return a service's objects that were not destroyed, oldest first."""
        ...

    def counts(self) -> Sequence[ObjectCountRow]:
        """Return how many objects each service has in each state, destroyed ones among them."""
        ...

    def change(self, row: ObjectRow) -> bool:
        """Replace a row if it still has `row.revision`, which becomes one more; False when somebody was faster."""
        ...

    def remove(self, service: str, object_id: str) -> bool:
        """Forget an object that was destroyed; False when it is not there."""
        ...
