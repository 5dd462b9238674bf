"""Which fields of a service's data its programs keep encrypted: the service's *protection*.

It is kept by OpenKCM, and told to the service's programs (GET /v1/protection), which do what it says. The data itself
never comes here. Names of fields are no secret: they are in the audit stream, and in the counts of what was encrypted.
"""

import re
from collections.abc import Iterator

from core.errors.services import FieldInvalid
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind

FIELDS = 500
"""Protected fields that one service can have."""


def store_of(kind: ServiceKind) -> Store | None:
    """Return the store that is meant where none is named; a microservice may use either."""
    return {ServiceKind.POSTGRESQL: Store.POSTGRESQL, ServiceKind.MONGODB: Store.MONGODB}.get(kind)


_LONGEST_NAME = 180
"""Of a field's whole name, by which programs count its uses (crypto_service/https/schemas.py, ReportedUsage)."""
_IDENTIFIER_BYTES = 63
_NAMESPACE_BYTES = 120
"""The shortest bound of MongoDB's versions for database and collection together."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_NOT_IN_DATABASE = frozenset('/\\ "$*<>:|?')


def parse_field(store: Store, place: str, field: str, mode: Mode, *, plain_allowed: bool) -> ProtectedField:
    """Return a field that can be protected; raises FieldInvalid, which says what to write instead."""
    for what, text in (("place", place), ("field", field)):
        if not text or text != text.strip():
            raise FieldInvalid(f"the {what} is empty or has spaces around it", _hint(store))
        if _UNPRINTABLE.search(text):
            raise FieldInvalid(f"the {what} has characters that cannot be printed", _hint(store))
    (_check_column if store is Store.POSTGRESQL else _check_path)(place, field)
    found = ProtectedField(store, place, field, mode, plain_allowed)
    if len(found.name) > _LONGEST_NAME:
        raise FieldInvalid(
            f"its whole name has more than {_LONGEST_NAME} characters", "shorten the name of the table or of the field"
        )
    return found


def _hint(store: Store) -> str:
    if store is Store.POSTGRESQL:
        return "write schema.table, such as public.patients, and the column, such as diagnosis"
    return "write database.collection, such as clinic.patients, and the field's path, such as contact.phone"


def _check_column(place: str, column: str) -> None:
    schema, dot, table = place.partition(".")
    if not dot:
        raise FieldInvalid(f"{place} has no schema", f"write public.{place} if its schema is public")
    if "." in table or "." in column:
        raise FieldInvalid(
            "a place is schema.table with one dot, and a column has none",
            "tables and columns with a dot in their names cannot be protected: rename them",
        )
    for name in (schema, table, column):
        if not name:
            raise FieldInvalid("a name is missing beside the dot", _hint(Store.POSTGRESQL))
        if '"' in name:
            raise FieldInvalid("a name has a double quote in it", "write names as the database keeps them, unquoted")
        if len(name.encode()) > _IDENTIFIER_BYTES:
            raise FieldInvalid(
                f"a name of PostgreSQL has at most {_IDENTIFIER_BYTES} bytes",
                "write it as the database keeps it, which cuts longer ones",
            )
    if schema in {"pg_catalog", "information_schema", "openkcm"} or schema.startswith("pg_"):
        raise FieldInvalid(f"the schema {schema} belongs to the database or to OpenKCM", _hint(Store.POSTGRESQL))


def _check_path(place: str, path: str) -> None:
    database, dot, collection = place.partition(".")
    if not dot or not database or not collection:
        raise FieldInvalid(f"{place} is not a database and a collection", _hint(Store.MONGODB))
    if _NOT_IN_DATABASE & set(database):
        raise FieldInvalid("a database's name cannot have such characters", _hint(Store.MONGODB))
    if database in {"admin", "config", "local"} or collection.startswith("system.") or "$" in collection:
        raise FieldInvalid(f"{place} belongs to the server", _hint(Store.MONGODB))
    if len(database.encode()) > _IDENTIFIER_BYTES or len(place.encode()) > _NAMESPACE_BYTES:
        raise FieldInvalid(
            f"a database's name has at most {_IDENTIFIER_BYTES} bytes, and with its collection {_NAMESPACE_BYTES}",
            _hint(Store.MONGODB),
        )
    names = path.split(".")
    if not all(names):
        raise FieldInvalid("a name is missing in the path", _hint(Store.MONGODB))
    if any(name.startswith("$") for name in names):
        raise FieldInvalid("a name in the path begins with $", _hint(Store.MONGODB))
    if names[0] == "_id":
        raise FieldInvalid("_id cannot be protected, because values are bound to it", "protect another field")


def consequences(before: ProtectedField | None, after: ProtectedField | None) -> tuple[str, ...]:
    """Return in sentences what a change of one field means for its values; None is a field that is not protected."""
    return tuple(_consequences(before, after))


def _consequences(before: ProtectedField | None, after: ProtectedField | None) -> Iterator[str]:
    if after is None:
        if before is not None:
            yield "What programs write there from then on is stored plain, for everybody who sees the data."
            yield (
                "What is encrypted there stays so, and programs get it as ciphertext. "
                "Have it written plain first if it is still needed, or protect the field again to read it."
            )
        return
    if before is None:
        yield "What programs write there from then on is encrypted."
        if not after.plain_allowed:
            yield (
                "A value that is there already and not encrypted is refused when it is read. "
                "Allow plain values until those from before are encrypted."
            )
    if after.mode is Mode.DETERMINISTIC and (before is None or before.mode is not Mode.DETERMINISTIC):
        yield (
            "Equal values can be searched for. So whoever sees the data sees which values are equal and how often each "
            "occurs; where there are few different ones, that can be all that was to be hidden."
        )
        if before is not None:
            yield "A search does not find values from before until each of them is written again."
    if before is not None and before.mode is Mode.DETERMINISTIC and after.mode is Mode.RANDOMISED:
        yield "It can no longer be searched for: programs that do are refused."
        yield "Values from before still show which of them are equal, until each of them is written again."
    if after.plain_allowed and (before is None or not before.plain_allowed):
        yield (
            "A value that is not encrypted is handed out as it is, so whoever can write to the database can put one "
            "there. Take this back as soon as the values from before are encrypted."
        )
    if before is not None and before.plain_allowed and not after.plain_allowed:
        yield "A value that is not encrypted is refused when it is read: see first that none is left."
