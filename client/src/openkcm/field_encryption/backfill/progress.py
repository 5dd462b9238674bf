"""Progress of a backfill by table and column, and its reports to OpenKCM for the Services page.

Reports contain places and counts, no data. A failed report never stops the backfill; the next one includes its counts.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from openkcm.contract.protected_fields import Backfill, Store
from openkcm.field_encryption.postgresql.catalog import Column, Table
from openkcm.field_encryption.service_client import CryptoService
from openkcm.sdk.errors import ClientError

_PAUSE_SECONDS = 10.0
_PLACE = 200


@dataclass(slots=True)
class ColumnProgress:
    """Counts of values. `left` are those still to be changed; `unopened` look like ciphertext but do not decrypt."""

    column: Column
    place: str
    done: int = 0
    left: int = 0
    unopened: int = 0
    read_back: int = 0
    bytes: int = 0


@dataclass(slots=True)
class TableProgress:
    """`refused` counts rows that the database rejected, by SQLSTATE; `state` is None before processing."""

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


class ProgressReporter:
    """Reports the state of `tables` every few seconds in a thread, and once more at the end."""

    def __init__(self, service: CryptoService, tables: Callable[[], Sequence[TableProgress]]) -> None:
        self._service, self._tables = service, tables
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="openkcm-telling", daemon=True)
        self._reported: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._report()

    def _run(self) -> None:
        while not self._ended.wait(_PAUSE_SECONDS):
            self._report()

    def _report(self) -> None:
        backfills, uses, done = [], [], {}
        for table in self._tables():
            for column in table.columns.values():
                if table.state is None:
                    continue
                backfills.append(
                    {
                        "place": column.place[:_PLACE],
                        "done": column.done,
                        "remaining": column.left,
                        "state": table.state.value,
                    }
                )
                done[column.place] = column.done
                if column.done > self._reported.get(column.place, 0):
                    uses.append(_use(column.place, column.done - self._reported.get(column.place, 0)))
        if not backfills:
            return
        try:
            self._service.ask(lambda client: client.heartbeat({"backfills": backfills, "uses": uses}))
        except ClientError:
            return
        self._reported = done


def _use(place: str, operations: int) -> dict[str, Any]:
    suffix = "#backfilled"
    return {
        "place": place[: _PLACE - len(suffix)] + suffix,
        "operations": operations,
        "bytes": 0,
        "microseconds": 0,
        "requests": 0,
        "request_microseconds": 0,
    }


def of_table(table: Table) -> TableProgress:
    return TableProgress(
        table,
        {
            name: ColumnProgress(column, f"{Store.POSTGRESQL}:{table.full_name}.{name}")
            for name, column in table.protected.items()
        },
    )
