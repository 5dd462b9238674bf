"""Aggregations: which stages leave documents as they are, which make others of them, and which cannot be followed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from openkcm.field_encryption.mongodb.catalog import Catalogue
from openkcm.field_encryption.mongodb.errors import StatementRefused
from openkcm.field_encryption.mongodb.rewrite import filters
from openkcm.field_encryption.mongodb.rewrite.projections import Documents, computed_id, projected
from openkcm.field_encryption.mongodb.rewrite.request import Request

Stage = Mapping[str, Any]
Pipeline = Iterable[Stage]

_ALIKE = frozenset({"$limit", "$skip", "$sample"})
_OTHERS = frozenset(
    {
        "$group",
        "$sortByCount",
        "$bucket",
        "$bucketAuto",
        "$replaceRoot",
        "$replaceWith",
        "$count",
        "$collStats",
        "$indexStats",
    }
)
_UPDATES = frozenset({"$set", "$addFields", "$unset"})
_ELSEWHERE = {"$lookup": "from", "$graphLookup": "from", "$unionWith": "coll", "$out": "coll", "$merge": "into"}


def places(database: str, pipeline: Pipeline) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the other collections that a pipeline reads or writes, with the stage that does."""
    for stage in pipeline:
        for name, body in stage.items():
            if name in _ELSEWHERE:
                where = body.get(_ELSEWHERE[name]) if isinstance(body, Mapping) else body
                if isinstance(where, Mapping):
                    yield name, (where.get("db", database), where.get("coll", ""))
                elif where is not None:
                    other = body.get("db", database) if name == "$out" and isinstance(body, Mapping) else database
                    yield name, (other, where)
                if isinstance(body, Mapping):
                    yield from places(database, body.get("pipeline", ()))
            elif name == "$facet":
                for inner in body.values():
                    yield from places(database, inner)


def check_places(database: str, pipeline: Pipeline, catalogue: Catalogue) -> None:
    """Refuse a pipeline that takes ciphertext to, or plaintext into, where it does not belong."""
    for name, place in places(database, pipeline):
        other = catalogue.get(place)
        if other is not None:
            doing = (
                "would store unencrypted values in" if name in {"$out", "$merge"} else "would hand out ciphertext of"
            )
            raise StatementRefused(f"{name} {doing} {other.full_name}", "use find and insert_many")


def rewritten(request: Request, pipeline: Pipeline) -> tuple[list[Stage], Documents]:
    """Return the pipeline as it is sent and what comes of it. Raises StatementRefused."""
    result: list[Stage] = []
    seen = Documents.THEIRS
    for stage in pipeline:
        sent = stage
        if seen is not Documents.OTHERS:  # else it sees only what was computed without protected fields
            for name, body in stage.items():
                if seen is Documents.WITHOUT_ID and name not in _ALIKE:
                    raise StatementRefused(f"{name} after the _id was left out cannot be followed", "leave it out last")
                sent, seen = _followed(request, name, body)
        result.append(sent)
    return result, seen


def checked_update(request: Request, pipeline: Pipeline) -> None:
    """Refuse an update by pipeline unless it leaves protected fields alone."""
    for stage in pipeline:
        for name, body in stage.items():
            if name not in _UPDATES:
                raise StatementRefused(
                    f"an update by {name} cannot be followed on {request.collection.full_name}", "use $set"
                )
            _STAGES[name](request, body)


def _followed(request: Request, name: str, body: Any) -> tuple[Stage, Documents]:
    sent, seen = {name: body}, Documents.THEIRS
    if name == "$match":
        sent = {name: filters.rewritten(request, body)}
    elif name == "$project":
        projection, seen = projected(request, body)
        sent = {name: projection} if projection else {"$match": {}}
    elif name in _STAGES:
        _STAGES[name](request, body)
    elif name in _OTHERS:
        seen = Documents.OTHERS
        if name != "$count":
            request.no_reference(body, f"{name} with")
    elif name == "$facet":
        sent, seen = {name: {face: _face(request, face, inner) for face, inner in body.items()}}, Documents.OTHERS
    elif name in {"$out", "$merge"}:
        raise StatementRefused(
            f"{name} would copy ciphertext of {request.collection.full_name} to where it does not open",
            "use find and insert_many",
        )
    elif name not in _ALIKE:
        raise StatementRefused(f"{name} cannot be followed on {request.collection.full_name}", "use other stages")
    return sent, seen


def _face(request: Request, face: str, pipeline: Pipeline) -> list[Stage]:
    sent, seen = rewritten(request, pipeline)
    if seen is not Documents.OTHERS:
        raise StatementRefused(f"$facet would hand out ciphertext in {face}", "aggregate once for each")
    return sent


def _sort(request: Request, body: Any) -> None:
    for path in body:
        request.untouched(path, "sorting by")


def _add_fields(request: Request, body: Any) -> None:
    for path, expression in body.items():
        request.untouched(path, "computing")
        request.no_reference(expression, "computing with")
        if path == "_id":
            raise computed_id()


def _unset(request: Request, body: Any) -> None:
    for path in [body] if isinstance(body, str) else body:
        if path == "_id":
            raise StatementRefused("without the _id protected values do not open", "leave it out with $project")
        if path not in request.collection.by_path and path not in request.collection.above:
            request.untouched(path, "removing a part of")


def _unwind(request: Request, body: Any) -> None:
    options = {"path": body} if isinstance(body, str) else body
    request.no_reference(options["path"], "unwinding")
    request.untouched(options.get("includeArrayIndex") or "", "counting into")


def _redact(request: Request, body: Any) -> None:
    request.no_reference(body, "computing with")


def _lookup(request: Request, body: Any) -> None:
    request.untouched(body["as"], "joining into")
    request.untouched(body.get("localField", ""), "joining by")
    request.no_reference([body.get("let", {}), body.get("startWith", "")], "joining by")


_STAGES: dict[str, Callable[[Request, Any], None]] = {
    "$sort": _sort,
    "$set": _add_fields,
    "$addFields": _add_fields,
    "$unset": _unset,
    "$unwind": _unwind,
    "$redact": _redact,
    "$lookup": _lookup,
    "$graphLookup": _lookup,
}
