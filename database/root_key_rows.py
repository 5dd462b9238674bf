"""What is on record of a customer's root key; part of `interfaces`, which hands it out. Imports no psycopg."""

from dataclasses import dataclass, field
from datetime import datetime

from core.keys.root_keys import Place, RootKeyMode, RootKeyState


@dataclass(frozen=True, slots=True)
class RootKeyRequestRow:
    """What somebody outside asks for. `sealed` (config/credential_encryption.py) is None once it was taken."""

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
