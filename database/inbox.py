"""Events as the marketplace sent them: stored before they are answered, so that nothing accepted is ever lost."""

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from core.tenants.provisioning import MarketplaceEvent


@dataclass(frozen=True, slots=True)
class Inbox:
    connection: Connection[TupleRow]
    tenant_id: str

    def accept(self, event: MarketplaceEvent) -> bool:
        """Store an event; False when (tenant, event id) was stored before."""
        stored = self.connection.execute(
            "insert into okcm.marketplace_event (tenant_id, event_id, kind, organization, region, occurred_at)"
            " values (%s, %s, %s, %s, %s, %s) on conflict do nothing",
            [event.tenant_id, event.event_id, event.kind, event.organization, event.region, event.timestamp],
        )
        return stored.rowcount == 1

    def accept_discovery(self, event: MarketplaceEvent) -> bool:
        """Store an event that says that a service was discovered; as `accept`."""
        stored = self.connection.execute(
            "insert into okcm.marketplace_event"
            " (tenant_id, event_id, kind, organization, region, occurred_at, service)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                event.tenant_id,
                event.event_id,
                event.kind,
                event.organization,
                event.region,
                event.timestamp,
                event.service,
            ],
        )
        return stored.rowcount == 1

    def discovered(self, event_id: str) -> str | None:
        """Return the service that a stored event is about."""
        found = self.connection.execute(
            "select service from okcm.marketplace_event where event_id = %s", [event_id]
        ).fetchone()
        return None if found is None else found[0]

    def mark_started(self, event_id: str) -> None:
        """Record that the workflow has the event, so that the sweep leaves it alone."""
        self.connection.execute(
            "update okcm.marketplace_event set started_at = clock_timestamp()"
            " where event_id = %s and started_at is null",
            [event_id],
        )
