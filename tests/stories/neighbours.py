"""Two services of one tenant and one of another, who attack each other, and a fourth whose certificates are abused."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from crypto_service.kmip.codec.ttlv import Item
from openkcm.contract.audit_events import verify_chain
from tests.stories.connected import connect
from tests.stories.estates import Estate, attributes_of, settle
from tests.stories.stack import Stack
from tests.stories.tenants import new_tenant

Refusals = Counter[tuple[str, str]]


@dataclass
class Neighbours:
    """`scapegoat` is a service of `mine`'s tenant that has certificates which its owner never asked for."""

    stack: Stack
    mine: Estate
    sibling: Estate
    other: Estate
    scapegoat: Estate

    @property
    def estates(self) -> tuple[Estate, Estate, Estate]:
        return self.mine, self.sibling, self.other

    def holdings(self) -> list[dict[str, tuple[Item, ...]]]:
        """Return the attributes of every object, as its owner reads them."""
        return [_holdings(estate) for estate in self.estates]

    def refusals(self, tenant_id: str, seed: str) -> tuple[Refusals, Refusals]:
        """Return the refusals in a tenant's whole stream.

        They are counted by service and correlation id where that begins with `seed`, and by serial and reason where a
        certificate was refused. The chain of the stream is verified.
        """
        attempts, certificates = Refusals(), Refusals()
        stored = self.stack.stream(tenant_id)
        assert verify_chain(stored) is not None
        for record in (json.loads(one.record) for one in stored):
            if record["name"] != "crypto.refused":
                continue
            if record["correlation_id"].startswith(seed):
                attempts[record["actor"], record["correlation_id"]] += 1
            elif record["subject"].startswith("certificate "):
                serial, _, why = record["subject"].removeprefix("certificate ").partition(": ")
                certificates[serial, why] += 1
        return attempts, certificates


def settle_all(stack: Stack, folder: Path) -> Neighbours:
    """Enable both tenants and connect every service."""
    mine, other = new_tenant(stack, "isolated"), new_tenant(stack, "mirror")
    wanted = [(mine, "vault"), (mine, "till"), (other, "vault"), (mine, "scapegoat")]

    def settled(one: tuple[str, str]) -> Estate:
        return settle(connect(stack, one[0], "microservice", one[1], folder / "-".join(one)))

    with ThreadPoolExecutor(len(wanted)) as crowd:
        return Neighbours(stack, *crowd.map(settled, wanted))


def _holdings(estate: Estate) -> dict[str, tuple[Item, ...]]:
    with estate.service.open_kmip() as kmip:
        return {kind: attributes_of(kmip, object_id) for kind, object_id in estate.objects.items()}
