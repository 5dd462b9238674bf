"""Storage of wrapped column keys in a collection of the application's database.

A separate client reads and writes it with majority concern: a key that has encrypted values must not be lost when a
transaction is rolled back or a primary fails. This happens a few times in the lifetime of a process.
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
_OVERRIDES: Mapping[str, Any] = {
    "document_class": dict,
    "tz_aware": False,
    "type_registry": None,
    "event_listeners": [],
    "auto_encryption_opts": None,
    "connect": True,
}
"""Overrides of options that an application may have set for its own documents."""


class CollectionKeyStore:
    """Connects to the database with the arguments of the application's client."""

    def __init__(self, client: Any, database: str) -> None:
        self._arguments = {**arguments(client), **_OVERRIDES}  # may contain a password: never displayed
        self._database = database

    def read(self, column: Column, purpose: str) -> Mapping[int, str]:
        with self._collection() as collection:
            found = collection.find({"place": ".".join(column[:2]), "field": column[2], "purpose": purpose})
            return {one["version"]: one["wrapped"] for one in found}

    def add(self, column: Column, purpose: str, wrapped: str) -> None:
        place = ".".join(column[:2])
        identity = {"place": place, "field": column[2], "purpose": purpose, "version": 1}
        with self._collection() as collection:
            try:
                collection.insert_one({"_id": identity, **identity, "wrapped": wrapped})
            except DuplicateKeyError:
                return  # another process was first; all processes use its key

    @contextmanager
    def _collection(self) -> Iterator[Collection[dict[str, Any]]]:
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
                "grant the application's user read and write access, see docs/mongodb.md#requirements",
            ) from failed
