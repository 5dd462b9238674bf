"""A listener without network, OpenBao and PostgreSQL, and the one of KMIP with its objects in memory.

For fuzzing only, where nothing but the client's input varies.
"""

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import structlog

from core.names import l2_key
from core.tenants.lifecycle import State
from crypto_service.interfaces import AuditEntry, ClientIdentity, Dependencies, ServiceKey
from crypto_service.keys.operations import CryptoOperations
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import Operation, ResultStatus
from crypto_service.kmip.codec.fields import choice, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.dispatch import Dispatcher
from crypto_service.kmip.objects.store import ObjectStore
from crypto_service.kmip.server import KmipConnection
from crypto_service.server.connection import Connection
from crypto_service.server.connection_registry import ConnectionRegistry
from database.services.managed_objects import ObjectFilter, ObjectRow
from openkcm.contract.audit_events import AuditEvent

LIMIT = 1 << 20
_TENANT, _SERVICE = "fuzz-corp", "orders"
_MOST_OBJECTS = 60
Result = TypeVar("Result")


class MemoryObjects:
    """`database.services.managed_objects.ManagedObjects` in a dictionary, with its database."""

    def __init__(self) -> None:
        self.rows: dict[str, ObjectRow] = {}

    @contextmanager
    def tenant_tx(self, tenant_id: str) -> Iterator[Any]:  # noqa: ARG002 - there is one tenant
        yield self

    @property
    def objects(self) -> "MemoryObjects":
        return self

    @property
    def audit(self) -> "MemoryObjects":
        return self

    def append(self, event: AuditEvent) -> int:  # noqa: ARG002 - no test reads it
        return 1

    def add(self, rows: Sequence[ObjectRow]) -> None:
        self.rows.update({row.object_id: row for row in rows})

    def get(self, service: str, object_id: str) -> ObjectRow | None:  # noqa: ARG002 - there is one service
        return self.rows.get(object_id)

    def lock_names(self, service: str) -> None:
        """Do nothing: there is one thread."""

    def named(self, service: str, name: str) -> Sequence[ObjectRow]:  # noqa: ARG002 - the same
        return [row for row in self.rows.values() if name in row.names]

    def not_indexed(self, service: str) -> Sequence[ObjectRow]:  # noqa: ARG002 - the same
        return []

    def search(self, wanted: ObjectFilter, limit: int, offset: int) -> tuple[int, Sequence[str]]:
        found = [row.object_id for row in self.matching(wanted)]
        return len(found), found[offset : offset + limit]

    def matching(self, wanted: ObjectFilter) -> Sequence[ObjectRow]:
        """Return the objects with the wanted terms; other conditions are not decided here."""
        rows = [row for row in self.rows.values() if row.material is not None]
        return [row for row in rows if row.search is None or set(wanted.terms) <= set(row.search.terms)]

    def count(self, service: str) -> int:  # noqa: ARG002 - the same
        return len(self.rows)

    def change(self, row: ObjectRow) -> bool:
        before = self.rows.get(row.object_id)
        if before is None or before.revision != row.revision:
            return False
        self.rows[row.object_id] = row._replace(revision=row.revision + 1)
        return True


class Given:
    """Stubs for callers, keys, write-ahead log, limits, threads and change notifications; they accept everything."""

    def __init__(self) -> None:
        self.entries: deque[AuditEntry] = deque(maxlen=100)
        self.is_failing = False
        self.blocked = 0.0

    async def identify(self, certificate_der: bytes, address: str) -> ClientIdentity:  # noqa: ARG002 - all are the same
        return ClientIdentity(_TENANT, _SERVICE, l2_key(_TENANT), "eu-west-1", "1a2b", State.ACTIVE, address)

    def is_current(self, caller: ClientIdentity) -> bool:  # noqa: ARG002 - nothing changes
        return True

    async def refresh(self, caller: ClientIdentity) -> ClientIdentity:
        return caller

    async def locked(self, certificate_der: bytes) -> ClientIdentity:
        return await self.identify(certificate_der, "")

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        return self.cached(caller, version)

    def cached(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        return ServiceKey(version or 1, hashlib.sha256(caller.service.encode()).digest())

    def revision(self, tenant_id: str) -> object:  # noqa: ARG002 - the keys never change
        return self

    async def write(self, entries: Sequence[AuditEntry]) -> None:
        self.entries += entries

    def enter(self, tenant_id: str, cost: int = 1) -> None: ...

    def charge(self, tenant_id: str, cost: int, paid: int) -> None: ...

    def leave(self, tenant_id: str) -> None: ...

    async def run(self, tenant_id: str, work: Callable[[], Result]) -> Result:  # noqa: ARG002 - no threads
        began = time.thread_time()
        try:
            return work()
        finally:
            self.blocked += time.thread_time() - began

    def subscribe(self, forget: Callable[[str | None], None]) -> None: ...


class Wire(asyncio.Transport):
    """The client's side of a connection: the received data, and whether the server closed it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"ssl_object": self, "socket": self, "peername": ("127.0.0.1", 1)}.get(name, default)

    def setsockopt(self, level: int, option: int, value: int) -> None: ...

    def getpeercert(self, *, binary_form: bool) -> bytes:  # noqa: ARG002 - as `ssl.SSLObject` has it
        return b"certificate"

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Stand(ABC):
    """Must be created on a running loop. `errors` has the internal errors that the listener logged."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        structlog.configure(processors=[self._log_error])
        self._given = given = Given()
        self._parts = Dependencies(given, CryptoOperations(given, given, given), given, given, given, given, given)
        self._connections = ConnectionRegistry(self._parts)
        self._wire = Wire()
        self._connection: Connection | None = None

    @abstractmethod
    def _protocol(self) -> Connection:
        """Return the service's side of a new connection."""

    async def send(self, pieces: Sequence[bytes]) -> bytes:
        """Return the response; after a connection was closed, the next call opens a new one."""
        connection = self._connection
        if connection is None or self._wire.closed:
            if connection is not None:
                connection.connection_lost(None)
            self._wire, self._connection = Wire(), (connection := self._protocol())
            connection.connection_made(self._wire)
        for piece in pieces:
            connection.data_received(piece)
        while connection.busy():  # noqa: ASYNC110 - the product has no event for it
            await asyncio.sleep(0)
        answer = bytes(self._wire.sent)
        self._wire.sent.clear()
        return answer

    @property
    def blocked(self) -> float:
        """CPU seconds of work that the service does in threads, and this class on the loop."""
        return self._given.blocked

    def hang_up(self) -> None:
        """End the connection, even within a message."""
        self._wire.close()

    def stop(self) -> None:
        self._connections.stop()
        structlog.reset_defaults()

    def _log_error(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        """Record an internal error that the service logs, and drop all other lines."""
        if method in ("error", "critical", "exception"):
            self.errors.append(f"{event['event']}: {event.get('exc_info')!r}")
        raise structlog.DropEvent


class KmipStand(Stand):
    def __init__(self) -> None:
        super().__init__()
        self.database = MemoryObjects()
        store = ObjectStore(cast("Any", self.database), self._parts, 60.0, 10_000)
        self._dispatcher = Dispatcher(self._parts, store)
        self._kept: dict[str, ObjectRow] = {}

    async def furnish(self) -> list[str]:
        """Create objects for the requests, and return their identifiers."""
        made = [await self._create(request) for request in _FIRST]
        for identifier in made:
            await self._create(_message(Operation.ACTIVATE, text(Tag.UNIQUE_IDENTIFIER, identifier)))
        self._kept = dict(self.database.rows)
        return made

    async def send(self, pieces: Sequence[bytes]) -> bytes:
        answer = await super().send(pieces)
        if len(self.database.rows) > _MOST_OBJECTS:
            self.database.rows = dict(self._kept)
        return answer

    def _protocol(self) -> Connection:
        return KmipConnection(self._parts, self._connections, self._dispatcher, LIMIT)

    async def _create(self, request: Item) -> str:
        (result,) = ttlv.decode(await self.send([ttlv.encode(request)])).all(Tag.BATCH_ITEM)
        payload, status = result.first(Tag.RESPONSE_PAYLOAD), result.first(Tag.RESULT_STATUS)
        assert payload is not None
        assert status is not None
        assert status.value == ResultStatus.SUCCESS
        identifier = payload.first(Tag.UNIQUE_IDENTIFIER)
        assert identifier is not None
        return str(identifier.value)


def _message(operation: int, *payload: Item) -> Item:
    version = structure(
        Tag.PROTOCOL_VERSION, number(Tag.PROTOCOL_VERSION_MAJOR, 1), number(Tag.PROTOCOL_VERSION_MINOR, 4)
    )
    header = structure(Tag.REQUEST_HEADER, version, number(Tag.BATCH_COUNT, 1))
    item = structure(Tag.BATCH_ITEM, choice(Tag.OPERATION, operation), structure(Tag.REQUEST_PAYLOAD, *payload))
    return structure(Tag.REQUEST_MESSAGE, header, item)


def _attribute(name: str, value: Item) -> Item:
    return structure(Tag.ATTRIBUTE, text(Tag.ATTRIBUTE_NAME, name), value)


def _template(mask: int) -> Item:
    return structure(
        Tag.TEMPLATE_ATTRIBUTE,
        _attribute("Cryptographic Algorithm", choice(Tag.ATTRIBUTE_VALUE, 3)),
        _attribute("Cryptographic Length", number(Tag.ATTRIBUTE_VALUE, 256)),
        _attribute("Cryptographic Usage Mask", number(Tag.ATTRIBUTE_VALUE, mask)),
    )


def _secret() -> Item:
    value = structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, bytes(96)))
    block = structure(Tag.KEY_BLOCK, choice(Tag.KEY_FORMAT_TYPE, 2), value)
    return structure(Tag.SECRET_DATA, choice(Tag.SECRET_DATA_TYPE, 2), block)


_FIRST = (
    _message(Operation.CREATE, choice(Tag.OBJECT_TYPE, 2), _template(12)),
    _message(Operation.CREATE, choice(Tag.OBJECT_TYPE, 2), _template(0xFFFF)),
    _message(Operation.REGISTER, choice(Tag.OBJECT_TYPE, 7), structure(Tag.TEMPLATE_ATTRIBUTE), _secret()),
)
