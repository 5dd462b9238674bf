"""Puts the hook into psycopg."""

from hooks.key_service import key_source, uses
from hooks.postgresql import cursors
from hooks.postgresql.databases import Hook
from hooks.postgresql.key_store import DatabaseKeyStore
from hooks.protection import FileProtection
from hooks.surroundings import Surroundings


def hook_in(told: Surroundings) -> None:
    """Hook into the driver, which is imported by now; raises ImportError when it is another than is known."""
    problem = cursors.unsuited()
    if problem:
        raise ImportError(f"{problem}, which this version of OpenKCM cannot protect", name="psycopg")
    cursors.install(
        Hook(
            FileProtection(told.folder),
            key_source(told.folder),
            DatabaseKeyStore,
            uses(told.folder),
            key_seconds=told.key_seconds,
            catalogue_seconds=told.catalogue_seconds,
        )
    )
