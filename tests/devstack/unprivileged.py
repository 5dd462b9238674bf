"""What an ordinary user sees, also where the tests run as root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

USER_ID = 54_321
"""Of no user, so that no other process has it."""


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Have no privilege: as root, be another user for a while, which clears the effective capabilities."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(USER_ID)
    try:
        yield
    finally:
        os.seteuid(user)
