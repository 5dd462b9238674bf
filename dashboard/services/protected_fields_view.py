"""Texts of the dialog for protected fields, from stored data only."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from core.protected_fields import consequences
from dashboard.components.formatting import count, moment, plain
from database.commands import Change
from database.services.protected_fields import ProtectedFieldRow
from openkcm.contract.protected_fields import OBEYED_SECONDS, Mode, Store

STORE_NAMES: Mapping[Store, str] = MappingProxyType({Store.POSTGRESQL: "PostgreSQL", Store.MONGODB: "MongoDB"})
MODE_NAMES: Mapping[Mode, str] = MappingProxyType(
    {Mode.RANDOMISED: "Randomised (recommended)", Mode.DETERMINISTIC: "Deterministic"}
)
MODE_MEANS: Mapping[Mode, str] = MappingProxyType(
    {
        Mode.RANDOMISED: "Equal values have different ciphertexts. Not searchable.",
        Mode.DETERMINISTIC: "Equal values have equal ciphertexts. Searchable, but equality is visible in the "
        "stored data.",
    }
)
ABOUT = (
    "Programs that run under `openkcm run` as this service encrypt these fields on write and decrypt them on "
    "read. Field names are not secret: they appear here and in the audit stream. Your data is never sent to "
    "OpenKCM."
)
PLACE_HELP: Mapping[Store, str] = MappingProxyType(
    {
        Store.POSTGRESQL: "Schema and table, such as public.patients, as the database keeps the names.",
        Store.MONGODB: "Database and collection, such as clinic.patients.",
    }
)
FIELD_HELP: Mapping[Store, str] = MappingProxyType(
    {
        Store.POSTGRESQL: "The column, such as diagnosis.",
        Store.MONGODB: "The path in a document, such as contact.phone.",
    }
)


def table(rows: Sequence[ProtectedFieldRow], now: datetime) -> Mapping[str, Sequence[str]]:
    """Return the list as table columns."""
    return {
        "Store": [STORE_NAMES[row.field.store] for row in rows],
        "Table or collection": [row.field.place for row in rows],
        "Field": [row.field.field for row in rows],
        "Mode": [str(row.field.mode) for row in rows],
        "Plaintext values": ["allowed" if row.field.plaintext_allowed else "rejected" for row in rows],
        "Last changed": [f"{moment(row.changed_at, now)} by {row.changed_by}" for row in rows],
    }


def summary(fields: int) -> str:
    return f"{count(fields, 'protected field')}" if fields else "No protected fields"


def meaning(change: Change) -> str:
    """Return the effects of a change as a list; empty without a change."""
    return "\n".join(f"- {sentence}" for sentence in consequences(change.before, change.after))


def done(change: Change) -> str:
    """Return the result of a change."""
    named = change.after or change.before
    name = plain(f"{named.place}.{named.field}") if named is not None else ""
    if change.before == change.after:
        return f"{name} already has this protection; nothing was changed."
    kept = "is protected" if change.after is not None else "is no longer protected"
    return f"{name} {kept}. Running programs apply it within {OBEYED_SECONDS} seconds."
