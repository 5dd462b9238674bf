"""Two services of one tenant and one of another that attack each other, and a fourth with forged certificates."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from crypto_service.kmip.codec.ttlv import Item
from openkcm.contract.audit_events import verify_chain
from tests.e2e.connected import connect
from tests.e2e.isolation.crypto_api.estates import ServiceObjects, attributes_of, create_objects
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

Refusals = Counter[tuple[str, str]]
COUNTED = ("", "")


@dataclass
class Neighbours:
    """`forgery_target` is a service of the tenant of `mine`; the tests forge certificates for it."""

    stack: Stack
    mine: ServiceObjects
    sibling: ServiceObjects
    other: ServiceObjects
    forgery_target: ServiceObjects

    @property
    def estates(self) -> tuple[ServiceObjects, ServiceObjects, ServiceObjects]:
        return self.mine, self.sibling, self.other

    def holdings(self) -> list[dict[str, tuple[Item, ...]]]:
        """Return the attributes of every object as its owner reads them."""
        return [_holdings(service_objects) for service_objects in self.estates]

    def refusals(self, tenant_id: str, seed: str) -> tuple[Refusals, Refusals]:
        """Return the numbers of rejections in a tenant's verified stream.

        The first counter is by service and correlation id with the prefix `seed`; the second is by serial and reason of
        rejected certificates. Beyond a rate one event counts several rejections: attempts then have the correlation id
        of the first, and certificates are in `COUNTED`.
        """
        attempts, certificates = Refusals(), Refusals()
        stored = self.stack.stream(tenant_id)
        assert verify_chain(stored) is not None
        for record in (json.loads(one.record) for one in stored):
            if record["name"] != "crypto.refused":
                continue
            if record["correlation_id"].startswith(seed):
                attempts[record["actor"], record["correlation_id"]] += int(record["details"].get("count", "1"))
            elif record["details"]["operation"] == "connect" and "count" in record["details"]:
                certificates[COUNTED] += int(record["details"]["count"])
            elif record["subject"].startswith("certificate "):
                serial, _, why = record["subject"].removeprefix("certificate ").partition(": ")
                certificates[serial, why] += 1
        return attempts, certificates


def create_all(stack: Stack, folder: Path) -> Neighbours:
    """Enable both tenants, connect every service and create its objects."""
    mine, other = new_tenant(stack, "isolated"), new_tenant(stack, "mirror")
    wanted = [(mine, "vault"), (mine, "till"), (other, "vault"), (mine, "forgery-target")]

    def create(one: tuple[str, str]) -> ServiceObjects:
        return create_objects(connect(stack, one[0], "microservice", one[1], folder / "-".join(one)))

    with ThreadPoolExecutor(len(wanted)) as pool:
        return Neighbours(stack, *pool.map(create, wanted))


def _holdings(service_objects: ServiceObjects) -> dict[str, tuple[Item, ...]]:
    with service_objects.service.open_kmip() as kmip:
        return {kind: attributes_of(kmip, object_id) for kind, object_id in service_objects.objects.items()}
