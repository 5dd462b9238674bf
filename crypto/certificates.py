"""The caller's own newest certificate, so that a service can fetch the one the workflow has renewed."""

from typing import Protocol

from crypto.interfaces import Blocking, Caller
from database.interfaces import AuthorityRow, LeafRow, TenantDatabase
from tenancy.errors import ObjectNotFound


class Certificates(Protocol):
    async def newest(self, caller: Caller) -> tuple[LeafRow, AuthorityRow]:
        """Return the newest certificate of the caller's service that is not revoked, and who issued it.

        Raises: ObjectNotFound, DatabaseUnavailable, TooManyRequests.
        """
        ...


class CertificatesOnRecord:
    """Reads them from the database. Renewals keep the service's key, so no private key is involved anywhere."""

    def __init__(self, database: TenantDatabase, blocking: Blocking) -> None:
        self._database = database
        self._blocking = blocking

    async def newest(self, caller: Caller) -> tuple[LeafRow, AuthorityRow]:
        return await self._blocking.run(caller.tenant_id, lambda: self._read(caller))

    def _read(self, caller: Caller) -> tuple[LeafRow, AuthorityRow]:
        with self._database.tenant_tx(caller.tenant_id) as tx:
            leaf = tx.services.leaf(caller.service)
            authority = None if leaf is None else tx.certificates.issuer(leaf.authority)
        if leaf is None or authority is None:
            raise ObjectNotFound("there is no certificate on record", "connect the service again")
        return leaf, authority
