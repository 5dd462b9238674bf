"""The collection of wrapped column keys, in the application's own database.

It is read and written by a client of our own, which waits for a majority: a key that values were encrypted with must
not vanish with a transaction that is rolled back, nor with a primary that is lost. That happens a few times in a
process's life.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from openkcm.field_encryption.key_cache import Column, KeyUnwrapError
from openkcm.field_encryption.mongodb.pymongo_internals import arguments

COLLECTION = "openkcm.column_key"
_OURS: Mapping[str, Any] = {
    "document_class": dict,
    "tz_aware": False,
    "type_registry": None,
    "event_listeners": [],
    "auto_encryption_opts": None,
    "connect": True,
}
"""What an application may have chosen for its own documents."""


class CollectionKeyStore:
    """Reaches the database as the application's client does."""

    def __init__(self, client: Any, database: str) -> None:
        self._arguments = {**arguments(client), **_OURS}  # a password may be in it: never shown
        self._database = database

    def read(self, column: Column, purpose: str) -> Mapping[int, str]:
        with self._opened() as kept:
            found = kept.find({"place": ".".join(column[:2]), "field": column[2], "purpose": purpose})
            return {one["version"]: one["wrapped"] for one in found}

    def add(self, column: Column, purpose: str, wrapped: str) -> None:
        place = ".".join(column[:2])
        identity = {"place": place, "field": column[2], "purpose": purpose, "version": 1}
        with self._opened() as kept:
            try:
                kept.insert_one({"_id": identity, **identity, "wrapped": wrapped})
            except DuplicateKeyError:
                return  # another process was faster, and its key is everybody's

    @contextmanager
    def _opened(self) -> Iterator[Collection[dict[str, Any]]]:
        try:
            with MongoClient[dict[str, Any]](**self._arguments) as client:
                yield client.get_database(self._database).get_collection(
                    COLLECTION,
                    read_preference=ReadPreference.PRIMARY,
                    read_concern=ReadConcern("majority"),
                    write_concern=WriteConcern(w="majority"),
                )
        except PyMongoError as failed:
            raise KeyUnwrapError(
                "key_collection_unusable",
                f"the collection {COLLECTION} cannot be used: {type(failed).__name__}",
                "let the application's user read and write it, see docs/mongodb.md#what-is-needed",
            ) from failed
