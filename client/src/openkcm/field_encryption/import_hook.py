"""Waits in the program for a driver to be imported, and puts the hook into it before anybody has it.

What cannot be protected cannot be imported: other drivers, and a version of one that is not as the hook knows it.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from openkcm.field_encryption.environment import RunEnvironment, surroundings
from openkcm.field_encryption.postgresql import parser

DRIVERS = {
    "psycopg": "openkcm.field_encryption.postgresql.driver",
    "pymongo": "openkcm.field_encryption.mongodb.driver",
}
"""What can be protected → the module whose `hook_in` does it; it imports the driver, which is there only then."""
OTHERS = dict.fromkeys(
    ("psycopg2", "psycopg2cffi", "asyncpg", "pg8000", "aiopg", "postgresql", "pygresql", "pgdb"), "psycopg 3"
) | dict.fromkeys(("txmongo", "asyncio_mongo", "aiomongo", "asyncmongo"), "pymongo")
"""Drivers that would pass the hook by → what to use instead."""

Ours = Callable[[], AbstractContextManager[Any]]
"""Inside of it our packages are what `import` finds under their names, and not the application's."""


def begin(ours: Ours) -> None:
    """See that everything is there, then wait. Raises ImportError, OSError or parser.NotParsed."""
    parser.load()
    for package in ("httpx2", "cryptography"):
        if find_spec(package) is None:
            raise ImportError(f"the package {package} is missing", name=package)
    for driver in DRIVERS:
        if driver in sys.modules:
            with ours():
                _hook_in(driver)
    sys.meta_path.insert(0, _Finder(ours))


class _Finder(MetaPathFinder):
    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self._looking = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target  # the driver is no submodule
        if name in OTHERS:
            raise ImportError(
                f"{name} cannot be protected, so `openkcm run` does not let it be used: use {OTHERS[name]}", name=name
            )
        if name not in DRIVERS or self._looking:
            return None
        self._looking = True
        try:
            spec = find_spec(name)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._ours)
        return spec


class _Loader(Loader):
    """Loads the driver as ever, then hooks in."""

    def __init__(self, loader: Any, ours: Ours) -> None:
        self._loader, self._ours = loader, ours

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        with self._ours():
            _hook_in(module.__name__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _hook_in(driver: str) -> None:
    """Put the hook into a driver that has just been imported; raises ImportError when it cannot be protected."""
    try:
        hook_in: Callable[[RunEnvironment], None] = import_module(DRIVERS[driver]).hook_in
    except Exception as failed:
        raise ImportError(f"this {driver} cannot be protected: {failed}", name=driver) from failed
    hook_in(surroundings(os.environ))
