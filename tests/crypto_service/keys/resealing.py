"""A tenant with real keys and objects, and processes of the crypto service that re-encrypt them."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.tenants.lifecycle import State
from crypto_service.interfaces import ClientIdentity
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.keys.reencryption import ObjectReencryption, ReencryptionRate
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import octets
from crypto_service.kmip.codec.tags import Tag
from crypto_service.server.executor import FairExecutor
from database.platform.scheduled import PlatformQueries
from database.postgres.change_feed import tenant_hash
from database.services.managed_objects import ObjectRow
from tests.crypto_service.core.world import REGION, Changes, Clock, Home, Journal, World, a_keyring
from tests.crypto_service.kmip import scene
from tests.crypto_service.kmip.scene import START, Callers, Client, a_name, cbc, custom

FAST = ReencryptionRate(batch=8, pause=0.0, between=0.02, at_most=0.2, first_wait=0.05)


@dataclass
class Process(scene.Process):
    """One process of the crypto service, with a separate key cache."""

    keyring: ServiceKeyCache
    resealing: ObjectReencryption


class Stand:
    def __init__(self, world: World) -> None:
        self.world, self.home = world, world.tenant()
        self.home.connect("orders")
        self.callers, self.journal, self.clock = Callers(), Journal(), Clock(START)
        self.threads = FairExecutor(8)
        self.one, self.two = self.process(), self.process()

    def process(self, pace: ReencryptionRate = FAST) -> Process:
        changes = Changes()
        keyring = a_keyring(self.world, self.threads, changes)
        made = scene.a_process(self, keyring, self.world.crypto, changes)
        resealing = ObjectReencryption(
            self.world.crypto, PlatformQueries(self.world.crypto), keyring, self.threads, changes, pace=pace
        )
        return Process(made.parts, made.objects, made.dispatcher, changes, keyring, resealing)

    def client(self, process: Process | None = None, service: str = "orders", home: Home | None = None) -> Client:
        home = home or self.home
        caller = ClientIdentity(home.tenant_id, service, home.l2_key, REGION, "1a2b", State.ACTIVE)
        return Client(self, process or self.one, caller, 4, 1)  # type: ignore[arg-type]  # what a client uses of both

    def tell(self) -> None:
        """Notify both processes of a change of the tenant."""
        for process in (self.one, self.two):
            process.changes.tell(tenant_hash(self.home.tenant_id))

    def rotate(self, version: int, service: str = "orders") -> None:
        self.home.new_key(service, version)
        self.tell()

    def rows(self, service: str = "orders", home: Home | None = None) -> Sequence[ObjectRow]:
        with self.world.crypto.tenant_tx((home or self.home).tenant_id) as tx:
            found = [tx.objects.get(service, row.object_id) for row in tx.objects.of_service(service)]
        return [row for row in found if row is not None]

    def versions(self, service: str = "orders") -> set[int]:
        """Return the key versions that encrypt the service's objects."""
        return {row.key_version for row in self.rows(service)}

    def close(self) -> None:
        self.one.keyring.close()
        self.two.keyring.close()
        self.threads.close()


@dataclass(frozen=True)
class Seen:
    """Everything that a client can read of an object."""

    material: bytes
    attributes: dict[str, object]
    decrypted: bytes
    located: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """An object, and a ciphertext that was encrypted with it."""

    object_id: str
    name: str
    iv: bytes
    text: bytes

    async def seen_by(self, client: Client) -> Seen:
        got = await client.get(self.object_id)
        shown = await client.about(Operation.GET_ATTRIBUTES, self.object_id)
        opened = await client.about(
            Operation.DECRYPT,
            self.object_id,
            cbc(random=False),
            octets(Tag.DATA, self.text),
            octets(Tag.IV_COUNTER_NONCE, self.iv),
        )
        located = await client.ask(Operation.LOCATE, a_name(self.name))
        return Seen(got.material, dict(shown.attributes), opened.value(Tag.DATA), tuple(located.ids))


async def some_objects(client: Client, count: int) -> list[Known]:
    made = []
    for number in range(count):
        name = f"object {number}"
        object_id = await client.activated(a_name(name), custom("x-number", str(number)))
        sealed = await client.encrypt(object_id, f"text {number}".encode())
        made.append(Known(object_id, name, sealed.value(Tag.IV_COUNTER_NONCE), sealed.value(Tag.DATA)))
    return made
