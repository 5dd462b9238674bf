"""Installs the encryption in psycopg, where statements are sent and rows arrive; blocking and async cursors share it.

psycopg prepares statement and parameters, this module replaces both, psycopg sends them. Its row factories then receive
decrypted values. All of this runs inside the generators that both kinds of cursor drive. Queries of the encryption
itself (the catalogue, reserved ids) therefore use the same connection in the same way. Every statement of the
application passes through this module, and a short statement spends most of its overhead here: the code avoids calls.
"""

import inspect
import re
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache, partial
from operator import attrgetter
from time import perf_counter_ns
from typing import Any, Final

import psycopg
from psycopg import _cursor_base, _pipeline_base, _server_cursor_base, adapt, client_cursor, generators, pq
from psycopg.errors import error_from_result
from psycopg.rows import tuple_row

from openkcm.field_encryption.environment import RunEnvironment
from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.execute.prepared import PreparedRewrite, Rewritten
from openkcm.field_encryption.postgresql.execute.rows import RowReader, Visible
from openkcm.field_encryption.postgresql.key_store import DatabaseKeyStore
from openkcm.field_encryption.postgresql.plan import Plan
from openkcm.field_encryption.postgresql.sessions import Hook, Session
from openkcm.field_encryption.postgresql.statements import Unprepared
from openkcm.field_encryption.protected_fields import ServiceProtection
from openkcm.field_encryption.service_client import CryptoService, ServiceKeySource
from openkcm.field_encryption.usage import UsageReporter
from openkcm.field_encryption.value_format import KeyValue

Steps = Generator[Any, Any, Any]
_ENCODINGS = frozenset({"utf-8", "ascii"})
_BaseTransformer: Any = adapt.Transformer
_load_rows, _load_row = _BaseTransformer.load_rows, _BaseTransformer.load_row

_STRUCTURE_CHANGE: Final = Unprepared.STRUCTURE_CHANGE
_NEUTRAL_KIND, _ASKS_IDS, _OTHER = range(3)
_NEUTRAL = re.compile(
    rb"\s*(?:begin|start|commit|end|rollback|abort|savepoint|release|set|reset|show|listen|unlisten|notify|discard"
    rb"|deallocate|close|fetch|move)\b[^;]*(?:;\s*)?\Z",
    re.IGNORECASE,
)
_IDS = re.compile(rb"\b(?:lastval|currval)\s*\(", re.IGNORECASE)

_REQUIRED: dict[Any, dict[str, list[str]]] = {
    _cursor_base.BaseCursor: {
        "_start_query": ["self", "query"],
        "_maybe_prepare_gen": ["self", "pgq", "prepare", "binary"],
        "_execute_send": ["self", "query", "force_extended", "binary"],
        "_executemany_gen_pipeline": ["self", "query", "params_seq", "returning"],
        "_executemany_gen_no_pipeline": ["self", "query", "params_seq", "returning"],
    },
    _BaseTransformer: {
        "load_rows": ["self", "row0", "row1", "make_row"],
        "load_row": ["self", "row", "make_row"],
    },
    client_cursor.ClientCursorMixin: {"_execute_send": ["self", "query", "force_extended", "binary"]},
    psycopg.Cursor: {"_make_row_maker": ["self"]},
    psycopg.AsyncCursor: {"_make_row_maker": ["self"]},
    _server_cursor_base.ServerCursorMixin: {"_declare_gen": ["self", "query", "params", "binary"]},
    _pipeline_base.BasePipeline: {"_fetch_gen": ["self", "flush"]},
}
"""The methods that the encryption relies on, with their parameters."""


def incompatibility() -> str:
    """Return how this psycopg differs from the supported one, empty if it does not."""
    for owner, methods in _REQUIRED.items():
        for name, parameters in methods.items():
            method = getattr(owner, name, None)
            if method is None or list(inspect.signature(method).parameters) != parameters:
                return f"psycopg {psycopg.__version__} has another {owner.__name__}.{name}"
    return ""


@lru_cache(maxsize=4096)
def _class_of(query: str | bytes) -> int:
    text = query.encode("utf-8", "replace") if isinstance(query, str) else query
    if _NEUTRAL.match(text):
        return _NEUTRAL_KIND
    return _ASKS_IDS if _IDS.search(text) else _OTHER


def install(hook: Hook) -> None:
    """Install the encryption in psycopg's cursors."""
    base = _cursor_base.BaseCursor
    for owner, name, around in (
        (base, "_start_query", _start_query),
        (base, "_maybe_prepare_gen", _maybe_prepare_gen),
        (base, "_execute_send", _execute_send),
        (client_cursor.ClientCursorMixin, "_execute_send", _execute_send),
        (base, "_executemany_gen_pipeline", _executemany),
        (base, "_executemany_gen_no_pipeline", _executemany),
        (psycopg.Cursor, "_make_row_maker", _make_row_maker),
        (psycopg.AsyncCursor, "_make_row_maker", _make_row_maker),
    ):
        setattr(owner, name, around(hook, getattr(owner, name)))
    for cursor_class in (psycopg.Cursor, psycopg.AsyncCursor):
        setattr(cursor_class, "row_factory", property(attrgetter("_row_factory"), _set_row_factory))  # noqa: B010 - not an attribute for mypy
    getter = base.description.fget  # type: ignore[attr-defined]  # a property
    setattr(base, "description", property(partial(_description, getter)))  # noqa: B010 - the same
    setattr(adapt, "Transformer", _Transformer)  # noqa: B010 - the same


# Outgoing statements. Without a query or change to make, a call returns psycopg's generator directly.


def _start_query(hook: Hook, original: Callable[..., Steps]) -> Callable[..., Steps]:
    def method(cursor: Any, query: Any = None) -> Steps:
        kind = _class_of(query) if type(query) is str or type(query) is bytes else _OTHER
        if kind == _NEUTRAL_KIND:
            return original(cursor, query)
        session = hook.session(cursor._conn)
        if kind == _OTHER and hook.is_current(session):
            return original(cursor, query)
        return checking(cursor, query, kind, session)

    def checking(cursor: Any, query: Any, kind: int, session: Session) -> Steps:
        yield from original(cursor, query)
        if kind == _ASKS_IDS and session.used_ids:
            raise StatementRefused(
                "lastval and currval do not reflect the ids that were reserved for protected rows",
                "use INSERT … RETURNING",
            )
        if not hook.is_current(session):
            found = yield from _query_column(cursor._conn, hook.question(session))
            hook.catalogue_received(session, found[0].decode("utf-8"))

    return method


def _maybe_prepare_gen(hook: Hook, original: Callable[..., Steps]) -> Callable[..., Steps]:
    def method(cursor: Any, pgq: Any, *, prepare: Any = None, binary: Any = None) -> Steps:
        session = hook.session(cursor._conn)
        work = (session.private or session.database.works).of(pgq.query)
        if work is None:
            return original(cursor, pgq, prepare=prepare, binary=binary)
        if work is _STRUCTURE_CHANGE:
            return changing(cursor, session, pgq, (prepare, binary))
        return rewriting(cursor, session, work, pgq, (prepare, binary))

    def changing(cursor: Any, session: Session, pgq: Any, how: tuple[Any, Any]) -> Steps:
        session.sends_change = True
        hook.structure_changed(session)
        try:
            yield from original(cursor, pgq, prepare=how[0], binary=how[1])
        finally:
            session.sends_change = False

    def rewriting(cursor: Any, session: Session, work: PreparedRewrite, pgq: Any, how: tuple[Any, Any]) -> Steps:
        begun = perf_counter_ns()
        _check_encoding(cursor)
        made: Sequence[KeyValue] = ()
        if not work.passes:
            if work.plan.declares:
                raise StatementRefused(
                    "a cursor declared in SQL is not supported for protected columns", "use a named cursor"
                )
            if work.plan.made:
                yield from _take_ids(cursor._conn, session, work.plan)
                made = work.made(session.take)
        many = cursor._execmany_returning is not None
        # In a pipeline, the time of one request cannot be separated from that of its neighbours.
        timed = many or not cursor._conn._pipeline
        pgq = cursor._query = work.rewritten(pgq, made, partial(_read_array, cursor), timed=timed)
        sent = perf_counter_ns()
        yield from original(cursor, pgq, prepare=how[0], binary=how[1])
        if timed:
            work.counted(sent - begun, None if many else perf_counter_ns() - begun)

    return method


def _execute_send(hook: Hook, original: Callable[..., None]) -> Callable[..., None]:
    """Handle requests that bypass `_maybe_prepare_gen`: server-side cursors, streams and COPY."""

    def method(cursor: Any, query: Any, **named: Any) -> None:
        if type(query) is not Rewritten:
            session = hook.session(cursor._conn)
            work = (session.private or session.database.works).of(query.query)
            if work is _STRUCTURE_CHANGE:
                if not session.sends_change:
                    raise StatementRefused(
                        "a statement sent this way cannot change tables or comments", "use execute()"
                    )
            elif work is not None:
                _check_encoding(cursor)
                if work.plan.made:
                    raise StatementRefused(
                        "a statement sent this way cannot get a generated primary key", "use execute()"
                    )
                query = cursor._query = work.rewritten(query, (), partial(_read_array, cursor), timed=False)
        original(cursor, query, **named)

    return method


def _executemany(_hook: Hook, original: Callable[..., Steps]) -> Callable[..., Steps]:
    def method(cursor: Any, *arguments: Any) -> Steps:
        begun = perf_counter_ns()
        yield from original(cursor, *arguments)
        if type(cursor._query) is Rewritten:
            cursor._query.work.counted(0, perf_counter_ns() - begun)

    return method


def _check_encoding(cursor: Any) -> None:
    if cursor._pgconn._encoding not in _ENCODINGS:
        raise StatementRefused("protected columns require the client encoding UTF8", "set client_encoding to UTF8")


def _take_ids(connection: Any, session: Session, plan: Plan) -> Steps:
    needed: dict[str, int] = {}
    for one in plan.made:
        if one.column.made_by_database == "sequence":
            needed[one.column.sequence] = needed.get(one.column.sequence, 0) + 1
    for sequence, count in needed.items():
        reserved = session.ids.setdefault(sequence, [])
        if len(reserved) < count:
            name = sequence.replace("\\", "\\\\").replace("'", "''")
            size = session.next_block(count - len(reserved))
            query = f"SELECT pg_catalog.nextval(E'{name}') FROM pg_catalog.generate_series(1, {size})"  # noqa: S608 - quoted
            found = yield from _query_column(connection, query.encode("utf-8"))
            reserved[:] = [*(int(one) for one in reversed(found)), *reserved]


class _Collector:
    """Replaces a cursor in a pipeline's queue."""

    def __init__(self, connection: Any) -> None:
        self._conn = connection
        self.results: list[Any] = []

    def _check_results(self, results: Sequence[Any]) -> None:
        for result in results:
            if result.status != pq.ExecStatus.TUPLES_OK:
                raise error_from_result(result, encoding=self._conn.pgconn._encoding)

    def _set_results(self, results: Sequence[Any]) -> None:
        self.results = list(results)


def _query_column(connection: Any, query: bytes) -> Steps:
    """Return the first column of a query's result, through the application's connection and transaction."""
    collector, pgconn, pipeline = _Collector(connection), connection.pgconn, connection._pipeline
    if pipeline:
        pipeline.command_queue.append(partial(pgconn.send_query_params, query, None))
        pipeline.result_queue.append((collector, None))
        yield from pipeline._communicate_gen()
        while not collector.results:
            yield from pipeline._fetch_gen(flush=True)
    else:
        pgconn.send_query(query)
        results = yield from generators.execute(pgconn)
        collector._check_results(results)
        collector._set_results(results)
    result = collector.results[-1]
    return [result.get_value(row, 0) for row in range(result.ntuples)]


def _read_array(cursor: Any, raw: bytes, oid: int, form: int) -> Sequence[Any]:
    found: Sequence[Any] = cursor._tx.get_loader(oid, pq.Format(form)).load(raw)
    return found


# Incoming rows.


class _Transformer(_BaseTransformer):  # type: ignore[misc]  # psycopg chooses one of two classes at run time
    """Loads rows as psycopg does, and converts them with the statement's reader."""

    reader: RowReader | None = None
    timed = False

    def load_rows(self, row0: int, row1: int, make_row: Any) -> Any:
        reader = self.reader
        if reader is None:
            return _load_rows(self, row0, row1, make_row)
        return reader.read(_load_rows(self, row0, row1, tuple), make_row, timed=self.timed)

    def load_row(self, row: int, make_row: Any) -> Any:
        reader = self.reader
        if reader is None:
            return _load_row(self, row, make_row)
        return reader.read((_load_row(self, row, tuple),), make_row, timed=self.timed)[0]


def _make_row_maker(_hook: Hook, original: Callable[..., Any]) -> Callable[..., Any]:
    def method(cursor: Any) -> Any:
        query, result, loads = cursor._query, cursor.pgresult, cursor._tx
        if type(query) is not Rewritten or not query.reads or not result or not result.nfields:
            if loads.reader is not None:
                loads.reader = None
            return original(cursor)
        loads.reader, loads.timed = query.work.reader(result), query.timed
        if cursor._row_factory is tuple_row:
            return tuple  # independent of the result
        return _with_visible_columns(cursor, loads.reader, partial(original, cursor))

    return method


def _with_visible_columns(cursor: Any, reader: RowReader, call: Callable[[], Any]) -> Any:
    """Call a function while the cursor shows only the application's columns of the result."""
    result = cursor.pgresult
    cursor.pgresult = Visible(result, reader.visible)
    try:
        return call()
    finally:
        cursor.pgresult = result


def _description(original: Callable[[Any], Any], cursor: Any) -> Any:
    query, result = cursor._query, cursor.pgresult
    if type(query) is not Rewritten or not query.reads or not result or not result.nfields:
        return original(cursor)
    columns = original(cursor)
    return columns if isinstance(result, Visible) else [columns[at] for at in query.work.reader(result).visible]


def _set_row_factory(cursor: Any, factory: Any) -> None:
    cursor._row_factory = factory
    if cursor.pgresult:
        cursor._make_row = cursor._make_row_maker()


def install_hook(settings: RunEnvironment) -> None:
    """Install the encryption in the imported driver; raises ImportError for an unsupported one."""
    problem = incompatibility()
    if problem:
        raise ImportError(f"{problem}, which this version of OpenKCM cannot protect", name="psycopg")
    service = CryptoService(settings.folder)
    install(
        Hook(
            ServiceProtection(service, settings.catalogue_seconds),
            ServiceKeySource(service),
            DatabaseKeyStore,
            UsageReporter(service.report_usage),
            key_seconds=settings.key_seconds,
            catalogue_seconds=settings.catalogue_seconds,
        )
    )
