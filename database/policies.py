"""What a tenant asks of its keys (tenancy/policy.py)."""

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from tenancy.policy import TenantPolicy


@dataclass(frozen=True, slots=True)
class Policies:
    connection: Connection[TupleRow]
    tenant_id: str

    def get(self) -> TenantPolicy:
        row = self.connection.execute("select tenant_key_days, service_key_days from okcm.tenant_policy").fetchone()
        return TenantPolicy() if row is None else TenantPolicy(tenant_key_days=row[0], service_key_days=row[1])

    def set(self, policy: TenantPolicy) -> None:
        self.connection.execute(
            "insert into okcm.tenant_policy (tenant_id, tenant_key_days, service_key_days) values (%s, %s, %s)"
            " on conflict (tenant_id) do update set tenant_key_days = excluded.tenant_key_days,"
            " service_key_days = excluded.service_key_days, changed_at = clock_timestamp()",
            [self.tenant_id, policy.tenant_key_days, policy.service_key_days],
        )
