"""Protected fields: the fields of a service's data that its programs encrypt.

OpenKCM stores the list and returns it to the service's programs (GET /v1/protection), which apply it. OpenKCM never
receives the data. Names of fields are not secret: audit records and usage counters contain them.
"""

import re
from collections.abc import Iterator

from core.errors.services import FieldInvalid
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind

FIELDS = 500
"""Maximum number of protected fields of one service."""


def store_of(kind: ServiceKind) -> Store | None:
    """Return the default store of a kind of service; None for a microservice, which may use either."""
    return {ServiceKind.POSTGRESQL: Store.POSTGRESQL, ServiceKind.MONGODB: Store.MONGODB}.get(kind)


_LONGEST_NAME = 180
"""Characters of a field's full name, which usage reports contain (crypto_service/https/schemas.py, ReportedUsage)."""
_IDENTIFIER_BYTES = 63
_NAMESPACE_BYTES = 120
"""The lowest limit of all MongoDB versions for database and collection together."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_NOT_IN_DATABASE = frozenset('/\\ "$*<>:|?')


def parse_field(store: Store, place: str, field: str, mode: Mode, *, plaintext_allowed: bool) -> ProtectedField:
    """Return a protected field; raises FieldInvalid with a hint that names the valid form."""
    for what, text in (("place", place), ("field", field)):
        if not text or text != text.strip():
            raise FieldInvalid(f"the {what} is empty or has spaces around it", _hint(store))
        if _UNPRINTABLE.search(text):
            raise FieldInvalid(f"the {what} contains non-printable characters", _hint(store))
    (_check_column if store is Store.POSTGRESQL else _check_path)(place, field)
    found = ProtectedField(store, place, field, mode, plaintext_allowed)
    if len(found.name) > _LONGEST_NAME:
        raise FieldInvalid(
            f"its full name has more than {_LONGEST_NAME} characters", "shorten the name of the table or of the field"
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
            "a place must be schema.table with one dot, and a column must not contain a dot",
            "tables and columns with a dot in their names cannot be protected: rename them",
        )
    for name in (schema, table, column):
        if not name:
            raise FieldInvalid("a name is missing beside the dot", _hint(Store.POSTGRESQL))
        if '"' in name:
            raise FieldInvalid("a name contains a double quote", "write names as the database stores them, unquoted")
        if len(name.encode()) > _IDENTIFIER_BYTES:
            raise FieldInvalid(
                f"a PostgreSQL name has at most {_IDENTIFIER_BYTES} bytes",
                "write it as the database stores it; PostgreSQL truncates longer names",
            )
    if schema in {"pg_catalog", "information_schema", "openkcm"} or schema.startswith("pg_"):
        raise FieldInvalid(f"the schema {schema} belongs to the database or to OpenKCM", _hint(Store.POSTGRESQL))


def _check_path(place: str, path: str) -> None:
    database, dot, collection = place.partition(".")
    if not dot or not database or not collection:
        raise FieldInvalid(f"{place} is not a database and a collection", _hint(Store.MONGODB))
    if _NOT_IN_DATABASE & set(database):
        raise FieldInvalid("the name of the database contains an invalid character", _hint(Store.MONGODB))
    if database in {"admin", "config", "local"} or collection.startswith("system.") or "$" in collection:
        raise FieldInvalid(f"{place} belongs to the server", _hint(Store.MONGODB))
    if len(database.encode()) > _IDENTIFIER_BYTES or len(place.encode()) > _NAMESPACE_BYTES:
        raise FieldInvalid(
            f"the name of a database has at most {_IDENTIFIER_BYTES} bytes, with its collection {_NAMESPACE_BYTES}",
            _hint(Store.MONGODB),
        )
    names = path.split(".")
    if not all(names):
        raise FieldInvalid("a name is missing in the path", _hint(Store.MONGODB))
    if any(name.startswith("$") for name in names):
        raise FieldInvalid("a name in the path begins with $", _hint(Store.MONGODB))
    if names[0] == "_id":
        raise FieldInvalid("_id cannot be protected: it is part of the encryption context", "protect another field")


def consequences(before: ProtectedField | None, after: ProtectedField | None) -> tuple[str, ...]:
    """Return the effects of a change of one field as sentences; None means that the field is not protected."""
    return tuple(_consequences(before, after))


def _consequences(before: ProtectedField | None, after: ProtectedField | None) -> Iterator[str]:
    if after is None:
        if before is not None:
            yield "Programs store new values unencrypted; every user with access to the data can read them."
            yield (
                "Encrypted values stay encrypted, and programs read them as ciphertext. "
                "Decrypt them first if you still need them, or protect the field again to read them."
            )
        return
    if before is None:
        yield "Programs encrypt new values."
        if not after.plaintext_allowed:
            yield (
                "Programs cannot read existing values that are not encrypted. "
                "Allow plain values until the existing values are encrypted."
            )
    if after.mode is Mode.DETERMINISTIC and (before is None or before.mode is not Mode.DETERMINISTIC):
        yield (
            "Programs can search for equal values. Every user with access to the data can therefore see which values "
            "are equal and how often each occurs. For a field with few different values that can reveal the values."
        )
        if before is not None:
            yield "A search does not find existing values until each of them is written again."
    if before is not None and before.mode is Mode.DETERMINISTIC and after.mode is Mode.RANDOMISED:
        yield "Programs can no longer search for values: such searches are rejected."
        yield "Existing values still show which of them are equal, until each of them is written again."
    if after.plaintext_allowed and (before is None or not before.plaintext_allowed):
        yield (
            "Programs return unencrypted values as they are, so a user with write access to the database can insert a "
            "forged value. Forbid plain values as soon as the existing values are encrypted."
        )
    if before is not None and before.plaintext_allowed and not after.plaintext_allowed:
        yield "Programs cannot read values that are not encrypted: verify first that none is left."
