"""Aggregation pipelines: stages that keep documents, stages that create others, and unsupported stages."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from openkcm.field_encryption.mongodb.catalog import Catalogue
from openkcm.field_encryption.mongodb.errors import StatementRefused
from openkcm.field_encryption.mongodb.rewrite import filters
from openkcm.field_encryption.mongodb.rewrite.projections import Documents, computed_id, projected
from openkcm.field_encryption.mongodb.rewrite.request import Request

Stage = Mapping[str, Any]
Pipeline = Iterable[Stage]

_PASS_THROUGH = frozenset({"$limit", "$skip", "$sample"})
_NEW_DOCUMENTS = frozenset(
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
    """Yield the other collections that a pipeline reads or writes, with the stage."""
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
    """Reject a pipeline that moves ciphertext or plaintext between collections."""
    for name, place in places(database, pipeline):
        other = catalogue.get(place)
        if other is not None:
            doing = "would store unencrypted values in" if name in {"$out", "$merge"} else "would return ciphertext of"
            raise StatementRefused(f"{name} {doing} {other.full_name}", "use find and insert_many")


def rewrite_pipeline(request: Request, pipeline: Pipeline) -> tuple[list[Stage], Documents]:
    """Return the pipeline to send and the kind of its results. Raises StatementRefused."""
    result: list[Stage] = []
    documents = Documents.ORIGINAL
    for stage in pipeline:
        sent = stage
        if documents is not Documents.OTHERS:  # else its input contains no protected fields
            for name, body in stage.items():
                if documents is Documents.WITHOUT_ID and name not in _PASS_THROUGH:
                    raise StatementRefused(
                        f"{name} after the removal of the _id is not supported", "remove the _id in the last stage"
                    )
                sent, documents = _rewrite_stage(request, name, body)
        result.append(sent)
    return result, documents


def checked_update(request: Request, pipeline: Pipeline) -> None:
    """Reject an update pipeline that changes protected fields."""
    for stage in pipeline:
        for name, body in stage.items():
            if name not in _UPDATES:
                raise StatementRefused(
                    f"an update by {name} is not supported on {request.collection.full_name}", "use $set"
                )
            _STAGES[name](request, body)


def _rewrite_stage(request: Request, name: str, body: Any) -> tuple[Stage, Documents]:
    sent, documents = {name: body}, Documents.ORIGINAL
    if name == "$match":
        sent = {name: filters.rewrite_filter(request, body)}
    elif name == "$project":
        projection, documents = projected(request, body)
        sent = {name: projection} if projection else {"$match": {}}
    elif name in _STAGES:
        _STAGES[name](request, body)
    elif name in _NEW_DOCUMENTS:
        documents = Documents.OTHERS
        if name != "$count":
            request.no_reference(body, f"{name} with")
    elif name == "$facet":
        sent, documents = (
            {name: {facet: _rewrite_facet(request, facet, inner) for facet, inner in body.items()}},
            Documents.OTHERS,
        )
    elif name in {"$out", "$merge"}:
        raise StatementRefused(
            f"{name} would copy ciphertext of {request.collection.full_name} to where it cannot be decrypted",
            "use find and insert_many",
        )
    elif name not in _PASS_THROUGH:
        raise StatementRefused(f"{name} is not supported on {request.collection.full_name}", "use other stages")
    return sent, documents


def _rewrite_facet(request: Request, facet: str, pipeline: Pipeline) -> list[Stage]:
    sent, documents = rewrite_pipeline(request, pipeline)
    if documents is not Documents.OTHERS:
        raise StatementRefused(f"$facet would return ciphertext in {facet}", "aggregate once for each")
    return sent


def _sort(request: Request, body: Any) -> None:
    for path in body:
        request.require_unprotected(path, "sorting by")


def _add_fields(request: Request, body: Any) -> None:
    for path, expression in body.items():
        request.require_unprotected(path, "computing")
        request.no_reference(expression, "computing with")
        if path == "_id":
            raise computed_id()


def _unset(request: Request, body: Any) -> None:
    for path in [body] if isinstance(body, str) else body:
        if path == "_id":
            raise StatementRefused("without the _id protected values cannot be decrypted", "remove it with $project")
        if path not in request.collection.by_path and path not in request.collection.ancestors:
            request.require_unprotected(path, "removing a part of")


def _unwind(request: Request, body: Any) -> None:
    options = {"path": body} if isinstance(body, str) else body
    request.no_reference(options["path"], "unwinding")
    request.require_unprotected(options.get("includeArrayIndex") or "", "counting into")


def _redact(request: Request, body: Any) -> None:
    request.no_reference(body, "computing with")


def _lookup(request: Request, body: Any) -> None:
    request.require_unprotected(body["as"], "joining into")
    request.require_unprotected(body.get("localField", ""), "joining by")
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
