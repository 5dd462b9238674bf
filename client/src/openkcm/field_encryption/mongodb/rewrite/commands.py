"""Commands on a protected collection: which are supported, and their rewritten form."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from openkcm.field_encryption.mongodb.catalog import Catalogue, Collection
from openkcm.field_encryption.mongodb.encryption import TAG_NAME
from openkcm.field_encryption.mongodb.errors import ProtectionUnusable, StatementRefused
from openkcm.field_encryption.mongodb.rewrite import filters, pipelines, updates
from openkcm.field_encryption.mongodb.rewrite.projections import Documents, projected
from openkcm.field_encryption.mongodb.rewrite.request import Request

Command = Mapping[str, Any]


class Sent(NamedTuple):
    command: Command
    reads: Documents = Documents.OTHERS


def prepared(request: Request, name: str, command: Command) -> Sent:
    """Return the form of a command on a protected collection that is sent.

    Raises StatementRefused, ProtectionUnusable, KeyUnwrapError.
    """
    if request.collection.problem:
        raise ProtectionUnusable(request.collection.problem)
    if name in _WRITES:
        list_name, one = _WRITES[name]
        return Sent({**command, list_name: [one(request, operation) for operation in command[list_name]]})
    if name in _UNCHANGED:
        return Sent(command)
    if name not in _READS:
        raise StatementRefused(f"{name} is not supported on {request.collection.full_name}")
    return _READS[name](request, command)


def check_elsewhere(catalogue: Catalogue, database: str, name: str, command: Command) -> None:
    """Reject a command on another collection or database that accesses a protected collection."""
    if name == "aggregate":
        pipeline = command.get("pipeline", ())
        pipelines.check_places(database, pipeline, catalogue)
        change_stream = next((stage["$changeStream"] for stage in pipeline if "$changeStream" in stage), None)
        if change_stream is not None and not isinstance(command[name], str):
            everywhere = change_stream.get("allChangesForCluster")
            if any(everywhere or place[0] == database for place in catalogue):
                raise StatementRefused("a change stream would return ciphertext", "watch one collection")
    elif name not in _NO_OTHER_COLLECTION:
        named = set(_strings(command))
        for one in catalogue.values():
            if one.full_name in named or (one.database == database and one.name in named):
                raise StatementRefused(f"{name} is not supported on {one.full_name}")


def insert(request: Request, document: Command) -> Command:
    return updates.rewrite_insert(request, document)


def update(request: Request, operation: Command) -> Command:
    return _with_hint(request, updates.rewrite_update(request, operation, updates.UPDATE))


def delete(request: Request, operation: Command) -> Command:
    return _with_hint(request, updates.rewrite_delete(request, operation, updates.UPDATE))


def bulk(request: Request, operation: Command) -> Command:
    """Rewrite one operation of the command bulkWrite; its first key is its kind."""
    kind = next(iter(operation))
    if kind == "insert":
        return {**operation, "document": insert(request, operation["document"])}
    change = updates.rewrite_delete if kind == "delete" else updates.rewrite_update
    return _with_hint(request, change(request, operation, updates.BULK_WRITE))


def _find(request: Request, command: Command) -> Sent:
    sent = _with_filter(request, command, "filter")
    for bound in ("min", "max"):
        if bound in sent:
            for path in dict(sent[bound] or ()):
                request.require_unprotected(path, "a range of")
    if sent.get("returnKey"):
        raise StatementRefused("returnKey returns the content of the index", "leave it out")
    return _projected(request, sent, "projection")


def _find_and_modify(request: Request, command: Command) -> Sent:
    sent: Command = {**command, "query": command.get("query") or {}}
    sent = (
        _with_filter(request, sent, "query")
        if sent.get("remove")
        else updates.rewrite_update(request, sent, updates.FIND_AND_MODIFY)
    )
    return _projected(request, _with_hint(request, sent), "fields")


def _projected(request: Request, command: Command, name: str) -> Sent:
    asked = command.get(name)
    if not asked:
        return Sent(command, Documents.ORIGINAL)
    projection, reads = projected(request, asked)
    return Sent(command if projection is asked else {**command, name: projection}, reads)


def _with_filter(request: Request, command: Command, name: str) -> Command:
    """Return a command with its condition rewritten."""
    asked = command.get(name)
    condition = filters.rewrite_filter(request, asked)
    return _with_hint(request, command if condition is asked else {**command, name: condition})


def _with_hint(request: Request, command: Command) -> Command:
    """Check the order, and return a command with its hint rewritten."""
    if "sort" in command:
        for path in dict(command["sort"] or ()):
            request.require_unprotected(path, "sorting by")
    if "hint" in command and isinstance(command["hint"], Mapping):
        return {**command, "hint": _index_key(request, command["hint"])}
    return command


def _count(request: Request, command: Command) -> Sent:
    return Sent(_with_filter(request, command, "query"))


def _distinct(request: Request, command: Command) -> Sent:
    request.require_unprotected(command["key"], "distinguishing values of")
    return Sent(_with_filter(request, command, "query"))


def _aggregate(request: Request, command: Command) -> Sent:
    pipeline, reads = pipelines.rewrite_pipeline(request, command["pipeline"])
    return Sent(_with_hint(request, {**command, "pipeline": pipeline}), reads)


def _create_indexes(request: Request, command: Command) -> Sent:
    """Create an index for equality on the tag, which queries compare."""
    indexes = []
    for one in command["indexes"]:
        index = {**one, "key": _index_key(request, one["key"])}
        if "partialFilterExpression" in one:
            index["partialFilterExpression"] = filters.rewrite_filter(request, one["partialFilterExpression"])
        indexes.append(index)
    return Sent({**command, "indexes": indexes})


def _index_key(request: Request, key: Mapping[str, Any]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for path, kind in key.items():
        field = request.collection.affected_field(path)
        if field is None:
            found[path] = kind
        elif path == field.path and field.deterministic and not isinstance(kind, str):
            found[f"{path}.{TAG_NAME}"] = kind
        else:
            raise StatementRefused(
                f"an index over {path} is useless: {field.full_name} is ciphertext",
                "protect the field as deterministic to have an index for equality",
            )
    return found


def _create(request: Request, command: Command) -> Sent:
    if "viewOn" in command or "collation" in command:
        raise StatementRefused(
            f"{request.collection.full_name} must not be a view or have a default collation",
            "protect the collection of the view; specify collations in each command",
        )
    return Sent(command)


def _strings(value: object, depth: int = 4) -> list[str]:
    """Return the strings in the outer parts of a command."""
    if isinstance(value, str):
        return [value]
    if depth and isinstance(value, Mapping):
        return [found for one in value.values() for found in _strings(one, depth - 1)]
    if depth and isinstance(value, list | tuple):
        return [found for one in value for found in _strings(one, depth - 1)]
    return []


_WRITES: Mapping[str, tuple[str, Callable[[Request, Command], Command]]] = {
    "insert": ("documents", insert),
    "update": ("updates", update),
    "delete": ("deletes", delete),
}
_READS: Mapping[str, Callable[[Request, Command], Sent]] = {
    "find": _find,
    "findAndModify": _find_and_modify,
    "findandmodify": _find_and_modify,
    "aggregate": _aggregate,
    "count": _count,
    "distinct": _distinct,
    "createIndexes": _create_indexes,
    "create": _create,
    "collMod": _create,
}
_UNCHANGED = frozenset(
    {"drop", "listIndexes", "dropIndexes", "collStats", "validate", "compact", "reIndex", "planCacheClear"}
    | {"killCursors", "planCacheListFilters"}
)
_NO_OTHER_COLLECTION = frozenset(
    {*_WRITES, "find", "findAndModify", "findandmodify", "getMore", "count", "distinct", *_UNCHANGED}
    | {
        "createIndexes",
        "ping",
        "hello",
        "isMaster",
        "ismaster",
        "endSessions",
        "commitTransaction",
        "abortTransaction",
        "dropDatabase",
    }
    | {"listCollections", "listDatabases", "buildInfo", "serverStatus", "dbStats", "refreshSessions", "killSessions"}
)


def collection_of(catalogue: Catalogue, database: str, name: str, command: Command) -> Collection | None:
    """Return the protected collection of a command, None if it has no other."""
    where = command.get("collection") if name == "getMore" else command[name]
    return catalogue.get((database, where)) if isinstance(where, str) else None
