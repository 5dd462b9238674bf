"""What the items of one request share: who asks, in which version, and what the item before left behind."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from core.errors.services import ObjectNotFound
from crypto_service.interfaces import ClientIdentity, Dependencies
from crypto_service.kmip.codec.fields import read_text, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.store import ObjectStore

_OBJECT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
Payload = tuple[Item, ...]


@dataclass(slots=True)
class Batch:
    """`version` is the minor one, `now` the time of the request in seconds since the epoch.

    `placeholder` is KMIP's ID Placeholder (KMIP 1.4, section 4). `subject` and `bytes` go into the audit record of the
    item being worked on.
    """

    caller: ClientIdentity
    version: int
    parts: Dependencies
    objects: ObjectStore
    now: int
    placeholder: str | None = None
    subject: str = ""
    bytes: int = field(default=0)

    def object_id(self, payload: Item) -> str:
        """Return the object a payload is about, the placeholder where it names none; raises ObjectNotFound."""
        named = read_text(payload, Tag.UNIQUE_IDENTIFIER)
        self.subject = self.checked_id(self.placeholder if named is None else named)
        return self.subject

    @staticmethod
    def checked_id(found: str | None) -> str:
        """Return an id that may be looked for; raises ObjectNotFound for one that was never made here."""
        if found is None or not _OBJECT_ID.fullmatch(found):
            raise ObjectNotFound
        return found

    def about(self, object_id: str) -> Item:
        """Make the object the placeholder, and return its Unique Identifier for an answer."""
        self.placeholder = self.subject = object_id
        return text(Tag.UNIQUE_IDENTIFIER, object_id)


Handler = Callable[[Batch, Item], Awaitable[Payload]]
"""An operation: from the request's payload to the items of the answer's; it refuses by raising."""
