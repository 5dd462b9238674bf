"""What a person sees while an operation of a tenant runs: how far it is by the records, read beside the wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from openkcm.cli import output
from openkcm.errors import OpenKcmError

_PAUSE_SECONDS = 0.5


class Operation(Protocol):
    """A row that counts a tenant's operations of one kind and says how its newest does."""

    @property
    def number(self) -> int: ...

    @property
    def state(self) -> str: ...


Row = TypeVar("Row", bound=Operation)


def follow(  # noqa: PLR0913, PLR0917 - what is read, how it is told, and until when
    before: int,
    read: Callable[[], Row | None],
    tell: Callable[[Row], str],
    say: Callable[[str], None],
    ended: threading.Event,
    pause: float = _PAUSE_SECONDS,
) -> None:
    """Say how far the operation after number `before` is, each time it is further, until it is over or `ended`.

    What cannot be read is left out, and so is what there are no words for yet.
    """
    said = ""
    while not ended.wait(pause):
        row = _read(read)
        if row is None or row.number <= before:
            continue
        text = tell(row)
        if text and text != said:
            said = text
            say(text)
        if row.state != "running":
            return


@contextmanager
def shown(what: str, read: Callable[[], Row | None], tell: Callable[[Row], str]) -> Iterator[None]:
    """Show how far the next operation is, of those `read` returns the newest of, while the block runs."""
    ended, last = threading.Event(), read()
    before = 0 if last is None else last.number
    with output.waiting(what) as say:
        thread = threading.Thread(target=follow, args=(before, read, tell, say, ended), name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _read(read: Callable[[], Row | None]) -> Row | None:
    try:
        return read()
    except OpenKcmError:  # the answer to the command does not hang on what is shown meanwhile
        return None
