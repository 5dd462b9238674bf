"""The tenant's one route, by which the crypto service finds its keys."""

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from database.rows import RouteRow


@dataclass(frozen=True, slots=True)
class Routes:
    connection: Connection[TupleRow]
    tenant_id: str

    def publish(self, route: RouteRow) -> None:
        # A repeated step writes nothing, so a reader that watches `published_at` sees only real changes.
        """Create or replace the tenant's one route."""
        self.connection.execute(
            "insert into okcm.route as kept (tenant_id, l2_key, issuer_fingerprint, region,"
            " former_issuer_fingerprint) values (%s, %s, %s, %s, %s)"
            " on conflict (tenant_id) do update set l2_key = excluded.l2_key,"
            " issuer_fingerprint = excluded.issuer_fingerprint, region = excluded.region,"
            " former_issuer_fingerprint = excluded.former_issuer_fingerprint, published_at = now()"
            " where (kept.l2_key, kept.issuer_fingerprint, kept.region, kept.former_issuer_fingerprint)"
            " is distinct from"
            " (excluded.l2_key, excluded.issuer_fingerprint, excluded.region, excluded.former_issuer_fingerprint)",
            [
                self.tenant_id,
                route.l2_key,
                route.issuer_fingerprint,
                route.region,
                route.former_issuer_fingerprint,
            ],
        )

    def withdraw(self) -> bool:
        """Remove the route; False when there was none."""
        return self.connection.execute("delete from okcm.route").rowcount == 1

    def get(self) -> RouteRow | None:
        found = self.connection.execute(
            "select l2_key, issuer_fingerprint, region, former_issuer_fingerprint from okcm.route"
        ).fetchone()
        return None if found is None else RouteRow(*found)
