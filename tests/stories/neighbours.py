"""Two tenants with two services each who attack each other, and two more services of the first to be abused."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from crypto.kmip.items import Item
from tenancy.audit import StoredRecord
from tests.stories.assault import Outcome
from tests.stories.connected import Service, connect
from tests.stories.estates import Estate, attributes_of, settle
from tests.stories.stack import Stack

OTHER = "mirror-corp-77"
NAMES = ("vault", "till")


@dataclass
class Neighbours:
    """`scapegoat` has certificates that its owner never asked for, `former` is going to be disconnected."""

    stack: Stack
    estates: list[Estate]
    scapegoat: Estate
    former: Service
    outcome: Outcome = field(default_factory=Outcome)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Serial and reason → connections that were refused and are to be on record."""

    @property
    def mine(self) -> Estate:
        return self.estates[0]

    @property
    def other(self) -> Estate:
        return self.estates[-1]

    def holdings(self) -> list[dict[str, tuple[Item, ...]]]:
        """Return what every owner is told about his objects."""
        return [_holdings(estate) for estate in self.estates]

    def stream(self, tenant_id: str) -> list[StoredRecord]:
        """Return a tenant's whole audit stream."""
        found: list[StoredRecord] = []
        with self.stack.database().tenant_tx(tenant_id) as tx:
            while page := tx.audit.records(after=found[-1].seq if found else 0):
                found += page
        return found


def settle_all(stack: Stack, tenant_id: str, folder: Path) -> Neighbours:
    """Enable the other tenant and connect everybody."""
    stack.enable(OTHER, "Mirror Corp")
    wanted = [*((tenant_id, name) for name in (*NAMES, "scapegoat", "former")), *((OTHER, name) for name in NAMES)]

    def settled(one: tuple[str, str]) -> Estate:
        return settle(connect(stack, one[0], "microservice", one[1], folder / "-".join(one)))

    with ThreadPoolExecutor(len(wanted)) as crowd:
        vault, till, scapegoat, former, *others = crowd.map(settled, wanted)
    return Neighbours(stack, [vault, till, *others], scapegoat, former.service)


def _holdings(estate: Estate) -> dict[str, tuple[Item, ...]]:
    with estate.service.open_kmip() as kmip:
        return {kind: attributes_of(kmip, object_id) for kind, object_id in estate.objects.items()}
