"""Import hook that installs the encryption in a driver before the program can use it.

Unprotectable drivers cannot be imported: other drivers, and unsupported versions.
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

from openkcm.field_encryption.environment import RunEnvironment, read_environment
from openkcm.field_encryption.postgresql import parser

DRIVERS = {
    "psycopg": "openkcm.field_encryption.postgresql.driver",
    "pymongo": "openkcm.field_encryption.mongodb.driver",
}
"""Supported drivers and the modules whose `install_hook` protects them; these import the driver, so they load late."""
OTHERS = dict.fromkeys(
    ("psycopg2", "psycopg2cffi", "asyncpg", "pg8000", "aiopg", "postgresql", "pygresql", "pgdb"), "psycopg 3"
) | dict.fromkeys(("txmongo", "asyncio_mongo", "aiomongo", "asyncmongo"), "pymongo")
"""Drivers that would bypass the encryption, and what to use instead."""

OwnImports = Callable[[], AbstractContextManager[Any]]
"""A context in which `import` finds OpenKCM's packages instead of the application's packages of the same name."""


def install(own_imports: OwnImports) -> None:
    """Check the requirements, then wait for imports. Raises ImportError, OSError or parser.NotParsed."""
    parser.load()
    for package in ("httpx2", "cryptography"):
        if find_spec(package) is None:
            raise ImportError(f"the package {package} is missing", name=package)
    for driver in DRIVERS:
        if driver in sys.modules:
            with own_imports():
                _install(driver)
    sys.meta_path.insert(0, _Finder(own_imports))


class _Finder(MetaPathFinder):
    def __init__(self, own_imports: OwnImports) -> None:
        self._own_imports = own_imports
        self._searching = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target  # the driver is a top-level module
        if name in OTHERS:
            raise ImportError(
                f"{name} cannot be protected, so `openkcm run` rejects its import: use {OTHERS[name]}", name=name
            )
        if name not in DRIVERS or self._searching:
            return None
        self._searching = True
        try:
            spec = find_spec(name)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._own_imports)
        return spec


class _Loader(Loader):
    """Loads the driver, then installs the encryption."""

    def __init__(self, loader: Any, own_imports: OwnImports) -> None:
        self._loader, self._own_imports = loader, own_imports

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        with self._own_imports():
            _install(module.__name__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _install(driver: str) -> None:
    """Install the encryption in an imported driver; raises ImportError when the driver cannot be protected."""
    try:
        install_hook: Callable[[RunEnvironment], None] = import_module(DRIVERS[driver]).install_hook
    except Exception as failed:
        raise ImportError(f"this {driver} cannot be protected: {failed}", name=driver) from failed
    install_hook(read_environment(os.environ))
