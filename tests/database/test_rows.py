"""A row of the database does not show its secrets: a `repr` ends in logs and in tracebacks."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import database

SECRETS = frozenset({
    "address", "credentials", "former_sealed", "proof_hash", "sealed", "ticket_hash", "token_hash",
})  # fmt: skip
"""Names of fields with secrets, or with personal data that only one process may read."""


def rows() -> Iterator[tuple[type[Any], tuple[str, ...]]]:
    """Yield each class of a row and the names of its fields."""
    for module in pkgutil.walk_packages(database.__path__, "database."):
        if ".migrations." in module.name:
            continue
        for found in vars(importlib.import_module(module.name)).values():
            if isinstance(found, type) and found.__module__ == module.name:
                if dataclasses.is_dataclass(found):
                    yield found, tuple(one.name for one in dataclasses.fields(found))
                elif issubclass(found, tuple) and hasattr(found, "_fields"):
                    yield found, found._fields


SECRET_ROWS = [(row, names) for row, names in rows() if SECRETS & set(names)]


def test_the_rows_with_secrets_are_found() -> None:
    assert {row.__name__ for row, _ in SECRET_ROWS} >= {
        "EncryptedRootKeyRow", "EnrolmentRow", "JoinTokenRow", "RootKeyRequestRow", "TargetAddress",
    }  # fmt: skip


@pytest.mark.parametrize(("row", "names"), SECRET_ROWS, ids=[row.__name__ for row, _ in SECRET_ROWS])
def test_a_row_does_not_show_its_secrets(row: type[Any], names: tuple[str, ...]) -> None:
    shown = repr(row(**{name: f"<{name}>" for name in names}))
    for name in names:
        assert (f"<{name}>" in shown) == (name not in SECRETS), shown
