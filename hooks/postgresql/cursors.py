"""The places in psycopg where a statement leaves and where its rows arrive; blocking and async cursors share them.

psycopg makes statement and parameters ready, we exchange both, it sends them; its results come back, and the row
factory is given decrypted values. All of it is inside the generators that psycopg's two faces drive, so what we ask the
database on the way (the catalogue, a block of ids) goes over the same connection in the same manner.
"""

import inspect
import re
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

import psycopg
from psycopg import _cursor_base, _pipeline_base, _server_cursor_base, client_cursor, generators, pq
from psycopg.errors import error_from_result

from hooks.postgresql import rows
from hooks.postgresql.databases import Hook, Session
from hooks.postgresql.errors import StatementRefused
from hooks.postgresql.plans import Plan
from hooks.postgresql.rewriting import Rewritten, made_for, rewritten

Steps = Generator[Any, Any, Any]

_SKIPPED, _CHANGES, _ASKS_IDS, _OTHER = range(4)
_NEUTRAL = re.compile(
    rb"\s*(?:begin|start|commit|end|rollback|abort|savepoint|release|set|reset|show|listen|unlisten|notify|discard"
    rb"|deallocate|close|fetch|move)\b[^;]*;?\s*\Z",
    re.IGNORECASE,
)
_STRUCTURE = re.compile(rb"(?:^|;)\s*(?:create|alter|drop|comment|truncate|do|call)\b|\bsetval\s*\(", re.IGNORECASE)
_IDS = re.compile(rb"\b(?:lastval|currval)\s*\(", re.IGNORECASE)

_ADDED = {
    _cursor_base.BaseCursor: {
        "_start_query": ["self", "query"],
        "_maybe_prepare_gen": ["self", "pgq", "prepare", "binary"],
        "_execute_send": ["self", "query", "force_extended", "binary"],
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
    _wrap(base, "_start_query", partial(_start_query, hook))
    _wrap(base, "_maybe_prepare_gen", partial(_maybe_prepare_gen, hook))
    for owner in (base, client_cursor.ClientCursorMixin):
        _wrap(owner, "_execute_send", partial(_execute_send, hook))
    for face in (psycopg.Cursor, psycopg.AsyncCursor):
        _wrap(face, "_make_row_maker", partial(_make_row_maker, hook))
        setattr(face, "row_factory", property(attrgetter("_row_factory"), _set_row_factory))  # noqa: B010 - no attribute of the class for mypy
    shown = base.description.fget  # type: ignore[attr-defined]  # a property
    setattr(base, "description", property(partial(_description, shown)))  # noqa: B010 - the same


def _wrap(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        return replacement(original, self, *arguments, **named)

    setattr(owner, name, method)


# On the way out.


def _start_query(hook: Hook, original: Callable[..., Steps], cursor: Any, query: Any = None) -> Steps:
    yield from original(cursor, query)
    kind = _class_of(query) if type(query) is str or type(query) is bytes else _OTHER
    if kind == _SKIPPED:
        return
    session = hook.session(cursor._conn)
    if kind == _ASKS_IDS and session.took_ids:
        raise StatementRefused(
            "lastval and currval do not know the ids that were taken beforehand for protected rows",
            "use INSERT … RETURNING",
        )
    question = hook.question(session)
    if question:
        found = yield from _ask(cursor._conn, question)
        hook.answered(session, found[0].decode("utf-8"))
    if kind == _CHANGES:
        hook.structure_changed(session)


def _maybe_prepare_gen(  # noqa: PLR0913 - psycopg's own parameters
    hook: Hook, original: Callable[..., Steps], cursor: Any, pgq: Any, *, prepare: Any = None, binary: Any = None
) -> Steps:
    session = hook.session(cursor._conn)
    plan = _plan(session, cursor, pgq.query)
    if plan is not None:
        if plan.declares:
            raise StatementRefused("the rows of a cursor declared in SQL cannot be followed", "use a named cursor")
        made = {}
        if plan.made:
            yield from _take_ids(cursor._conn, session, plan)
            made = made_for(plan, {one.column.sequence: session.taken(one.column.sequence) for one in plan.made})
        pgq = cursor._query = rewritten(plan, pgq, session.database.keys, made, _arrays(cursor))
    yield from original(cursor, pgq, prepare=prepare, binary=binary)


def _execute_send(hook: Hook, original: Callable[..., None], cursor: Any, query: Any, **named: Any) -> None:
    """What does not come by `_maybe_prepare_gen`: server-side cursors, streams and COPY."""
    if not isinstance(query, Rewritten):
        session = hook.session(cursor._conn)
        plan = _plan(session, cursor, query.query)
        if plan is not None:
            if plan.made:
                raise StatementRefused("the primary key cannot be made for a statement sent this way", "use execute()")
            query = cursor._query = rewritten(plan, query, session.database.keys, {}, _arrays(cursor))
    original(cursor, query, **named)


def _plan(session: Session, cursor: Any, query: bytes) -> Plan | None:
    plan = session.database.plans.of(query)
    if plan is not None and cursor._pgconn._encoding not in {"utf-8", "ascii"}:
        raise StatementRefused("protected columns need the client encoding UTF8", "set client_encoding to UTF8")
    return plan


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


def _make_row_maker(hook: Hook, original: Callable[..., Any], cursor: Any) -> Any:
    plan = getattr(cursor._query, "plan", None)
    if plan is None or not plan.reads or not cursor.pgresult or not cursor.pgresult.nfields:
        return original(cursor)
    place = rows.layout(plan, cursor.pgresult)
    make = _seen(cursor, place, partial(original, cursor))
    return rows.row_maker(place, hook.session(cursor._conn).database.keys, make)


def _seen(cursor: Any, place: rows.Layout, look: Callable[[], Any]) -> Any:
    """Look at the cursor as the application sees its result."""
    result = cursor.pgresult
    cursor.pgresult = rows.Visible(result, place.visible)
    try:
        return look()
    finally:
        cursor.pgresult = result


def _description(original: Callable[[Any], Any], cursor: Any) -> Any:
    plan = getattr(cursor._query, "plan", None)
    result = cursor.pgresult
    if plan is None or not plan.hidden or not result or not result.nfields or isinstance(result, rows.Visible):
        return original(cursor)
    return _seen(cursor, rows.layout(plan, result), partial(original, cursor))


def _set_row_factory(cursor: Any, factory: Any) -> None:
    cursor._row_factory = factory
    if cursor.pgresult:
        cursor._make_row = cursor._make_row_maker()
