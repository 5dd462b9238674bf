"""What the caller may fetch: its own newest certificate, which the workflow has renewed, and revocation lists.

What the caller's programs are to keep encrypted, as administrators chose it for the calling service.
"""

from core.certificates import AuthorityState
from core.errors.services import ObjectNotFound
from crypto_service.interfaces import BlockingExecutor, ClientIdentity
from database.certificates import AuthorityRow
from database.connection.database import Database
from database.services.protected_fields import ProtectionRow
from database.services.repository import ServiceCertificateRow

_NOT_YET = "a tenant's first list is published within minutes of its beginning; ask again then"
_NO_FORMER = "there is one only while certificates of a former authority last"


class DatabaseCertificates:
    """Reads them from the database. Renewals keep the service's key, so no private key is involved anywhere."""

    def __init__(self, database: Database, blocking: BlockingExecutor) -> None:
        self._database = database
        self._blocking = blocking

    async def newest(self, caller: ClientIdentity) -> tuple[ServiceCertificateRow, AuthorityRow]:
        """Return the newest certificate of the caller's service that is not revoked, and who issued it.

        Raises: ObjectNotFound, DatabaseUnavailable, TooManyRequests.
        """
        return await self._blocking.run(caller.tenant_id, lambda: self._read(caller))

    async def revocation_list(self, caller: ClientIdentity, *, former: bool) -> bytes:
        """Return the newest list of the tenant's current authority, or of the former one, in DER.

        Raises: ObjectNotFound, DatabaseUnavailable, TooManyRequests.
        """
        return await self._blocking.run(caller.tenant_id, lambda: self._listed(caller, former=former))

    def _listed(self, caller: ClientIdentity, *, former: bool) -> bytes:
        wanted = AuthorityState.FORMER if former else AuthorityState.CURRENT
        with self._database.tenant_tx(caller.tenant_id) as tx:
            issuers = {row.serial for row in tx.certificates.authorities() if row.state is wanted}
            found = next((listed for listed in tx.certificates.revocation_lists() if listed.authority in issuers), None)
        if found is None:
            raise ObjectNotFound("there is no revocation list", _NO_FORMER if former else _NOT_YET)
        return found.der

    def _read(self, caller: ClientIdentity) -> tuple[ServiceCertificateRow, AuthorityRow]:
        with self._database.tenant_tx(caller.tenant_id) as tx:
            leaf = tx.services.leaf(caller.service)
            authority = None if leaf is None else tx.certificates.issuer(leaf.authority)
        if leaf is None or authority is None:
            raise ObjectNotFound("there is no certificate on record", "connect the service again")
        return leaf, authority


class DatabaseProtectedFields:
    """Reads them from the database at each question, so that a change needs to be told to nobody."""

    def __init__(self, database: Database, blocking: BlockingExecutor) -> None:
        self._database = database
        self._blocking = blocking

    async def of(self, caller: ClientIdentity) -> ProtectionRow:
        """Return the list of the caller's service; raises DatabaseUnavailable, TooManyRequests."""
        return await self._blocking.run(caller.tenant_id, lambda: self._read(caller))

    def _read(self, caller: ClientIdentity) -> ProtectionRow:
        with self._database.tenant_tx(caller.tenant_id) as tx:
            return tx.protection.of(caller.service)
