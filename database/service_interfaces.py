"""Connected services and what they keep with us: the part of `interfaces` that is about them. Imports no psycopg."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from database.root_key_rows import SealedRootKeyRow
from database.rotation_rows import VersionUseRow
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
        """Record an L3 and return the one on record for its service and version, which is the first.

        An active one encrypts from now on. Said to lie under an older version of the tenant key than it does, it is
        merely wrapped anew once more.
        """
        ...

    def key(self, service: str, version: int | None = None) -> ServiceKeyRow | None:
        """Return the active L3 of a service, or a version that still opens something."""
        ...

    def key_and_root(
        self, service: str, version: int | None = None
    ) -> tuple[ServiceKeyRow, SealedRootKeyRow | None] | None:
        """Return an L3 as `key` does and what it takes to use its root key, both as of one moment.

        The second is None for the platform's root key, and for one whose credentials were forgotten.

        Raises: KeyVersionRetired when the version was destroyed, which is more than that it is not there.
        """
        ...

    def keys(self) -> Sequence[KeyVersionRow]:
        """Return every version of every L3 by service and version, without what is wrapped."""
        ...

    def opened(self, service: str, version: int) -> None:
        """Note that a version was opened; within a minute of the last note nothing is written."""
        ...

    def unemptied(self, service: str) -> Sequence[int]:
        """Return the versions under which objects may still be sealed and new ones are not, compromised ones first."""
        ...

    def note_emptied(self, service: str) -> Sequence[int]:
        """Note which of the `unemptied` nothing is sealed under, and return those; from now on nothing can be."""
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

    def some_ids(self, limit: int) -> Sequence[str]:
        """Return the ids of a few objects, whichever come first; it is all that the worker may read of them."""
        ...

    def counts(self) -> Sequence[ObjectCountRow]:
        """Return how many objects each service has in each state, destroyed ones among them."""
        ...

    def versions(self) -> Sequence[VersionUseRow]:
        """Return how many objects lie under each version of a service key; versions that have none are left out."""
        ...

    def change(self, row: ObjectRow) -> bool:
        """Replace a row if it still has `row.revision`, which becomes one more; False when somebody was faster."""
        ...

    def sealed(self, service: str, version: int, after: str, limit: int) -> Sequence[ObjectRow]:
        """Return objects that are sealed under a version, in order of id, from the first one behind `after`."""
        ...

    def reseal(self, rows: Sequence[ObjectRow]) -> int:
        """Give objects another seal (`key_version`, `material`) and change nothing else; return how many got it.

        As with `change`, those whose revision is another by now keep what they have.
        """
        ...

    def remove(self, service: str, object_id: str) -> bool:
        """Forget an object that was destroyed; False when it is not there."""
        ...
