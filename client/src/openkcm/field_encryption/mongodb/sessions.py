"""State of the encryption in this process: the protected fields, the keys of each database, and open cursors."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from openkcm.contract.protected_fields import ProtectedField, Store
from openkcm.field_encryption.key_cache import ColumnKeys, KeySource, KeyStore, KeyUnwrapError
from openkcm.field_encryption.mongodb import pymongo_internals as clients
from openkcm.field_encryption.mongodb.catalog import Catalogue, Collection, catalogue
from openkcm.field_encryption.mongodb.encryption import Codec, DatabaseKeys
from openkcm.field_encryption.mongodb.errors import ProtectionUnknown, StatementRefused, unavailable
from openkcm.field_encryption.mongodb.replies import ReplyDecryptor
from openkcm.field_encryption.mongodb.rewrite import commands
from openkcm.field_encryption.mongodb.rewrite.projections import Documents
from openkcm.field_encryption.mongodb.rewrite.request import Count, Request
from openkcm.field_encryption.protected_fields import Protection, ProtectionUnreadable
from openkcm.field_encryption.usage import UsageReporter

_MAX_CURSORS = 65536
_ATTRIBUTE = "_openkcm_keys"
"""An attribute of the client, so that a command does not look up its servers."""
_DOCUMENTS = frozenset({"find", "aggregate", "findAndModify", "findandmodify", "getMore"})

Command = Mapping[str, Any]


class CommandExchange(NamedTuple):
    """The command to send, and the decryptor of its reply."""

    command: Command
    reading: ReplyDecryptor | None
    counted: Count


class MongoSession:
    """The state of the encryption in this process; thread-safe."""

    def __init__(  # noqa: PLR0913 - the settings of a process
        self,
        protection: Protection,
        source: KeySource,
        store: Callable[[Any, str], KeyStore],
        uses: UsageReporter,
        *,
        key_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`store` returns, for a client and a database name, the storage of wrapped keys in that database."""
        self._protection, self._source, self._store, self._uses = protection, source, store, uses
        self._key_seconds, self._clock = key_seconds, clock
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._reset_after_fork)
        self._databases: dict[tuple[str, ...], DatabaseKeys] = {}
        self._cursors: dict[tuple[Any, int], Documents] = {}
        self._known: tuple[tuple[ProtectedField, ...] | None, Catalogue] = (None, {})

    def _reset_after_fork(self) -> None:
        """Replace the lock: another thread of the parent may have held it, and does not exist here."""
        self._lock = threading.Lock()

    def catalogue(self) -> Catalogue:
        """Return the protected fields by collection. Raises ProtectionUnknown."""
        try:
            fields = self._protection.fields()
        except ProtectionUnreadable as failed:
            raise ProtectionUnknown(f"the list of protected fields is not available: {failed}", failed.hint) from None
        known, found = self._known  # one tuple, which threads replace as a whole
        if fields is not known:
            found = catalogue(fields)
            self._known = fields, found
        return found

    def exchange(self, client: Any, database: str, command: Command, codec: Codec) -> CommandExchange | None:
        """Return the replacement of a command, None if it is sent unchanged.

        Raises StatementRefused, ProtectionUnusable, ProtectionUnknown, KeysUnavailable.
        """
        known = self.catalogue()
        if not known:
            return None
        name = next(iter(command))
        if name == "explain":
            inner = self.exchange(client, database, command[name], codec)
            return None if inner is None else CommandExchange({**command, name: inner.command}, None, inner.counted)
        if name == "bulkWrite":
            count = self.count()
            spaces = [one["ns"] for one in command["nsInfo"]]
            writers = [self.writer(client, space, codec, commands.bulk, count) for space in spaces]
            kinds = [one[next(iter(one))] for one in command["ops"]]
            written = zip(command["ops"], kinds, strict=True)
            operations = [_apply(writers[kind], one) for one, kind in written]
            count.prepared()
            return CommandExchange({**command, "ops": operations}, None, count)
        collection = commands.collection_of(known, database, name, command)
        if collection is None or name == "aggregate":
            commands.check_elsewhere(known, database, name, command)
        if collection is None:
            return None
        count = Count(self._uses)
        request = self._request(client, collection, codec, count)
        if name == "getMore":
            reads = self._cursors.get(clients.cursor_key(client, command[name]), Documents.ORIGINAL)
            return CommandExchange(command, ReplyDecryptor(request, reads), count)
        try:
            sent = commands.prepared(request, name, command)
        except KeyUnwrapError as failed:
            raise unavailable(failed) from None
        count.prepared()
        return CommandExchange(sent.command, ReplyDecryptor(request, sent.reads) if name in _DOCUMENTS else None, count)

    def count(self) -> Count:
        """Return a counter for one command, which starts now."""
        return Count(self._uses)

    def writer(
        self, client: Any, space: str, codec: Codec, one: Callable[[Request, Command], Command], count: Count
    ) -> "Writer | None":
        """Return the encryptor of operations on `database.collection`, None if it has no protected fields."""
        database, _, name = space.partition(".")
        collection = self.catalogue().get((database, name))
        return None if collection is None else Writer(self._request(client, collection, codec, count), one)

    def read(self, client: Any, reading: ReplyDecryptor, reply: Any) -> Any:
        """Return a decrypted reply, and store its cursor."""
        if reading.reads is not Documents.ORIGINAL:
            cursor = reply.get("cursor")
            if cursor is not None:
                self._remember(client, cursor.get("id"), reading.reads)
        if reading.reads is Documents.OTHERS:
            return reply
        begun, count = time.perf_counter_ns(), reading.request.count
        found = reading.decrypted(reply)
        return count.ended(found, begun)

    def _remember(self, client: Any, cursor: int | None, reads: Documents) -> None:
        if cursor:
            with self._lock:
                while len(self._cursors) >= _MAX_CURSORS:
                    del self._cursors[next(iter(self._cursors))]
                self._cursors[clients.cursor_key(client, cursor)] = reads

    def _request(self, client: Any, collection: Collection, codec: Codec, count: Count) -> Request:
        if client is None or clients.encrypts_itself(client):
            raise StatementRefused(
                f"{collection.full_name} is protected, and this client has automatic encryption enabled",
                "remove auto_encryption_opts, or remove the collection's fields from the protected fields",
            )
        known: tuple[MongoSession, dict[str, DatabaseKeys]] | None = client.__dict__.get(_ATTRIBUTE)
        keys = known[1].get(collection.database) if known is not None and known[0] is self else None
        if keys is None:
            keys = self._keys(client, collection.database)
        return Request(collection, keys, codec, count)

    def _keys(self, client: Any, database: str) -> DatabaseKeys:
        """Return the keys of a database, which all clients of the same servers share."""
        arguments = clients.arguments(client)
        place = (str(arguments["host"]), str(arguments["port"]), database)
        with self._lock:
            keys = self._databases.get(place)
            if keys is None:
                store = self._store(client, database)
                keys = DatabaseKeys(ColumnKeys(Store.MONGODB, self._source, store, self._key_seconds, self._clock))
                self._databases[place] = keys
            known = client.__dict__.get(_ATTRIBUTE)
            if known is None or known[0] is not self:
                known = client.__dict__[_ATTRIBUTE] = (self, {})
            known[1][database] = keys
        return keys


class Writer(NamedTuple):
    request: Request
    one: Callable[[Request, Command], Command]

    def __call__(self, operation: Command) -> Command:
        try:
            return self.one(self.request, operation)
        except KeyUnwrapError as failed:
            raise unavailable(failed) from None


def _apply(writer: Writer | None, operation: Command) -> Command:
    return operation if writer is None else writer(operation)
