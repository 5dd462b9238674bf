"""The shared state of the items of one request: caller, protocol version, and the result of the previous item."""

import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache

from core.correlation import correlation_id
from core.errors.services import ObjectNotFound
from core.services import CHANGES, CryptoOperation
from crypto_service.audit.events import separate_event
from crypto_service.audit.wal import WalRecord
from crypto_service.interfaces import AuditEntry, ClientIdentity, Dependencies
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.fields import read_text, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.managed_object import ManagedObject, require_usable
from crypto_service.kmip.objects.store import ObjectStore
from crypto_service.kmip.objects.streams import Streams
from openkcm.contract.audit_events import AuditEvent

_OBJECT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_CACHED_IDS = 4096
"""Encoded object ids that are cached, of up to 128 characters each. All tenants share the cache: an id is no secret."""
Payload = tuple[Item, ...]


@dataclass(slots=True)
class Batch:
    """`version` is the `framing.feature_level`, `now` the time of the request in seconds since the epoch.

    `placeholder` is KMIP's ID Placeholder (KMIP 1.4, section 4). `operation`, `subject`, `bytes` and `recorded` are for
    the audit of the current item.
    """

    caller: ClientIdentity
    version: int
    parts: Dependencies
    objects: ObjectStore
    streams: Streams
    now: int
    paid: int = 0
    """What the request has paid for its items and its size."""
    placeholder: str | None = None
    operation: CryptoOperation | None = None
    subject: str = ""
    bytes: int = field(default=0)
    recorded: bool = False

    def charge(self, cost: int) -> None:
        """Charge the tenant for work that is more than a small symmetric operation; raise TooManyRequests."""
        self.parts.limits.charge(self.caller.tenant_id, cost, self.paid)

    def change_event(self, subject: str) -> AuditEvent | None:
        """Return the audit event of the current item, for the transaction of its change; None if it is only a use.

        So there is no change without a record, whenever this process is killed or its disk is full.
        """
        if self.operation is None or self.operation not in CHANGES:
            return None
        self.recorded = True
        entry = AuditEntry(
            self.caller.tenant_id,
            self.caller.service,
            self.operation,
            subject,
            correlation_id.get() or "",
            self.caller.address,
        )
        return separate_event(WalRecord(0, time.time_ns() // 1_000_000, entry), f"kmip/{uuid.uuid4().hex}")

    def object_id(self, payload: Item) -> str:
        """Return the object id of a payload, or the placeholder if it has none; raise ObjectNotFound."""
        named = read_text(payload, Tag.UNIQUE_IDENTIFIER)
        self.subject = self.checked_id(self.placeholder if named is None else named)
        return self.subject

    async def usable_key(self, payload: Item, use: int) -> ManagedObject:
        """Return the key that a payload names; raise unless it permits `use`, a bit of the usage mask."""
        managed = await self.objects.get(self.caller, self.object_id(payload))
        require_usable(managed, use, self.now)
        return managed

    @staticmethod
    def checked_id(found: str | None) -> str:
        """Return a well-formed id; raise ObjectNotFound for one that cannot exist here."""
        if found is None or not _OBJECT_ID.fullmatch(found):
            raise ObjectNotFound
        return found

    def about(self, object_id: str) -> Item:
        """Name the object of the current item, and return its Unique Identifier for the response."""
        self.subject = object_id
        return _encoded_id(object_id)

    def created(self, object_id: str) -> Item:
        """Make a new object the placeholder, and return its Unique Identifier for the response.

        Only new and located objects become it: an item that names an object must not decide which object the next one
        destroys.
        """
        self.placeholder = object_id
        return self.about(object_id)


@lru_cache(maxsize=_CACHED_IDS)
def _encoded_id(object_id: str) -> Item:
    return ttlv.pre_encode(text(Tag.UNIQUE_IDENTIFIER, object_id))


Handler = Callable[[Batch, Item], Awaitable[Payload]]
"""An operation: returns the items of the response payload for a request payload, or raises an error."""
