"""How far a backfill is, table by table and column by column."""

from collections import Counter
from dataclasses import dataclass, field

from hooks.postgresql.catalogue import Column, Table
from tenancy.protection import Backfill, Store


@dataclass(slots=True)
class ColumnProgress:
    """In values. `left` are those still to do as far as known, `unopened` look like ciphertext and do not open."""

    column: Column
    place: str
    done: int = 0
    left: int = 0
    unopened: int = 0
    read_back: int = 0
    bytes: int = 0


@dataclass(slots=True)
class TableProgress:
    """`refused` counts rows that the database did not take, by SQLSTATE; `state` is None before its turn."""

    table: Table
    columns: dict[str, ColumnProgress]
    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    state: Backfill | None = None
    waits_for: str = ""
    rows_per_second: float = 0.0

    @property
    def left(self) -> int:
        return sum(one.left for one in self.columns.values())

    @property
    def is_whole(self) -> bool:
        return self.state in {Backfill.FINISHED, Backfill.UNDONE} and not any(
            one.left or one.unopened for one in self.columns.values()
        )


def of_table(table: Table) -> TableProgress:
    return TableProgress(
        table,
        {
            name: ColumnProgress(column, f"{Store.POSTGRESQL}:{table.full_name}.{name}")
            for name, column in table.protected.items()
        },
    )
