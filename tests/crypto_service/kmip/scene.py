"""Two tenants, their services, and two processes of the crypto service over one real database."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest

from core.errors.platform import VaultUnavailable
from core.names import l2_key
from core.tenants.lifecycle import State
from crypto_service.interfaces import ClientIdentity, Dependencies, ServiceKey
from crypto_service.keys.operations import CryptoOperations
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    ObjectType,
    Operation,
    PaddingMethod,
    ResultReason,
    UsageLimitsUnit,
)
from crypto_service.kmip.codec.fields import choice, flag, long, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType
from crypto_service.kmip.dispatch import Dispatcher, Request
from crypto_service.kmip.objects.store import ObjectStore
from crypto_service.server.executor import FairExecutor
from crypto_service.server.limits import TenantLimits
from database.connection.database import Database
from openkcm.contract.services import ServiceKind
from tests.crypto_service.core.world import Changes, Clock, Journal
from tests.crypto_service.kmip.messages import batch_item, message
from tests.database.builders import a_provisioned_tenant, a_service_key
from tests.database.fixtures import Field, Server, clone

VALUE = Tag.ATTRIBUTE_VALUE
_numbers = count(1)
START = 1_790_000_000
MOST_OBJECTS = 50


@dataclass
class Callers:
    """Callers with a state for each tenant."""

    states: dict[str, State] = field(default_factory=dict)

    async def identify(self, certificate_der: bytes, address: str) -> ClientIdentity:
        raise NotImplementedError

    def is_current(self, caller: ClientIdentity) -> bool:  # noqa: ARG002 - each request reads the caller
        return False

    async def refresh(self, caller: ClientIdentity) -> ClientIdentity:
        return replace(caller, tenant_state=self.states.get(caller.tenant_id, State.ACTIVE))


@dataclass
class Keys:
    """A key for each service; raises VaultUnavailable while the key server is `down`."""

    down: bool = False

    async def key(self, caller: ClientIdentity, version: int | None = None) -> ServiceKey:
        if self.down:
            raise VaultUnavailable
        place = f"{caller.tenant_id}/{caller.service}/{version or 1}"
        return ServiceKey(version or 1, hashlib.sha256(place.encode()).digest())

    def cached(self, caller: ClientIdentity, version: int | None = None) -> None:
        """Return nothing: each request reads the key."""

    def revision(self, tenant_id: str) -> object:  # noqa: ARG002 - the keys never change
        return self


@dataclass(frozen=True)
class Answered:
    """The result of one batch item."""

    item: Item

    @property
    def reason(self) -> ResultReason | None:
        found = self.item.first(Tag.RESULT_REASON)
        return None if found is None else ResultReason(found.value)

    @property
    def payload(self) -> Item:
        found = self.item.first(Tag.RESPONSE_PAYLOAD)
        assert found is not None, self.message
        return found

    @property
    def message(self) -> str:
        found = self.item.first(Tag.RESULT_MESSAGE)
        return "" if found is None else found.value

    def value(self, tag: int):
        found = self.payload.first(tag)
        assert found is not None
        return found.value

    @property
    def object_id(self) -> str:
        return self.value(Tag.UNIQUE_IDENTIFIER)

    @property
    def ids(self) -> list[str]:
        return [item.value for item in self.payload.all(Tag.UNIQUE_IDENTIFIER)]

    @property
    def attributes(self) -> dict:
        return {
            item.first(Tag.ATTRIBUTE_NAME).value: item.first(VALUE).value for item in self.payload.all(Tag.ATTRIBUTE)
        }

    @property
    def material(self) -> bytes:
        key = self.payload.children()[-1]
        return key.first(Tag.KEY_BLOCK).first(Tag.KEY_VALUE).first(Tag.KEY_MATERIAL).value


@dataclass
class Process:
    """One process, with a separate cache."""

    parts: Dependencies
    objects: ObjectStore
    dispatcher: Dispatcher
    changes: Changes


def a_process(stand: Any, keys: Any, crypto: Database, changes: Changes) -> Process:
    """Return a process for a test setup that has callers, a journal, threads and a clock."""
    operations = CryptoOperations(stand.callers, keys, stand.journal)
    limits = TenantLimits(1_000_000, 100)
    parts = Dependencies(stand.callers, operations, stand.journal, limits, stand.threads, stand.threads, changes)
    objects = ObjectStore(crypto, parts, 60.0, MOST_OBJECTS, stand.clock)
    return Process(parts, objects, Dispatcher(parts, objects), changes)


class Client:
    """A client with one service's certificate, connected to one process."""

    def __init__(self, scene: "Scene", process: Process, caller: ClientIdentity, minor: int, major: int) -> None:
        self.scene, self.process, self.caller, self.minor, self.major = scene, process, caller, minor, major

    async def send(self, request: Item) -> Item:
        caller = await self.scene.callers.refresh(self.caller)
        response = await self.process.dispatcher.answer(caller, Request(request), "192.0.2.7")
        return ttlv.decode(ttlv.encode(response))

    async def batch(self, *items: Item, header: tuple[Item, ...] = ()) -> list[Answered]:
        response = await self.send(message(*items, minor=self.minor, major=self.major, header=header))
        return [Answered(item) for item in response.all(Tag.BATCH_ITEM)]

    async def ask(self, operation: int, *payload: Item) -> Answered:
        return (await self.batch(batch_item(operation, *payload)))[0]

    async def about(self, operation: int, object_id: str, *payload: Item) -> Answered:
        return await self.ask(operation, text(Tag.UNIQUE_IDENTIFIER, object_id), *payload)

    async def create(self, *attributes: Item, mask: int = 12) -> str:
        made = await self.ask(*creation(*attributes, mask=mask))
        return made.object_id

    async def activated(self, *attributes: Item, mask: int = 12) -> str:
        object_id = await self.create(*attributes, mask=mask)
        await self.about(Operation.ACTIVATE, object_id)
        return object_id

    async def get(self, object_id: str) -> Answered:
        return await self.about(Operation.GET, object_id)

    async def state(self, object_id: str) -> int | None:
        return (await self.about(Operation.GET_ATTRIBUTES, object_id)).attributes.get("State")

    async def revoke(self, object_id: str, code: int) -> Answered:
        reason = structure(Tag.REVOCATION_REASON, choice(Tag.REVOCATION_REASON_CODE, code))
        return await self.about(Operation.REVOKE, object_id, reason)

    async def encrypt(self, object_id: str, data: bytes, *more: Item, parameters: Item | None = None) -> Answered:
        return await self.about(Operation.ENCRYPT, object_id, parameters or cbc(), octets(Tag.DATA, data), *more)


def creation(*attributes: Item, mask: int = 12) -> tuple[int, Item, Item]:
    template = structure(
        Tag.TEMPLATE_ATTRIBUTE,
        attribute("Cryptographic Algorithm", choice(VALUE, 3)),
        attribute("Cryptographic Length", number(VALUE, 256)),
        attribute("Cryptographic Usage Mask", number(VALUE, mask)),
        *attributes,
    )
    return Operation.CREATE, choice(Tag.OBJECT_TYPE, ObjectType.SYMMETRIC_KEY), template


def attribute(name: str, value: Item, index: int | None = None) -> Item:
    where = () if index is None else (number(Tag.ATTRIBUTE_INDEX, index),)
    return structure(Tag.ATTRIBUTE, text(Tag.ATTRIBUTE_NAME, name), *where, value)


def a_name(name: str) -> Item:
    return attribute("Name", structure(VALUE, text(Tag.NAME_VALUE, name), choice(Tag.NAME_TYPE, 1)))


def a_date(name: str, seconds: float) -> Item:
    return attribute(name, Item(VALUE, ItemType.DATE_TIME, int(seconds)))


def limited(total: int, unit: UsageLimitsUnit) -> Item:
    limits = long(Tag.USAGE_LIMITS_TOTAL, total), choice(Tag.USAGE_LIMITS_UNIT, unit)
    return attribute("Usage Limits", structure(VALUE, *limits))


def custom(name: str, value: str) -> Item:
    return attribute(name, text(VALUE, value))


def cbc(*, random: bool = True) -> Item:
    return structure(
        Tag.CRYPTOGRAPHIC_PARAMETERS,
        choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.CBC),
        choice(Tag.PADDING_METHOD, PaddingMethod.PKCS5),
        flag(Tag.RANDOM_IV, value=random),
    )


def gcm() -> Item:
    return structure(
        Tag.CRYPTOGRAPHIC_PARAMETERS,
        choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.GCM),
        flag(Tag.RANDOM_IV, value=True),
    )


@dataclass(frozen=True)
class Base:
    """The database of a module's tests, and the two roles that write to it."""

    field: Field
    worker: Database
    crypto: Database


def connect(worker: Database, tenant_id: str, service: str) -> None:
    with worker.tenant_tx(tenant_id) as tx:
        tx.services.connect(service, ServiceKind.MONGODB)
        tx.services.record_key(a_service_key(tenant_id, service))
        tx.services.connected(service)


class Scene:
    SERVICES = ("orders", "billing")

    def __init__(self, base: Base) -> None:
        self.tenant, self.other = (f"tenant-{next(_numbers)}-kmip" for _ in range(2))
        self.base = base
        self.revoked_keys_readable = False
        self.clock, self.callers, self.keys, self.journal = Clock(START), Callers(), Keys(), Journal()
        self.threads = FairExecutor(8)
        for tenant_id in (self.tenant, self.other):
            a_provisioned_tenant(base.worker, tenant_id)
            for service in self.SERVICES:
                connect(base.worker, tenant_id, service)
        self.one, self.two = self.process(), self.process()

    def process(self) -> Process:
        return a_process(self, self.keys, self.base.crypto, Changes())

    def client(
        self,
        service: str = "orders",
        tenant_id: str = "",
        process: Process | None = None,
        minor: int = 4,
        major: int = 1,
    ) -> Client:
        tenant_id = tenant_id or self.tenant
        caller = ClientIdentity(
            tenant_id,
            service,
            l2_key(tenant_id),
            "eu-west-1",
            "1a2b",
            State.ACTIVE,
            revoked_keys_readable=self.revoked_keys_readable,
        )
        return Client(self, process or self.one, caller, minor, major)

    def close(self) -> None:
        self.threads.close()


@pytest.fixture(scope="module")
def base(server: Server, template: str) -> Iterator[Base]:
    with clone(server, template) as field:
        yield Base(field, field.open("worker", max_size=1), field.open("crypto", max_size=4))


@pytest.fixture
def scene(base: Base) -> Iterator[Scene]:
    """Return separate tenants for each test, in the database of its module."""
    made = Scene(base)
    yield made
    made.close()
