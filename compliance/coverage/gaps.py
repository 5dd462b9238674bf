"""Gaps in the encryption of a tenant's listed data, each with its text and the next step.

`service` is empty for a gap of the tenant itself, `place` for a gap of a whole service. Both names are separate from
the texts, so that pages and commands can format them as names.
"""

from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from core.tenants.lifecycle import State
from openkcm.contract.protected_fields import Backfill, Store


def _encrypt_old(place: str) -> str:
    if place.startswith(f"{Store.POSTGRESQL}:"):
        return "encrypt the existing values with openkcm backfill"
    return "let a program under openkcm run write the existing values again"


_UNDOES = frozenset({Backfill.UNDOING, Backfill.UNDONE})


@dataclass(frozen=True, slots=True)
class TenantClosed:
    state: State
    code: ClassVar[str] = "tenant_not_operational"
    service: ClassVar[str] = ""
    place: ClassVar[str] = ""

    @property
    def missing(self) -> str:
        return f"the tenant is {self.state}, so encryption is rejected"

    @property
    def next_step(self) -> str:
        return "see the page Overview for how to activate it"


@dataclass(frozen=True, slots=True)
class NoService:
    code: ClassVar[str] = "no_service"
    service: ClassVar[str] = ""
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "no service is connected"
    next_step: ClassVar[str] = "connect a service"


@dataclass(frozen=True, slots=True)
class NotConnected:
    service: str
    code: ClassVar[str] = "not_connected"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "is discovered but not connected, so it encrypts nothing with OpenKCM"
    next_step: ClassVar[str] = "connect it with an agent"


@dataclass(frozen=True, slots=True)
class BeingConnected:
    service: str
    code: ClassVar[str] = "being_connected"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "has no certificate yet, so it encrypts nothing"
    next_step: ClassVar[str] = "wait a minute; if its agent does not run, start the agent"


@dataclass(frozen=True, slots=True)
class Disconnected:
    service: str
    code: ClassVar[str] = "disconnected"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "is disconnected, but it still has protected fields or is discovered"
    next_step: ClassVar[str] = "connect it again, or remove its protected fields if it is retired"


@dataclass(frozen=True, slots=True)
class CertificateLapsed:
    service: str
    code: ClassVar[str] = "certificate_expired"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "has no valid certificate, so it gets no keys"
    next_step: ClassVar[str] = "check why its agent does not renew it, or connect the service again"


@dataclass(frozen=True, slots=True)
class NothingEncrypted:
    service: str
    days: int
    code: ClassVar[str] = "nothing_encrypted"
    place: ClassVar[str] = ""

    @property
    def missing(self) -> str:
        return f"did not encrypt anything in the last {self.days} days"

    @property
    def next_step(self) -> str:
        return "start its programs with openkcm run, or configure it as the integration guide describes"


@dataclass(frozen=True, slots=True)
class NoFieldsListed:
    """Without a list it is unknown which of the service's data is sensitive, and so whether it is encrypted."""

    service: str
    code: ClassVar[str] = "no_fields_listed"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "has no listed fields, so its coverage is unknown"
    next_step: ClassVar[str] = "list its sensitive fields under Fields"


@dataclass(frozen=True, slots=True)
class FieldUnseen:
    service: str
    place: str
    days: int
    code: ClassVar[str] = "field_not_reported"

    @property
    def missing(self) -> str:
        return f"is protected, but no program encrypted or decrypted it in the last {self.days} days"

    @property
    def next_step(self) -> str:
        return "start every program that uses it with openkcm run; if the field does not exist, remove it from the list"


@dataclass(frozen=True, slots=True)
class PlainAllowed:
    """Unencrypted values are allowed; `finished`: the service reports that all existing values are encrypted."""

    service: str
    place: str
    finished: bool
    code: ClassVar[str] = "plaintext_allowed"

    @property
    def missing(self) -> str:
        return "may contain unencrypted values, because the list allows them" + (
            ", although the existing values are encrypted" if self.finished else ""
        )

    @property
    def next_step(self) -> str:
        return ("" if self.finished else f"{_encrypt_old(self.place)}, then ") + "forbid plain values on the list"


@dataclass(frozen=True, slots=True)
class BackfillUnfinished:
    service: str
    place: str
    state: Backfill
    remaining: int
    code: ClassVar[str] = "backfill_unfinished"

    @property
    def missing(self) -> str:
        if self.state in _UNDOES:
            return "is being decrypted on request"
        return f"still contains {self.remaining:,} unencrypted existing values, as the service reports"

    @property
    def next_step(self) -> str:
        if self.state in _UNDOES:
            return "remove it from the list when the decryption is done, or encrypt it again"
        if self.state is Backfill.STOPPED:
            return "start the backfill again; it resumes where it stopped"
        return "wait until the backfill is finished"


@dataclass(frozen=True, slots=True)
class PlainRead:
    service: str
    place: str
    values: int
    day: date
    code: ClassVar[str] = "plaintext_read"

    @property
    def missing(self) -> str:
        return f"contained unencrypted values: {self.values:,} read, the last on {self.day.isoformat()}"

    @property
    def next_step(self) -> str:
        return f"{_encrypt_old(self.place)}, and find the program that writes without openkcm run"


@dataclass(frozen=True, slots=True)
class PlacesUntold:
    service: str
    code: ClassVar[str] = "unreported_fields"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "reports more places a day than can be distinguished, so some are unknown"
    next_step: ClassVar[str] = "protect at most 1,000 fields with one service, or divide it into several"


Gap = (
    TenantClosed
    | NoService
    | NotConnected
    | BeingConnected
    | Disconnected
    | CertificateLapsed
    | NothingEncrypted
    | NoFieldsListed
    | FieldUnseen
    | PlainAllowed
    | PlainRead
    | BackfillUnfinished
    | PlacesUntold
)
