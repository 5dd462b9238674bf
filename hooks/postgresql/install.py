"""Puts the hook into psycopg."""

from hooks.crypto_service import CryptoService
from hooks.key_service import ServiceKeySource
from hooks.postgresql import cursors
from hooks.postgresql.databases import Hook
from hooks.postgresql.key_store import DatabaseKeyStore
from hooks.protection import ServiceProtection
from hooks.surroundings import Surroundings
from hooks.uses import Uses


def hook_in(told: Surroundings) -> None:
    """Hook into the driver, which is imported by now; raises ImportError when it is another than is known."""
    problem = cursors.unsuited()
    if problem:
        raise ImportError(f"{problem}, which this version of OpenKCM cannot protect", name="psycopg")
    service = CryptoService(told.folder)
    cursors.install(
        Hook(
            ServiceProtection(service, told.catalogue_seconds),
            ServiceKeySource(service),
            DatabaseKeyStore,
            Uses(service.tell),
            key_seconds=told.key_seconds,
            catalogue_seconds=told.catalogue_seconds,
        )
    )
