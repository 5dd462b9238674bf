"""What is on record of a customer's root key; part of `interfaces`, which hands it out. Imports no psycopg."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from database.rows import ServiceKeyRow
from tenancy.root_keys import Place, Problem, RootKeyMode, RootKeyState


@dataclass(frozen=True, slots=True)
class RootKeyRequestRow:
    """What somebody outside asks for. `sealed` (config/sealing.py) is None once it was taken."""

    request_id: str
    place: Place
    sealed: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealedRootKeyRow:
    """What it takes to use a root key: where it is, and its credentials under the tenant's L2."""

    root_key_id: str
    place: Place
    credentials: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HeldKeyRow:
    """A root key of the customer's as anybody may see it. `health` is `ok` or the code of its last failure."""

    root_key_id: str
    mode: RootKeyMode
    name: str
    place: Place
    state: RootKeyState
    health: str
    health_since: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RootKeyChangeRow:
    """One change of the root key; `wrapped` of `total` service keys lie under the new one too."""

    number: int
    from_mode: RootKeyMode
    from_name: str
    to_mode: RootKeyMode
    to_name: str
    root_key_id: str | None
    state: str
    """`running`, `done` or `failed`."""
    total: int
    wrapped: int
    problem: str | None
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class WatchedKey:
    """A root key that is to be tried. `held`: the tenant is locked because of it. `used`: lately, by a service."""

    tenant_id: str
    root_key_id: str
    health: str
    health_since: datetime
    held: bool
    used: bool


@dataclass(frozen=True, slots=True)
class RootKeyVersionsRow:
    """Under which versions of the root key in force a tenant's wraps lie, the probe among them."""

    newest: int
    """The newest that is known of."""
    older: int
    """How many of them lie under an older one."""
    wraps: int


@dataclass(frozen=True, slots=True)
class NumberedKey:
    """A root key whose holder numbers its versions; `root_key_id` None: the platform's of the region."""

    tenant_id: str
    region: str
    root_key_id: str | None
    oldest: int
    """The version that the oldest wrap lies under."""
    noticed: int | None
    """The newest version on record, if it was ever newer than a wrap's."""


class RootKeys(Protocol):
    """The tenant's own root keys; the first six are for everybody who may look, the rest for the worker."""

    def request(self, request: RootKeyRequestRow) -> None:
        """Store what is asked for (operator, dashboard); the same request id again changes nothing."""
        ...

    def problems(self, request_id: str) -> Sequence[Problem] | None:
        """Return what the preflight of a request found; None while it has not ended."""
        ...

    def current(self) -> HeldKeyRow | None:
        """Return the key in force; None: the platform's."""
        ...

    def held(self, root_key_id: str) -> HeldKeyRow | None: ...

    def changes(self, limit: int = 20) -> Sequence[RootKeyChangeRow]:
        """Return the changes, newest first."""
        ...

    def versions(self) -> RootKeyVersionsRow | None:
        """Return the versions that wraps lie under; None where there is no wrap, or its holder numbers none."""
        ...

    def requested(self, request_id: str) -> RootKeyRequestRow:
        """Return a request with what is sealed in it; raises RootKeyRequestUnknown."""
        ...

    def found(self, request_id: str, problems: Sequence[Problem]) -> None:
        """Keep what the preflight of a request found, and forget its sealed credentials."""
        ...

    def forget_untaken(self) -> int:
        """Empty the sealed credentials that nobody came for in a quarter of an hour; returns how many."""
        ...

    def admit(self, row: SealedRootKeyRow, l2_version: int = 1) -> None:
        """Record a candidate under the id of its request, which forgets its credentials; again is no change.

        `l2_version`: of the tenant key that the credentials lie under.
        """
        ...

    def forget(self, request_id: str) -> None:
        """Forget a request's sealed credentials, which nobody takes any more."""
        ...

    def prove(self, root_key_id: str, probe: bytes, digest: bytes) -> None:
        """Keep the value by which the key is tried from now on, and its SHA-256; the first one stays."""
        ...

    def sealed(self, root_key_id: str) -> SealedRootKeyRow | None:
        """Return what it takes to use a key; None when there is none or its credentials were forgotten."""
        ...

    def probe(self, root_key_id: str) -> tuple[bytes, bytes] | None:
        """Return probe and digest; None while there is none."""
        ...

    def notice(self, root_key_id: str | None, newest: int) -> bool:
        """Record which version of the key in force is the newest; False when it was on record or is not in force.

        The caller holds the tenant's row lock, which a change of the root key takes too.
        """
        ...

    def report(self, root_key_id: str, health: str) -> bool:
        """Record how a key does; False when that was on record."""
        ...

    def begin(self, number: int, to_mode: RootKeyMode, to_name: str, root_key_id: str | None) -> RootKeyChangeRow:
        """Record a change from the key in force and return the one on record; the same number again changes nothing.

        A change before it that never ended is abandoned.
        """
        ...

    def change(self, number: int) -> RootKeyChangeRow | None: ...

    def unstaged(self, number: int, limit: int) -> Sequence[ServiceKeyRow]:
        """Return service keys that have no wrap for this change yet."""
        ...

    def stage(self, number: int, wraps: Sequence[tuple[ServiceKeyRow, bytes]]) -> RootKeyChangeRow:
        """Keep new wraps beside those in force and return how far the change is.

        A key whose wrap in force is no longer the one that was read is left out. Raises Overtaken once it has ended.
        """
        ...

    def staged(self, number: int) -> tuple[ServiceKeyRow, bytes] | None:
        """Return some service key with its wrap for this change; None when there is none."""
        ...

    def switch(self, number: int) -> bool:
        """Put every service key under the new root key, together with the tenant; False while one has no new wrap.

        The former key is retired and its credentials are forgotten. Done already: True, and nothing changes.
        """
        ...

    def abandon(self, number: int, problem: str) -> bool:
        """End a change without effect: wraps and candidate are forgotten; False when it had ended."""
        ...
