"""The view of an ordinary user, also if the tests run as root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

USER_ID = 54_321
"""An id of no user, so that no other process has it."""


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Drop all privileges: root becomes another user, which clears the effective capabilities."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(USER_ID)
    try:
        yield
    finally:
        os.seteuid(user)
