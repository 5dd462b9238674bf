"""What a person sees while a root key is changed: how many service keys lie under the new one, read beside the wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from cli.root_key_view import progress
from database.connection import Database
from database.interfaces import RootKeyChangeRow
from tenancy.errors import OpenKcmError

_PAUSE_SECONDS = 0.5


def newest(database: Database, tenant_id: str) -> RootKeyChangeRow | None:
    """Return the newest change of a tenant's root key."""
    with database.tenant_tx(tenant_id) as tx:
        return next(iter(tx.root_keys.changes(1)), None)


def follow(
    before: int,
    read: Callable[[], RootKeyChangeRow | None],
    say: Callable[[str], None],
    ended: threading.Event,
    pause: float = _PAUSE_SECONDS,
) -> None:
    """Say how far the change after number `before` is, each time it is further, until it is over or `ended`.

    What cannot be read is left out.
    """
    said = ""
    while not ended.wait(pause):
        change = _read(read)
        if change is None or change.number <= before:
            continue
        text = progress(change)
        if change.total and text != said:
            said = text
            say(text)
        if change.state != "running":
            return


@contextmanager
def shown(console: Console, database: Database, tenant_id: str) -> Iterator[None]:
    """Show on `console` how far the next change of a tenant is while the block runs."""
    ended, last = threading.Event(), newest(database, tenant_id)
    before = 0 if last is None else last.number
    with console.status("changing the root key") as status:

        def say(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                console.print(text, highlight=False)

        thread = threading.Thread(
            target=follow, args=(before, lambda: newest(database, tenant_id), say, ended), name="progress", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _read(read: Callable[[], RootKeyChangeRow | None]) -> RootKeyChangeRow | None:
    try:
        return read()
    except OpenKcmError:  # the answer to the command does not hang on what is shown meanwhile
        return None
