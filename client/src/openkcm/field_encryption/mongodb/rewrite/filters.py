"""Query conditions: a ciphertext supports tests for existence, a tag tests for equality."""

from collections.abc import Iterable, Mapping
from typing import Any

from openkcm.field_encryption.mongodb import encryption as sealing
from openkcm.field_encryption.mongodb.catalog import Field
from openkcm.field_encryption.mongodb.errors import StatementRefused
from openkcm.field_encryption.mongodb.rewrite.request import Request, refusal

_BRANCHES = frozenset({"$and", "$or", "$nor"})
_COMPUTED = frozenset({"$where", "$jsonSchema"})
_EQUAL = {"$eq": "$in", "$ne": "$nin", "$in": "$in", "$nin": "$nin"}

Filter = Mapping[str, Any]


def rewrite_filter(request: Request, asked: Any) -> Any:
    """Return a condition for the database; raises StatementRefused, ProtectionUnusable, KeyUnwrapError."""
    if type(asked) is not dict and not isinstance(asked, Mapping):
        return asked  # the database says what it thinks of it
    affected_field = request.collection.affected_field
    if not any([name.startswith("$") or affected_field(name) for name in asked]):  # noqa: C419 - a list is faster
        return asked
    kept: dict[str, Any] = {}
    added: list[Filter] = []
    for name, value in asked.items():
        if name.startswith("$"):
            kept[name] = _operator(request, name, value)
            continue
        field = affected_field(name)
        if field is None:
            kept[name] = value
        elif field.path != name:
            raise refusal(field, f"asking by {name} for")
        else:
            added += _conditions(request, field, value)
    for condition in added:
        if condition.keys() & kept.keys():
            kept["$and"] = [*kept.get("$and", ()), condition]
        else:
            kept.update(condition)
    return kept


def _operator(request: Request, name: str, value: Any) -> Any:
    if name in _BRANCHES:
        return [rewrite_filter(request, one) for one in value]
    if name in _COMPUTED:
        raise StatementRefused(f"{name} cannot be followed on {request.collection.full_name}", "name the fields")
    if name == "$expr":
        request.no_reference(value, "computing with")
    return value


def equalities(request: Request, asked: Any) -> Iterable[tuple[Field, Any]]:
    """Yield the protected fields that a condition fixes, from which an upsert creates its document."""
    if not isinstance(asked, Mapping):
        return
    for name, value in asked.items():
        if name == "$and" or (name == "$or" and len(value) == 1):
            for one in value:
                yield from equalities(request, one)
        elif name in request.collection.by_path:
            wanted = [one for operator, one in _operators(value) if operator == "$eq"]
            wanted += [one[0] for operator, one in _operators(value) if operator == "$in" and len(one) == 1]
            if wanted:
                yield request.collection.by_path[name], wanted[0]


def _operators(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and next(iter(value), "").startswith("$"):
        return list(value.items())
    return [("$eq", value)]


def _conditions(request: Request, field: Field, value: Any) -> list[Filter]:
    found: list[Filter] = []
    for operator, wanted in _operators(value):
        if operator == "$exists" or (operator in {"$eq", "$ne"} and wanted is None):
            found.append({field.path: {operator: wanted}})
            continue
        if operator not in _EQUAL:
            raise refusal(field, f"asking by {operator} for")
        if not field.deterministic:
            raise StatementRefused(
                f"{field.full_name} is protected without equality, so it cannot be searched for",
                "protect it as deterministic, or find the document by another field",
            )
        many = list(wanted) if operator in {"$in", "$nin"} else [wanted]
        found.append(_equality(request, field, operator, many))
    return found


def _equality(request: Request, field: Field, operator: str, wanted: list[Any]) -> Filter:
    tags = [_tag(request, field, one) for one in wanted if one is not None]
    # One value is asked for as the application asked, because an index on the tag then serves it alike.
    asked = tags[0] if operator == "$eq" else {operator: tags[0] if operator == "$ne" else tags}
    condition: Filter = {f"{field.path}.{sealing.TAG_NAME}": asked}
    plain = wanted if field.plaintext_allowed else [None] * (None in wanted)
    if not plain:
        return condition
    either = _EQUAL[operator] == "$in"
    return {"$or" if either else "$and": [condition, {field.path: {_EQUAL[operator]: plain}}]}


def _tag(request: Request, field: Field, value: Any) -> Any:
    if hasattr(value, "pattern"):
        raise refusal(field, "asking by a pattern for")
    return request.tag(field, value)
