"""The tenant's certificate authority. The first one recorded stays: a second signature must never replace it."""

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from database.interfaces import AuthorityRow
from tenancy.errors import DatabaseRefused


@dataclass(frozen=True, slots=True)
class Certificates:
    connection: Connection[TupleRow]
    tenant_id: str

    def record_authority(self, authority: AuthorityRow) -> AuthorityRow:
        recorded = self.connection.execute(
            "insert into okcm.certificate_authority (tenant_id, serial, certificate_pem, chain_pem, not_after)"
            " values (%s, %s, %s, %s, %s) on conflict do nothing",
            [self.tenant_id, authority.serial, authority.certificate_pem, authority.chain_pem, authority.not_after],
        )
        if recorded.rowcount == 1:
            return authority
        kept = self.authority()
        if kept is None:
            raise DatabaseRefused
        return kept

    def authority(self) -> AuthorityRow | None:
        found = self.connection.execute(
            "select serial, certificate_pem, chain_pem, not_after from okcm.certificate_authority"
        ).fetchone()
        return None if found is None else AuthorityRow(*found)
