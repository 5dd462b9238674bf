"""Installs the encryption in pymongo, where commands are sent and replies arrive, below the public interface.

Most commands are sent by `Connection.command`. A cursor's `find` is built once by `_Query.as_command`; its replies, and
those of every getMore, pass through `run_cursor_command`. Bulk writes send operations in batches up to the maximum
message size, so operations are replaced one by one while a batch is filled. The blocking and the async interface differ
only in what is awaited.

pymongo's own interface for client-side encryption, `client._encrypter`, is not used. It decodes every reply twice and
encodes bulk writes twice in batches of 2 MiB, protected or not, and MongoClient.bulk_write bypasses it.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pymongo
from bson.codec_options import DEFAULT_CODEC_OPTIONS
from pymongo import message
from pymongo.asynchronous import bulk as async_bulk
from pymongo.asynchronous import client_bulk as async_client_bulk
from pymongo.asynchronous import cursor_base as async_cursor_base
from pymongo.asynchronous import pool as async_pool
from pymongo.read_preferences import ReadPreference
from pymongo.synchronous import bulk, client_bulk, cursor_base, pool

from openkcm.field_encryption.environment import RunEnvironment
from openkcm.field_encryption.mongodb.errors import StatementRefused
from openkcm.field_encryption.mongodb.key_store import CollectionKeyStore
from openkcm.field_encryption.mongodb.pymongo_internals import KNOWN
from openkcm.field_encryption.mongodb.rewrite import commands
from openkcm.field_encryption.mongodb.sessions import CommandExchange, MongoSession
from openkcm.field_encryption.protected_fields import ServiceProtection
from openkcm.field_encryption.service_client import CryptoService, ServiceKeySource
from openkcm.field_encryption.usage import UsageReporter

_COMMAND = ["self", "dbname", "spec", "read_preference", "codec_options", "check", "allowable_errors"]
_CURSOR = ["conn", "cmd", "dbname", "request_id", "msg", "client", "session", "listeners", "codec_options"]
_BATCH, _CLIENT_BATCH = ["self", "bwc", "cmd", "ops", "client"], ["self", "bwc", "cmd", "ops", "namespaces"]
_OPERATIONS = (commands.insert, commands.update, commands.delete)
"""In the order of pymongo's numbers for them."""

_REPLIES = frozenset({dict, tuple})
"""The usual types of a reply that is not awaited."""
_HANDSHAKE = frozenset({"hello", "isMaster", "ismaster", "saslStart", "saslContinue", "authenticate"})

_READY = "_openkcm_ready"
"""Attribute of a bulk write: its encrypted operations by the id of the application's, which stay unchanged."""

REPLACED_METHODS: list[tuple[Any, str, list[str]]] = [
    (pool.Connection, "command", _COMMAND),
    (async_pool.AsyncConnection, "command", _COMMAND),
    (cursor_base, "run_cursor_command", _CURSOR),
    (async_cursor_base, "run_cursor_command", _CURSOR),
    (message._Query, "as_command", ["self", "conn", "apply_timeout"]),
    *(
        (owner, name, _BATCH)
        for owner in (bulk._Bulk, async_bulk._AsyncBulk)
        for name in ("_execute_batch", "_execute_batch_unack")
    ),
    *(
        (owner, name, _CLIENT_BATCH)
        for owner in (client_bulk._ClientBulk, async_client_bulk._AsyncClientBulk)
        for name in ("_execute_batch", "_execute_batch_unack")
    ),
    (bulk._Bulk, "execute", ["self", "write_concern", "session", "operation"]),
    (async_bulk._AsyncBulk, "execute", ["self", "write_concern", "session", "operation"]),
    (client_bulk._ClientBulk, "execute", ["self", "session", "operation"]),
    (async_client_bulk._AsyncClientBulk, "execute", ["self", "session", "operation"]),
]
"""The functions that the encryption replaces, with their parameters."""


def incompatibility() -> str:
    """Return how this pymongo differs from the supported one, empty if it does not."""
    for owner, name, parameters in REPLACED_METHODS:
        method = getattr(owner, name, None)
        if method is None or list(inspect.signature(method).parameters)[: len(parameters)] != parameters:
            return f"pymongo {pymongo.version} has another {owner.__name__}.{name}"
    if pymongo.version_tuple[:2] != KNOWN:
        return f"pymongo is {pymongo.version} and not {'.'.join(map(str, KNOWN))}"
    if (message._INSERT, message._UPDATE, message._DELETE) != (0, 1, 2):
        return f"pymongo {pymongo.version} has other numbers for operations"
    return ""


def install(hook: MongoSession) -> None:
    """Install the encryption in pymongo."""
    replacements: dict[str, Callable[[MongoSession, Callable[..., Any]], Callable[..., Any]]] = {
        "command": _command,
        "run_cursor_command": _run_cursor_command,
        "as_command": _as_command,
    }
    for owner, name, parameters in REPLACED_METHODS:
        original = getattr(owner, name)
        if name in replacements:
            method = replacements[name](hook, original)
        elif name == "execute":
            method = _replaced(hook, original, _execute_client if "write_concern" not in parameters else _execute)
        else:
            method = _replaced(hook, original, _client_batch if parameters is _CLIENT_BATCH else _batch)
        setattr(owner, name, method)


def _replaced(hook: MongoSession, original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method for bulk writes; those of single commands avoid its additional call."""

    def method(*arguments: Any, **named: Any) -> Any:
        return replacement(hook, original, *arguments, **named)

    return method


class _Prepared(dict[str, Any]):
    """A find command with the decryptor of its reply."""

    exchange: CommandExchange


def _command(hook: MongoSession, original: Callable[..., Any]) -> Callable[..., Any]:
    def method(
        connection: Any,
        dbname: str,
        spec: Any,
        read_preference: Any = ReadPreference.PRIMARY,
        codec_options: Any = DEFAULT_CODEC_OPTIONS,
        *arguments: Any,
        **named: Any,
    ) -> Any:
        client = named.get("client")
        # Handshake commands contain no documents, and an error there would look like an unreachable server.
        is_handshake = client is None and next(iter(spec)) in _HANDSHAKE
        exchange = None if is_handshake else hook.exchange(client, dbname, spec, codec_options)
        if exchange is None:
            return original(connection, dbname, spec, read_preference, codec_options, *arguments, **named)
        spec, reading, count = exchange
        if reading is None:
            reply = original(connection, dbname, spec, read_preference, codec_options, *arguments, **named)
            return _then(reply, count.ended)
        reply = original(connection, dbname, spec, read_preference, reading.codec, *arguments, **named)
        return _then(reply, lambda found: hook.read(client, reading, found))

    return method


def _then(reply: Any, read: Callable[[Any], Any]) -> Any:
    """Apply `read` to a reply, or to the result of an awaitable."""
    if type(reply) in _REPLIES or not inspect.isawaitable(reply):
        return read(reply)

    async def awaited(pending: Awaitable[Any]) -> Any:
        return read(await pending)

    return awaited(reply)


def _as_command(hook: MongoSession, original: Callable[..., Any]) -> Callable[..., Any]:
    def method(query: Any, conn: Any, apply_timeout: bool = False) -> Any:  # noqa: FBT001, FBT002 - pymongo's own
        if query._as_command is not None:
            return query._as_command
        command, database = original(query, conn, apply_timeout)
        query._as_command = None  # another attempt must not find the rejected command
        exchange = hook.exchange(query.client, database, command, query.codec_options)
        if exchange is not None:
            if isinstance(query, message._RawBatchQuery):
                raise StatementRefused("raw batches would return ciphertext", "use find")
            command = _Prepared(exchange.command)
            command.exchange = exchange
        query._as_command = command, database
        return query._as_command

    return method


def _run_cursor_command(hook: MongoSession, original: Callable[..., Any]) -> Callable[..., Any]:
    def method(conn: Any, cmd: Any, dbname: str, *arguments: Any, client: Any, **named: Any) -> Any:
        exchange = cmd.exchange if type(cmd) is _Prepared else None
        if exchange is None and "getMore" in cmd:
            exchange = hook.exchange(client, dbname, cmd, named["codec_options"])
        reading = None if exchange is None else exchange.reading
        if reading is None:
            return original(conn, cmd, dbname, *arguments, client=client, **named)
        named["codec_options"] = reading.codec

        def read(found: Any) -> Any:
            docs = found[0]
            docs[0] = hook.read(client, reading, docs[0])
            return found

        return _then(original(conn, cmd, dbname, *arguments, client=client, **named), read)

    return method


def _execute(hook: MongoSession, original: Callable[..., Any], writing: Any, *arguments: Any, **named: Any) -> Any:
    """Encrypt all operations before the first is sent; they replace the application's operations while sending."""
    collection = writing.collection
    client, name, codec = collection.database.client, collection.full_name, collection.codec_options
    count = hook.count()
    writers = [hook.writer(client, name, codec, one, count) for one in _OPERATIONS]
    if all(writers):
        writing.__dict__[_READY] = {id(one): writers[kind](one) for kind, one in writing.ops}
    count.prepared()
    return _then(original(writing, *arguments, **named), count.ended)


def _execute_client(
    hook: MongoSession, original: Callable[..., Any], writing: Any, *arguments: Any, **named: Any
) -> Any:
    client, spaces, count = writing.client, set(writing.namespaces), hook.count()
    writers = {space: hook.writer(client, space, client.codec_options, commands.bulk, count) for space in spaces}
    ready = writing.__dict__[_READY] = {}
    for (_, one), space in zip(writing.ops, writing.namespaces, strict=True):
        writer = writers[space]
        if writer is not None:
            ready[id(one)] = writer(one)
    count.prepared()
    return _then(original(writing, *arguments, **named), count.ended)


def _batch(  # noqa: PLR0913, PLR0917 - pymongo's own parameters
    hook: MongoSession, original: Callable[..., Any], writing: Any, bwc: Any, cmd: Any, ops: Any, client: Any
) -> Any:
    del hook
    ready = writing.__dict__.get(_READY)
    return original(writing, bwc, cmd, ops if ready is None else (ready[id(one)] for one in ops), client)


def _client_batch(  # noqa: PLR0913, PLR0917 - the same
    hook: MongoSession, original: Callable[..., Any], writing: Any, bwc: Any, cmd: Any, ops: Any, namespaces: Any
) -> Any:
    del hook
    ready = writing.__dict__[_READY]
    return original(writing, bwc, cmd, ((kind, ready.get(id(one), one)) for kind, one in ops), namespaces)


def install_hook(settings: RunEnvironment) -> None:
    """Install the encryption in the imported driver; raises ImportError for an unsupported one."""
    problem = incompatibility()
    if problem:
        raise ImportError(f"{problem}, which this version of OpenKCM cannot protect", name="pymongo")
    service = CryptoService(settings.folder)
    install(
        MongoSession(
            ServiceProtection(service, settings.catalogue_seconds),
            ServiceKeySource(service),
            CollectionKeyStore,
            UsageReporter(service.report_usage),
            key_seconds=settings.key_seconds,
        )
    )
