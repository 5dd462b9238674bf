"""What the caller's programs are to keep encrypted, as administrators chose it for the calling service."""

from crypto.interfaces import Blocking, Caller
from database.connection.database import Database
from database.services.protected_fields import ProtectionRow


class ProtectionsOnRecord:
    """Reads them from the database at each question, so that a change needs to be told to nobody."""

    def __init__(self, database: Database, blocking: Blocking) -> None:
        self._database = database
        self._blocking = blocking

    async def of(self, caller: Caller) -> ProtectionRow:
        """Return the list of the caller's service; raises DatabaseUnavailable, TooManyRequests."""
        return await self._blocking.run(caller.tenant_id, lambda: self._read(caller))

    def _read(self, caller: Caller) -> ProtectionRow:
        with self._database.tenant_tx(caller.tenant_id) as tx:
            return tx.protection.of(caller.service)
