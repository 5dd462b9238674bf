"""Progress of a running operation of a tenant, read from its row while the command waits."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from openkcm.cli import output
from openkcm.errors import OpenKcmError

_PAUSE_SECONDS = 0.5


class Operation(Protocol):
    """A row with the number and the state of a tenant's operation."""

    @property
    def number(self) -> int: ...

    @property
    def state(self) -> str: ...


Row = TypeVar("Row", bound=Operation)


def follow(  # noqa: PLR0913, PLR0917 - the source, the rendering and the end
    before: int,
    read: Callable[[], Row | None],
    describe: Callable[[Row], str],
    report: Callable[[str], None],
    ended: threading.Event,
    pause: float = _PAUSE_SECONDS,
) -> None:
    """Report each progress of the first operation after number `before`, until it has finished or `ended` is set.

    Skips rows that cannot be read and rows without a description.
    """
    reported = ""
    while not ended.wait(pause):
        row = _read(read)
        if row is None or row.number <= before:
            continue
        text = describe(row)
        if text and text != reported:
            reported = text
            report(text)
        if row.state != "running":
            return


@contextmanager
def show_progress(what: str, read: Callable[[], Row | None], describe: Callable[[Row], str]) -> Iterator[None]:
    """Show the progress of the next operation while the block runs; `read` returns the newest operation."""
    ended, last = threading.Event(), read()
    before = 0 if last is None else last.number
    with output.waiting(what) as report:
        thread = threading.Thread(
            target=follow, args=(before, read, describe, report, ended), name="progress", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _read(read: Callable[[], Row | None]) -> Row | None:
    try:
        return read()
    except OpenKcmError:  # the result of the command does not depend on its progress display
        return None
