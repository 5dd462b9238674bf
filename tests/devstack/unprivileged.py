"""The view of an ordinary user, also if the tests run as root."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER_ID = 54_321
"""An id of no user, so that no other process has it."""


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Drop all privileges: root becomes another user, which clears the effective capabilities.

    That user may lack access to the checkout, in which the settings file is searched; it gets an empty one.
    """
    user = os.geteuid()
    with tempfile.NamedTemporaryFile(suffix=".toml") as settings, pytest.MonkeyPatch.context() as changed:
        Path(settings.name).chmod(0o644)
        changed.setenv("OPENKCM_CONFIG", settings.name)
        if user == 0:
            os.seteuid(USER_ID)
        try:
            yield
        finally:
            os.seteuid(user)
