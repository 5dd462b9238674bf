"""The encryption in this process, which can be removed from pymongo again, beside a client without it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from pymongo import MongoClient

from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.field_encryption.mongodb import driver
from openkcm.field_encryption.mongodb.key_store import CollectionKeyStore
from openkcm.field_encryption.mongodb.sessions import MongoSession
from tests.client.field_encryption.stand import Memory, patched

ANN = {"_id": 1, "name": "Ann", "diagnosis": "flu", "insurance": "A-1", "address": {"street": "Main 1"}}


@dataclass
class Stand(Memory):
    address: str = field(kw_only=True)
    name: str = field(default_factory=lambda: f"d{uuid4().hex}")

    def hook(self, **options: Any) -> MongoSession:
        settings = {"key_seconds": 60.0, "clock": lambda: self.now} | options
        return MongoSession(self.protection, self.keys, CollectionKeyStore, self.uses, **settings)

    @contextmanager
    def hooked(self, **options: Any) -> Iterator[MongoSession]:
        hook = self.hook(**options)
        with patched({owner for owner, _, _ in driver.REPLACED_METHODS}, lambda: driver.install(hook)):
            yield hook

    def protect(self, collection: str, **modes: str) -> None:
        """Protect fields by mode; `__` represents the dot of a path, and `+` after a mode allows plain values."""
        place = f"{self.name}.{collection}"
        self.protection.listed = tuple(
            ProtectedField(Store.MONGODB, place, path.replace("__", "."), Mode(mode.rstrip("+")), mode.endswith("+"))
            for path, mode in modes.items()
        )

    @contextmanager
    def plain(self) -> Iterator[Any]:
        """Yield the database without encryption: no field is protected meanwhile."""
        listed, self.protection.listed = self.protection.listed, ()
        try:
            with MongoClient(self.address) as client:
                yield client[self.name]
        finally:
            self.protection.listed = listed
