"""Counts reference cycles.

Only the garbage collector ends a cycle, and it stops the loop for all tenants while it runs. A client whose rejected
requests leave cycles could thus delay the requests of others.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fewer_objects_in_cycles_than(number: int) -> Iterator[None]:
    """Require that the block leaves fewer unreachable objects than this."""
    gc.collect()
    gc.disable()
    try:
        yield
        found = gc.collect()
    finally:
        gc.enable()
    assert found < number
