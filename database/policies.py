"""What a tenant asks of its keys (core/tenants/policy.py)."""

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from core.tenants.approvals import Action
from core.tenants.policy import TenantPolicy


@dataclass(frozen=True, slots=True)
class Policies:
    connection: Connection[TupleRow]
    tenant_id: str

    def get(self) -> TenantPolicy:
        """Return what the tenant chose; the defaults where it chose nothing."""
        row = self.connection.execute(
            "select tenant_key_days, service_key_days, four_eyes from okcm.tenant_policy"
        ).fetchone()
        if row is None:
            return TenantPolicy()
        return TenantPolicy(
            tenant_key_days=row[0], service_key_days=row[1], four_eyes=frozenset(Action(name) for name in row[2])
        )

    def set(self, policy: TenantPolicy) -> None:
        self.connection.execute(
            "insert into okcm.tenant_policy (tenant_id, tenant_key_days, service_key_days, four_eyes)"
            " values (%s, %s, %s, %s)"
            " on conflict (tenant_id) do update set tenant_key_days = excluded.tenant_key_days,"
            " service_key_days = excluded.service_key_days, four_eyes = excluded.four_eyes,"
            " changed_at = clock_timestamp()",
            [self.tenant_id, policy.tenant_key_days, policy.service_key_days, sorted(policy.four_eyes)],
        )
