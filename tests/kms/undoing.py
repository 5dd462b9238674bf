"""A temporary change of a server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def undone(change: Callable[[], object], undo: Callable[[], object]) -> Iterator[None]:
    """Make a change, and undo it when the block ends."""
    change()
    try:
        yield
    finally:
        undo()
