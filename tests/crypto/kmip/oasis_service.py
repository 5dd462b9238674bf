"""Services to run the OASIS cases against: the real dispatcher, objects, ciphers and PostgreSQL; one key is given."""

import hashlib
import time
from collections.abc import Callable, Sequence

from crypto.blocking import FairThreads
from crypto.interfaces import Caller, Entry, Parts, ServiceKey
from crypto.kmip.dispatch import Dispatcher
from crypto.kmip.items import Item
from crypto.kmip.objects import ObjectStore
from crypto.limits import TenantLimits
from crypto.operations import KeyedOperations
from database.connection import Database
from tenancy.ids import l2_key
from tenancy.lifecycle import State
from tenancy.services import ServiceKind
from tests.crypto.kmip.vectors import Answer
from tests.database.builders import a_provisioned_tenant, a_service_key
from tests.database.fixtures import Field

TENANT = "oasis-corp"


class KnownCallers:
    """Whoever is asked about is who he says."""

    async def identify(self, certificate_der: bytes, address: str) -> Caller:  # noqa: ARG002 - a protocol
        return a_caller("orders")

    async def refresh(self, caller: Caller) -> Caller:
        return caller


class GivenKeys:
    async def key(self, caller: Caller, version: int | None = None) -> ServiceKey:
        return ServiceKey(version or 1, hashlib.sha256(caller.service.encode()).digest())


class KeptJournal:
    def __init__(self) -> None:
        self.entries: list[Entry] = []

    async def write(self, entries: Sequence[Entry]) -> None:
        self.entries += entries


class NoChanges:
    def subscribe(self, forget: Callable[[str | None], None]) -> None:
        """Nobody else changes anything."""


def a_caller(service: str) -> Caller:
    return Caller(TENANT, service, l2_key(TENANT), "eu-west-1", "1a2b", State.ACTIVE, "127.0.0.1")


class Services:
    """One tenant, and as many services as there are cases; `now` is what time it is for them."""

    def __init__(self, field: Field) -> None:
        self.now = time.time()
        self._worker: Database = field.open("worker", max_size=1)
        a_provisioned_tenant(self._worker, TENANT)
        callers, self.journal, self.threads = KnownCallers(), KeptJournal(), FairThreads(4)
        operations = KeyedOperations(callers, GivenKeys(), self.journal)
        limits, changes = TenantLimits(1_000_000, 100), NoChanges()
        self.parts = Parts(callers, operations, self.journal, limits, self.threads, changes)
        self.objects = ObjectStore(field.open("crypto", max_size=4), self.parts, 60.0, lambda: self.now)
        self._dispatcher = Dispatcher(self.parts, self.objects)

    def open(self, service: str) -> Answer:
        """Connect a service and return how it asks."""
        with self._worker.tenant_tx(TENANT) as tx:
            tx.services.connect(service, ServiceKind.MICROSERVICE)
            tx.services.record_key(a_service_key(TENANT, service))
            tx.services.connected(service)
        caller = a_caller(service)

        async def answer(request: Item, now: int) -> Item:
            self.now = now
            return await self._dispatcher.answer(caller, request, caller.address)

        return answer

    def close(self) -> None:
        self.threads.close()
