"""What the dialog of a service's protected fields says, from what is on record and nothing else."""

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
        Mode.RANDOMISED: "Equal values look different. Nobody can search for one.",
        Mode.DETERMINISTIC: "Programs can search for equal values. So whoever sees the data sees which are equal.",
    }
)
ABOUT = (
    "Programs that run under `openkcm run` as this service encrypt what they write into these fields, and open what "
    "they read from them. Names of fields are no secret: they stand here and in the audit stream. The data never comes "
    "here."
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
    """Return the list as columns of words."""
    return {
        "Store": [STORE_NAMES[row.field.store] for row in rows],
        "Place": [row.field.place for row in rows],
        "Field": [row.field.field for row in rows],
        "Mode": [str(row.field.mode) for row in rows],
        "Plain values": ["handed out" if row.field.plain_allowed else "refused" for row in rows],
        "Last changed": [f"{moment(row.changed_at, now)} by {row.changed_by}" for row in rows],
    }


def summary(fields: int) -> str:
    return f"{count(fields, 'protected field')}" if fields else "No protected fields"


def meaning(change: Change) -> str:
    """Return what a change means, as a list; empty when it changes nothing."""
    return "\n".join(f"- {sentence}" for sentence in consequences(change.before, change.after))


def done(change: Change) -> str:
    """Return what was done."""
    named = change.after or change.before
    name = plain(f"{named.place}.{named.field}") if named is not None else ""
    if change.before == change.after:
        return f"{name} is protected like this already; nothing was changed."
    kept = "is protected" if change.after is not None else "is no longer protected"
    return f"{name} {kept}. Programs that run do so within {OBEYED_SECONDS} seconds."
