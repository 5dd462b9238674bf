"""The places in psycopg where a statement leaves and where its rows arrive; blocking and async cursors share them.

psycopg makes statement and parameters ready, we exchange both, it sends them; its results come back, and the row
factory is given decrypted values. All of it is inside the generators that psycopg's two faces drive, so what we ask the
database on the way (the catalogue, a block of ids) goes over the same connection in the same manner. Every statement of
the application passes here, so what a call costs was weighed: most of the price of a short statement is here.

Puts the hook into psycopg.
"""

import inspect
import re
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache, partial
from operator import attrgetter
from time import perf_counter_ns
from typing import Any

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
from openkcm.field_encryption.protected_fields import ServiceProtection
from openkcm.field_encryption.service_client import CryptoService, ServiceKeySource
from openkcm.field_encryption.usage import UsageReporter
from openkcm.field_encryption.value_format import KeyValue

Steps = Generator[Any, Any, Any]
_Loads: Any = adapt.Transformer

_SKIPPED, _CHANGES, _ASKS_IDS, _OTHER = range(4)
_NEUTRAL = re.compile(
    rb"\s*(?:begin|start|commit|end|rollback|abort|savepoint|release|set|reset|show|listen|unlisten|notify|discard"
    rb"|deallocate|close|fetch|move)\b[^;]*;?\s*\Z",
    re.IGNORECASE,
)
_STRUCTURE = re.compile(rb"(?:^|;)\s*(?:create|alter|drop|comment|truncate|do|call)\b|\bsetval\s*\(", re.IGNORECASE)
_IDS = re.compile(rb"\b(?:lastval|currval)\s*\(", re.IGNORECASE)

_ADDED: dict[Any, dict[str, list[str]]] = {
    _cursor_base.BaseCursor: {
        "_start_query": ["self", "query"],
        "_maybe_prepare_gen": ["self", "pgq", "prepare", "binary"],
        "_execute_send": ["self", "query", "force_extended", "binary"],
        "_executemany_gen_pipeline": ["self", "query", "params_seq", "returning"],
        "_executemany_gen_no_pipeline": ["self", "query", "params_seq", "returning"],
    },
    _Loads: {
        "load_rows": ["self", "row0", "row1", "make_row"],
        "load_row": ["self", "row", "make_row"],
    },
    client_cursor.ClientCursorMixin: {"_execute_send": ["self", "query", "force_extended", "binary"]},
    psycopg.Cursor: {"_make_row_maker": ["self"]},
    psycopg.AsyncCursor: {"_make_row_maker": ["self"]},
    _server_cursor_base.ServerCursorMixin: {"_declare_gen": ["self", "query", "params", "binary"]},
    _pipeline_base.BasePipeline: {"_fetch_gen": ["self", "flush"]},
}
"""What must be there, as it is known, for the hook to be sure of what it does."""


def unsuited() -> str:
    """Return what this psycopg does otherwise than the hook knows, empty when nothing."""
    for owner, methods in _ADDED.items():
        for name, parameters in methods.items():
            method = getattr(owner, name, None)
            if method is None or list(inspect.signature(method).parameters) != parameters:
                return f"psycopg {psycopg.__version__} has another {owner.__name__}.{name}"
    return ""


@lru_cache(maxsize=4096)
def _class_of(query: str | bytes) -> int:
    text = query.encode("utf-8", "replace") if isinstance(query, str) else query
    if _NEUTRAL.match(text):
        return _SKIPPED
    if _STRUCTURE.search(text):
        return _CHANGES
    return _ASKS_IDS if _IDS.search(text) else _OTHER


def install(hook: Hook) -> None:
    """Put the hook into psycopg's cursors."""
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
    for face in (psycopg.Cursor, psycopg.AsyncCursor):
        setattr(face, "row_factory", property(attrgetter("_row_factory"), _set_row_factory))  # noqa: B010 - no attribute of the class for mypy
    shown = base.description.fget  # type: ignore[attr-defined]  # a property
    setattr(base, "description", property(partial(_description, shown)))  # noqa: B010 - the same
    setattr(adapt, "Transformer", _Transformer)  # noqa: B010 - the same


# On the way out. What has nothing to ask and nothing to write is handed on without a generator of ours around it.


def _start_query(hook: Hook, original: Callable[..., Steps]) -> Callable[..., Steps]:
    def method(cursor: Any, query: Any = None) -> Steps:
        kind = _class_of(query) if type(query) is str or type(query) is bytes else _OTHER
        if kind == _SKIPPED:
            return original(cursor, query)
        session = hook.session(cursor._conn)
        if kind == _OTHER and hook.knows(session):
            return original(cursor, query)
        return asking(cursor, query, kind, session)

    def asking(cursor: Any, query: Any, kind: int, session: Session) -> Steps:
        yield from original(cursor, query)
        if kind == _ASKS_IDS and session.took_ids:
            raise StatementRefused(
                "lastval and currval do not know the ids that were taken beforehand for protected rows",
                "use INSERT … RETURNING",
            )
        if not hook.knows(session):
            found = yield from _ask(cursor._conn, hook.question(session))
            hook.answered(session, found[0].decode("utf-8"))
        if kind == _CHANGES:
            hook.structure_changed(session)

    return method


def _maybe_prepare_gen(hook: Hook, original: Callable[..., Steps]) -> Callable[..., Steps]:
    def method(cursor: Any, pgq: Any, *, prepare: Any = None, binary: Any = None) -> Steps:
        session = hook.session(cursor._conn)
        work = session.database.works.of(pgq.query)
        if work is None:
            return original(cursor, pgq, prepare=prepare, binary=binary)
        return rewriting(cursor, session, work, pgq, prepare, binary)

    def rewriting(cursor: Any, session: Session, work: PreparedRewrite, pgq: Any, *how: Any) -> Steps:
        begun = perf_counter_ns()
        _check_encoding(cursor)
        if work.plan.declares:
            raise StatementRefused("the rows of a cursor declared in SQL cannot be followed", "use a named cursor")
        made: Sequence[KeyValue] = ()
        if work.plan.made:
            yield from _take_ids(cursor._conn, session, work.plan)
            made = work.made(session.take)
        many = cursor._execmany_returning is not None
        # In a pipeline, how long a request takes cannot be told from those around it.
        timed = many or not cursor._conn._pipeline
        pgq = cursor._query = work.rewritten(pgq, made, _arrays(cursor), timed=timed)
        sent = perf_counter_ns()
        yield from original(cursor, pgq, prepare=how[0], binary=how[1])
        if timed:
            work.spent(sent - begun)
        if timed and not many:
            work.lasted(perf_counter_ns() - begun)

    return method


def _execute_send(hook: Hook, original: Callable[..., None]) -> Callable[..., None]:
    """What does not come by `_maybe_prepare_gen`: server-side cursors, streams and COPY."""

    def method(cursor: Any, query: Any, **named: Any) -> None:
        if type(query) is not Rewritten:
            work = hook.session(cursor._conn).database.works.of(query.query)
            if work is not None:
                _check_encoding(cursor)
                if work.plan.made:
                    raise StatementRefused(
                        "the primary key cannot be made for a statement sent this way", "use execute()"
                    )
                query = cursor._query = work.rewritten(query, (), _arrays(cursor), timed=False)
        original(cursor, query, **named)

    return method


def _executemany(_hook: Hook, original: Callable[..., Steps]) -> Callable[..., Steps]:
    def method(cursor: Any, *arguments: Any) -> Steps:
        begun = perf_counter_ns()
        yield from original(cursor, *arguments)
        if type(cursor._query) is Rewritten:
            cursor._query.work.lasted(perf_counter_ns() - begun)

    return method


def _check_encoding(cursor: Any) -> None:
    if cursor._pgconn._encoding not in {"utf-8", "ascii"}:
        raise StatementRefused("protected columns need the client encoding UTF8", "set client_encoding to UTF8")


def _take_ids(connection: Any, session: Session, plan: Plan) -> Steps:
    wanted: dict[str, int] = {}
    for one in plan.made:
        if one.column.made_by_database == "sequence":
            wanted[one.column.sequence] = wanted.get(one.column.sequence, 0) + 1
    for sequence, count in wanted.items():
        waiting = session.ids.setdefault(sequence, [])
        if len(waiting) < count:
            name = sequence.replace("\\", "\\\\").replace("'", "''")
            size = session.next_block(count - len(waiting))
            query = f"SELECT pg_catalog.nextval(E'{name}') FROM pg_catalog.generate_series(1, {size})"  # noqa: S608 - quoted
            found = yield from _ask(connection, query.encode("utf-8"))
            waiting[:] = [*(int(one) for one in reversed(found)), *waiting]


class _Collector:
    """Takes the place of a cursor in a pipeline's queue."""

    def __init__(self, connection: Any) -> None:
        self._conn = connection
        self.results: list[Any] = []

    def _check_results(self, results: Sequence[Any]) -> None:
        for result in results:
            if result.status != pq.ExecStatus.TUPLES_OK:
                raise error_from_result(result, encoding=self._conn.pgconn._encoding)

    def _set_results(self, results: Sequence[Any]) -> None:
        self.results = list(results)


def _ask(connection: Any, query: bytes) -> Steps:
    """Return the first column of the answer, over the application's connection and in its transaction."""
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


def _arrays(cursor: Any) -> Callable[[bytes, int, int], Sequence[Any]]:
    def read(raw: bytes, oid: int, form: int) -> Sequence[Any]:
        found: Sequence[Any] = cursor._tx.get_loader(oid, pq.Format(form)).load(raw)
        return found

    return read


# On the way back.


class _Transformer(_Loads):  # type: ignore[misc]  # which of psycopg's two it is shows only now
    """Loads rows as ever, and has a statement's reader make of them what the application is given."""

    reader: RowReader | None = None
    timed = False

    def load_rows(self, row0: int, row1: int, make_row: Any) -> list[Any]:
        if self.reader is None:
            loaded: list[Any] = _Loads.load_rows(self, row0, row1, make_row)
            return loaded
        return self.reader.read(_Loads.load_rows(self, row0, row1, tuple), make_row, timed=self.timed)

    def load_row(self, row: int, make_row: Any) -> Any:
        if self.reader is None:
            return _Loads.load_row(self, row, make_row)
        return self.reader.read((_Loads.load_row(self, row, tuple),), make_row, timed=self.timed)[0]


def _make_row_maker(_hook: Hook, original: Callable[..., Any]) -> Callable[..., Any]:
    def method(cursor: Any) -> Any:
        query, result, loads = cursor._query, cursor.pgresult, cursor._tx
        if type(query) is not Rewritten or not query.work.plan.reads or not result or not result.nfields:
            if loads.reader is not None:
                loads.reader = None
            return original(cursor)
        loads.reader, loads.timed = query.work.reader(result), query.timed
        if cursor._row_factory is tuple_row:
            return tuple  # needs no look at the result
        return _seen(cursor, loads.reader, partial(original, cursor))

    return method


def _seen(cursor: Any, reader: RowReader, look: Callable[[], Any]) -> Any:
    """Look at the cursor as the application sees its result."""
    result = cursor.pgresult
    cursor.pgresult = Visible(result, reader.visible)
    try:
        return look()
    finally:
        cursor.pgresult = result


def _description(original: Callable[[Any], Any], cursor: Any) -> Any:
    query, result = cursor._query, cursor.pgresult
    if type(query) is not Rewritten or not query.work.plan.reads or not result or not result.nfields:
        return original(cursor)
    columns = original(cursor)
    return columns if isinstance(result, Visible) else [columns[at] for at in query.work.reader(result).visible]


def _set_row_factory(cursor: Any, factory: Any) -> None:
    cursor._row_factory = factory
    if cursor.pgresult:
        cursor._make_row = cursor._make_row_maker()


def hook_in(told: RunEnvironment) -> None:
    """Hook into the driver, which is imported by now; raises ImportError when it is another than is known."""
    problem = unsuited()
    if problem:
        raise ImportError(f"{problem}, which this version of OpenKCM cannot protect", name="psycopg")
    service = CryptoService(told.folder)
    install(
        Hook(
            ServiceProtection(service, told.catalogue_seconds),
            ServiceKeySource(service),
            DatabaseKeyStore,
            UsageReporter(service.tell),
            key_seconds=told.key_seconds,
            catalogue_seconds=told.catalogue_seconds,
        )
    )
