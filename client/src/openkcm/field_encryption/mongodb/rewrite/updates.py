"""Encryption of inserted documents and of updates."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bson.objectid import ObjectId

from openkcm.field_encryption.mongodb import encryption as sealing
from openkcm.field_encryption.mongodb.catalog import Field
from openkcm.field_encryption.mongodb.errors import StatementRefused
from openkcm.field_encryption.mongodb.rewrite import filters, pipelines
from openkcm.field_encryption.mongodb.rewrite.request import Request, refusal

Document = Mapping[str, Any]


class Names(NamedTuple):
    """The names of the condition and the change in a command."""

    condition: str
    change: str


UPDATE, FIND_AND_MODIFY, BULK_WRITE = Names("q", "u"), Names("query", "update"), Names("filter", "updateMods")


def rewrite_insert(request: Request, document: Document) -> Document:
    """Return a document to store, with an `_id` if it needs one. Raises as `rewrite_update`."""
    if "_id" not in document and any(field.parts[0] in document for field in request.collection.fields):
        document = {"_id": ObjectId(), **document}
    return _encrypted(request, document, _Binding(request, document.get("_id")))


def rewrite_delete(request: Request, operation: Document, names: Names) -> Document:
    return {**operation, names.condition: filters.rewrite_filter(request, operation[names.condition])}


def rewrite_update(request: Request, operation: Document, names: Names) -> Document:
    """Return the update to send. Raises StatementRefused, ProtectionUnusable, KeyUnwrapError."""
    asked, change = operation.get(names.condition, {}), operation[names.change]
    result = {**operation, names.condition: filters.rewrite_filter(request, asked)}
    if isinstance(change, list | tuple):
        result[names.change] = _pipeline(request, operation, names)
    elif next(iter(change), "").startswith("$"):
        result[names.change] = _operators(request, operation, names)
    else:
        binding = _Binding(request, change["_id"]) if "_id" in change else _binding_of(request, operation, names)
        result[names.change] = _encrypted(request, change, binding)
    return result


_UNKNOWN = object()


class _Binding:
    """The document for which values are encrypted, identified by its `_id` if that is known."""

    __slots__ = ("_found", "_has_collation", "_request", "value")

    def __init__(self, request: Request, value: object, *, has_collation: bool = False) -> None:
        self._request, self.value, self._has_collation = request, value, has_collation
        self._found: bytes | None = None

    def identity(self, field: Field) -> bytes:
        """Return the identity to which a value of a field is bound. Raises StatementRefused, ProtectionUnusable."""
        if self._found is None:
            if self.value is _UNKNOWN:
                raise StatementRefused(
                    f"{field.full_name} is encrypted for its document, which this update does not identify",
                    'update one document by its _id: {"_id": …}; find_one(…, {"_id": 1}) returns it',
                )
            if self._has_collation and isinstance(self.value, str):
                raise StatementRefused(
                    f"with a collation, a document of {self._request.collection.full_name} may have another _id",
                    "leave the collation out when the _id is given",
                )
            self._found = self._request.identity(self.value)
        return self._found


def _binding_of(request: Request, operation: Document, names: Names) -> _Binding:
    """Return the document that a condition identifies."""
    value = _id_in(operation.get(names.condition, {}))
    return _Binding(request, value, has_collation=bool(operation.get("collation")))


def _id_in(asked: Document) -> object:
    if "_id" in asked:
        value = asked["_id"]
        if isinstance(value, Mapping):
            return value.get("$eq", _UNKNOWN)
        return value
    named = [_id_in(one) for one in asked.get("$and", ())]
    return next((one for one in named if one is not _UNKNOWN), _UNKNOWN)


def _operators(request: Request, operation: Document, names: Names) -> Document:
    change, binding = operation[names.change], _binding_of(request, operation, names)
    result: dict[str, Any] = {}
    for operator, body in change.items():
        if operator == "$set":
            result[operator] = _set(request, body, binding)
        elif operator == "$unset":
            _no_part(request, body)
        elif operator != "$setOnInsert":
            for path, value in body.items():
                request.require_unprotected(path, f"{operator} of")
                if operator == "$rename":
                    request.require_unprotected(value, "$rename to")
        result.setdefault(operator, body)
    if "$setOnInsert" in change or operation.get("upsert"):
        on_insert = _on_insert(request, operation, names, binding)
        if on_insert:
            result["$setOnInsert"] = on_insert
    return result


def _on_insert(request: Request, operation: Document, names: Names, binding: _Binding) -> Document:
    """Return the fields that an upsert sets in a new document, whose `_id` may not be known yet."""
    change = operation[names.change]
    body = dict(change.get("$setOnInsert", {}))
    if operation.get("upsert"):
        given = [*change.get("$set", {}), *change.get("$unset", {}), *body]
        for field, value in filters.equalities(request, operation.get(names.condition, {})):
            # The database would create the document from the condition, which contains only the tag.
            if not any(field.path == path or field.path.startswith(f"{path}.") for path in given):
                body[field.path] = value
    if not any(request.collection.affected_field(path) for path in body):
        return body
    if binding.value is _UNKNOWN:  # has no effect on an existing document
        binding = _Binding(request, body.setdefault("_id", ObjectId()))
    return _set(request, body, binding)


def _pipeline(request: Request, operation: Document, names: Names) -> pipelines.Pipeline:
    """Return the pipeline of an update; that of an upsert first encrypts the values of the condition."""
    change: pipelines.Pipeline = operation[names.change]
    pipelines.checked_update(request, change)
    fixed = filters.equalities(request, operation.get(names.condition, {})) if operation.get("upsert") else ()
    body = {field.path: value for field, value in fixed if value is not None}
    if not body:
        return change
    fields = [request.collection.by_path[path] for path in body]
    for field in fields:
        if field.nested and field.plaintext_allowed:  # an array, whose parts this stage would change, may match
            raise refusal(field, "an upsert by a pipeline and the value of")
    # The database creates a document from the condition: with the tag only, or without a value that may be plain.
    unset = fields[0].path if fields[0].plaintext_allowed else f"{fields[0].path}.{sealing.SEALED_NAME}"
    is_new = {"$eq": [{"$type": f"${unset}"}, "missing"]}
    binding = _binding_of(request, operation, names)
    if binding.value is _UNKNOWN:
        # The database rejects it if the condition gives the document another _id.
        body["_id"] = ObjectId()
        binding = _Binding(request, body["_id"])
    sealed = _set(request, body, binding)
    either = {path: {"$cond": [is_new, {"$literal": value}, f"${path}"]} for path, value in sealed.items()}
    return [{"$set": either}, *change]


def _no_part(request: Request, body: Document) -> None:
    for path in body:
        field = request.collection.affected_field(path)
        if field is not None and path != field.path and path not in request.collection.ancestors:
            raise refusal(field, f"removing {path} from")


def _set(request: Request, body: Document, binding: _Binding) -> Document:
    result = dict(body)
    for path, value in body.items():
        field = request.collection.affected_field(path)
        if field is None:
            continue
        if path == field.path:
            result[path] = None if value is None else request.seal(field, binding.identity(field), value)
        elif path in request.collection.ancestors:
            result[path] = _encrypt_children(request, path, value, binding)
        else:
            raise refusal(field, f"setting {path} inside of")
    return result


def _encrypt_children(request: Request, path: str, value: Any, binding: _Binding) -> Any:
    """Return a value that contains protected fields, encrypted."""
    depth = path.count(".") + 1
    for field in request.collection.fields:
        if field.path.startswith(f"{path}."):
            value = _encrypt_in(request, field, value, depth, binding)
    return value


def _encrypted(request: Request, document: Document, binding: _Binding) -> Document:
    result: Any = document
    for field in request.collection.fields:
        if field.nested:
            result = _encrypt_in(request, field, result, 0, binding)
        elif (value := document.get(field.path)) is not None:
            if result is document:
                result = dict(document)
            result[field.path] = request.seal(field, binding.identity(field), value)
    encrypted: Document = result
    return encrypted


def _encrypt_in(request: Request, field: Field, value: Any, depth: int, binding: _Binding) -> Any:
    """Return a value with one field inside of it encrypted, `depth` names below the document."""
    if depth == len(field.parts):
        return None if value is None else request.seal(field, binding.identity(field), value)
    if type(value) is not dict and not isinstance(value, Mapping):
        if value is not None and request.is_document(value):
            raise StatementRefused(
                f"{field.full_name} would be in an array, or in an object that becomes a document only when it is sent",
                "protect the array as a whole, and pass documents as dictionaries",
            )
        return value
    for end in range(depth + 2, len(field.parts) + 1):
        if ".".join(field.parts[depth:end]) in value:
            raise StatementRefused(f"a name with dots looks like {field.full_name}", "nest the documents")
    name = field.parts[depth]
    if name not in value:
        return value
    inner = _encrypt_in(request, field, value[name], depth + 1, binding)
    return value if inner is value[name] else {**value, name: inner}
