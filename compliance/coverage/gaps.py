"""What can be missing until all listed data of a tenant is encrypted: each gap in words, with what to do next.

`service` is empty for what is the tenant's own; `place` for what is about the whole service. Both are names and stand
apart from the words, so that whoever shows them can mark them as names.
"""

from dataclasses import dataclass
from datetime import date
from typing import ClassVar

from core.tenants.lifecycle import State
from openkcm.contract.protected_fields import Backfill, Store


def _encrypt_old(place: str) -> str:
    if place.startswith(f"{Store.POSTGRESQL}:"):
        return "encrypt the old values with openkcm backfill"
    return "have a program under openkcm run write the old values again"


_UNDOES = frozenset({Backfill.UNDOING, Backfill.UNDONE})


@dataclass(frozen=True, slots=True)
class TenantClosed:
    state: State
    code: ClassVar[str] = "tenant_closed"
    service: ClassVar[str] = ""
    place: ClassVar[str] = ""

    @property
    def missing(self) -> str:
        return f"the tenant is {self.state}, so nothing new is encrypted"

    @property
    def next_step(self) -> str:
        return "the page Overview says what brings it back"


@dataclass(frozen=True, slots=True)
class NoService:
    code: ClassVar[str] = "no_service"
    service: ClassVar[str] = ""
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "no service is connected"
    next_step: ClassVar[str] = "connect the first one"


@dataclass(frozen=True, slots=True)
class NotConnected:
    service: str
    code: ClassVar[str] = "not_connected"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "was discovered and is not connected: it encrypts nothing with OpenKCM"
    next_step: ClassVar[str] = "connect it with an agent"


@dataclass(frozen=True, slots=True)
class BeingConnected:
    service: str
    code: ClassVar[str] = "being_connected"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "has no certificate yet, so it encrypts nothing"
    next_step: ClassVar[str] = "wait a minute; where its agent is awaited, start the agent"


@dataclass(frozen=True, slots=True)
class Disconnected:
    service: str
    code: ClassVar[str] = "disconnected"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "is disconnected, and its data is still on your list or was discovered"
    next_step: ClassVar[str] = "connect it again, or empty its list of fields if it is retired"


@dataclass(frozen=True, slots=True)
class CertificateLapsed:
    service: str
    code: ClassVar[str] = "certificate_lapsed"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "has no certificate that is valid, so it gets no keys"
    next_step: ClassVar[str] = "see why its agent does not renew it, or connect the service again"


@dataclass(frozen=True, slots=True)
class NothingEncrypted:
    service: str
    days: int
    code: ClassVar[str] = "nothing_encrypted"
    place: ClassVar[str] = ""

    @property
    def missing(self) -> str:
        return f"was not seen to encrypt anything in the last {self.days} days"

    @property
    def next_step(self) -> str:
        return "start its programs with openkcm run, or point it to its files as the integration guide says"


@dataclass(frozen=True, slots=True)
class FieldUnseen:
    service: str
    place: str
    days: int
    code: ClassVar[str] = "field_unseen"

    @property
    def missing(self) -> str:
        return f"is on the list, and no program encrypted or decrypted it in the last {self.days} days"

    @property
    def next_step(self) -> str:
        return "start every program that uses it with openkcm run; if there is no such field, take it off the list"


@dataclass(frozen=True, slots=True)
class PlainAllowed:
    """`finished`: the values from before were encrypted, as the service says."""

    service: str
    place: str
    finished: bool
    code: ClassVar[str] = "plain_allowed"

    @property
    def missing(self) -> str:
        return "may hold values that are not encrypted: its list allows it" + (
            ", though the old ones were encrypted" if self.finished else ""
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
            return "is decrypted again on purpose"
        return f"still holds {self.remaining:,} values from before that are not encrypted, as the service says"

    @property
    def next_step(self) -> str:
        if self.state in _UNDOES:
            return "take it off the list when that is done, or encrypt it again"
        if self.state is Backfill.STOPPED:
            return "start the encryption of the old values again: it goes on where it was"
        return "let the encryption of the old values come to its end"


@dataclass(frozen=True, slots=True)
class PlainRead:
    service: str
    place: str
    values: int
    day: date
    code: ClassVar[str] = "plain_read"

    @property
    def missing(self) -> str:
        return f"held values that are not encrypted: {self.values:,} read, the last on {self.day.isoformat()}"

    @property
    def next_step(self) -> str:
        return f"{_encrypt_old(self.place)}, and look for a program that writes past openkcm run"


@dataclass(frozen=True, slots=True)
class PlacesUntold:
    service: str
    code: ClassVar[str] = "places_untold"
    place: ClassVar[str] = ""
    missing: ClassVar[str] = "speaks of more places a day than are told apart, so some of them are not known"
    next_step: ClassVar[str] = "protect at most 1,000 fields with one service, or divide it into several"


Gap = (
    TenantClosed
    | NoService
    | NotConnected
    | BeingConnected
    | Disconnected
    | CertificateLapsed
    | NothingEncrypted
    | FieldUnseen
    | PlainAllowed
    | PlainRead
    | BackfillUnfinished
    | PlacesUntold
)
