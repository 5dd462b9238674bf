"""Says to OpenKCM how far the backfill is, so that the Services page shows it: places and counts, nothing of the data.

It never stops the work: what could not be said now is said with the next word.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from crypto.client import Client, ClientError, Options, Retry
from hooks.postgresql.backfill.progress import TableProgress

_PAUSE_SECONDS = 10.0
_PLACE = 200
_OPTIONS = Options(connect_seconds=2.0, answer_seconds=5.0, connections=1, retry=Retry(attempts=2))


class Telling:
    """Inside of it, a thread says every few seconds what `tables` has come to; at the end it is said once more."""

    def __init__(self, folder: Path, tables: Callable[[], Sequence[TableProgress]]) -> None:
        self._folder, self._tables = folder, tables
        self._client: Client | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="openkcm-telling", daemon=True)
        self._said: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._say()
        if self._client is not None:
            self._client.close()

    def _run(self) -> None:
        while not self._ended.wait(_PAUSE_SECONDS):
            self._say()

    def _say(self) -> None:
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
                if column.done > self._said.get(column.place, 0):
                    uses.append(_use(column.place, column.done - self._said.get(column.place, 0)))
        if not backfills:
            return
        try:
            if self._client is None:
                self._client = Client.from_folder(self._folder, _OPTIONS)
            self._client.heartbeat({"backfills": backfills, "uses": uses})
        except ClientError:
            return
        self._said = done


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
