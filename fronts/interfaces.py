"""What may be tried at the doors of the crypto service.

Every attack has a positive control: who may do it does the same, in the same second, and it works. A check holds only
when the attack got the one answer that the wall gives. A service that is away or in trouble raises `FrontsFailing`: it
proves nothing in either direction.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from openkcm.errors import PlatformError


class FrontsAway(PlatformError):
    """Nobody listens: the crypto service does not run here, or has just gone."""

    code: ClassVar[str] = "fronts_away"
    message = "the crypto service does not answer at its address"
    hint = "see whether it runs: openkcm doctor"


class FrontsFailing(PlatformError):
    """It answered, and neither as a wall does nor as to its owner."""

    code: ClassVar[str] = "fronts_failing"
    hint = "the check is tried again; if it stays, see openkcm doctor and the log of the crypto service"


class ProbeRefused(PlatformError):
    """What the platform's own service may do did not work, so nothing was proven."""

    code: ClassVar[str] = "front_control_failed"
    hint = "the check is tried again with a certificate of its own; if it stays, see the log of the crypto service"


class Door(StrEnum):
    HTTPS = "https"
    KMIP = "kmip"


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody with a certificate. `presented_pem` is the certificate and what is above it, without the root."""

    tenant_id: str
    service: str
    serial: str
    presented_pem: str
    root_pem: str
    not_after: datetime
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """The platform's own services: two of one tenant, and one of another."""

    one: Identity
    sibling: Identity
    other: Identity


@dataclass(frozen=True, slots=True)
class Strangers:
    """Certificates that a tenant's authority signed and that must open nothing, each with all else right.

    `for_other` names another tenant throughout; `other_uri` does in its URI alone; both have the serial number of a
    certificate that this tenant has on record. `unrecorded` is one of the authority's own tenant, never given out.
    """

    for_other: Identity
    other_uri: Identity
    unrecorded: Identity
