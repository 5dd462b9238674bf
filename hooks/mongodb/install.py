"""Puts the hook into pymongo."""

from hooks.crypto_service import CryptoService
from hooks.key_service import ServiceKeySource
from hooks.mongodb import driver
from hooks.mongodb.databases import Hook
from hooks.mongodb.key_store import CollectionKeyStore
from hooks.protection import ServiceProtection
from hooks.surroundings import Surroundings
from hooks.uses import Uses


def hook_in(told: Surroundings) -> None:
    """Hook into the driver, which is imported by now; raises ImportError when it is another than is known."""
    problem = driver.unsuited()
    if problem:
        raise ImportError(f"{problem}, which this version of OpenKCM cannot protect", name="pymongo")
    service = CryptoService(told.folder)
    driver.install(
        Hook(
            ServiceProtection(service, told.catalogue_seconds),
            ServiceKeySource(service),
            CollectionKeyStore,
            Uses(service.tell),
            key_seconds=told.key_seconds,
        )
    )
