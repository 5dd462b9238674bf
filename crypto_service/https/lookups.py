"""Data that a caller may fetch: its newest certificate, revocation lists, and its protected fields.

A workflow renews the certificate; administrators choose the protected fields, which the caller's programs encrypt.
"""

from core.certificates import AuthorityState
from core.errors.services import ObjectNotFound
from crypto_service.interfaces import BlockingExecutor, ClientIdentity
from database.certificates import AuthorityRow
from database.connection.database import Database
from database.services.protected_fields import ProtectionRow
from database.services.repository import ServiceCertificateRow

_NOT_YET = "the first list of a tenant is published within minutes of its activation; retry then"
_NO_FORMER = "a former authority has a list only while its certificates are valid"


class DatabaseCertificates:
    """Certificates from the database. A renewal keeps the service's key, so no private key is involved."""

    def __init__(self, database: Database, blocking: BlockingExecutor) -> None:
        self._database = database
        self._blocking = blocking

    async def newest(self, caller: ClientIdentity) -> tuple[ServiceCertificateRow, AuthorityRow]:
        """Return the newest certificate of the caller's service that is not revoked, and its issuer.

        Raises: ObjectNotFound, DatabaseUnavailable, TooManyRequests.
        """
        return await self._blocking.run(caller.tenant_id, lambda: self._read(caller))

    async def revocation_list(self, caller: ClientIdentity, *, former: bool) -> bytes:
        """Return the newest revocation list of the tenant's current or former CA, in DER.

        Raises: ObjectNotFound, DatabaseUnavailable, TooManyRequests.
        """
        return await self._blocking.run(caller.tenant_id, lambda: self._read_list(caller, former=former))

    def _read_list(self, caller: ClientIdentity, *, former: bool) -> bytes:
        wanted = AuthorityState.FORMER if former else AuthorityState.CURRENT
        with self._database.tenant_tx(caller.tenant_id) as tx:
            issuers = {row.serial for row in tx.certificates.authorities() if row.state is wanted}
            found = next((listed for listed in tx.certificates.revocation_lists() if listed.authority in issuers), None)
        if found is None:
            raise ObjectNotFound("no revocation list found", _NO_FORMER if former else _NOT_YET)
        return found.der

    def _read(self, caller: ClientIdentity) -> tuple[ServiceCertificateRow, AuthorityRow]:
        with self._database.tenant_tx(caller.tenant_id) as tx:
            leaf = tx.services.leaf(caller.service)
            authority = None if leaf is None else tx.certificates.issuer(leaf.authority)
        if leaf is None or authority is None:
            raise ObjectNotFound("no certificate found", "connect the service again")
        return leaf, authority


class DatabaseProtectedFields:
    """Protected fields from the database, read for each request, so that a change needs no notification."""

    def __init__(self, database: Database, blocking: BlockingExecutor) -> None:
        self._database = database
        self._blocking = blocking

    async def of(self, caller: ClientIdentity) -> ProtectionRow:
        """Return the list of the caller's service; raise DatabaseUnavailable, TooManyRequests."""
        return await self._blocking.run(caller.tenant_id, lambda: self._read(caller))

    def _read(self, caller: ClientIdentity) -> ProtectionRow:
        with self._database.tenant_tx(caller.tenant_id) as tx:
            return tx.protection.of(caller.service)
