"""Python runs this module before the program's first line: it loads the encryption, or ends the program.

OpenKCM's package name could collide with the program's, so its modules are kept apart. During its own imports, `import`
finds OpenKCM's packages; afterwards they are removed from `sys.modules`. Libraries are searched first where the program
finds them, and only then where OpenKCM is installed: the program's versions take precedence.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

_HERE = str(Path(__file__).parent)
_ROOT = str(Path(__file__).parents[3])
_OWN = frozenset({"openkcm"})
_CONFIGURATION_UNUSABLE = 78
"""EX_CONFIG of sysexits.h."""

_lock = RLock()
_loaded: dict[str, ModuleType] = {}


class _OwnPackages:
    """Finds OpenKCM's packages in their folder, and nothing else there."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [_ROOT], target) if name in _OWN and path is None else None


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in _OWN


@contextmanager
def _own_imports() -> Iterator[None]:
    with _lock:
        replaced = {name: module for name, module in sys.modules.items() if _is_own(name)}
        for name in replaced:
            del sys.modules[name]
        sys.modules.update(_loaded)
        sys.meta_path.insert(0, _OwnPackages)
        try:
            yield
        finally:
            sys.meta_path.remove(_OwnPackages)
            _loaded.update({name: module for name, module in sys.modules.items() if _is_own(name)})
            for name in _loaded:
                sys.modules.pop(name, None)
            sys.modules.update(replaced)


def _stop(reason: str, hint: str) -> None:
    """End the program: after an exception Python would continue and run the program unprotected."""
    sys.stderr.write(f"openkcm run: {reason}\n  hint: {hint}\n")
    sys.stderr.flush()
    os._exit(_CONFIGURATION_UNUSABLE)


def _load() -> None:
    wanted, found = os.environ.get("OPENKCM_RUN_PYTHON", ""), f"{sys.version_info[0]}.{sys.version_info[1]}"
    if wanted != found:
        _stop(
            f"the program runs on Python {found}, but OpenKCM is installed for Python {wanted}",
            f"install OpenKCM with Python {found} as well, and use its `openkcm run`",
        )
    folder = Path(os.environ.get("OPENKCM_RUN_FOLDER", ""))
    if not (folder / "client.toml").is_file():
        _stop(f"{folder} is not the folder of a connected service", "use the one of `openkcmctl service connect`")
    for place in os.environ.get("OPENKCM_RUN_PATHS", "").split(os.pathsep):
        if place and place not in sys.path:
            sys.path.append(place)
    try:
        with _own_imports():
            from openkcm.field_encryption import import_hook  # noqa: PLC0415 - importable only in this context

            import_hook.install(_own_imports)
    except BaseException as failed:  # noqa: BLE001 - after any error the program must not run unprotected
        _stop(
            f"{type(failed).__name__}: {failed}",
            "see docs/postgresql.md#requirements for the requirements of a protected program",
        )


def _chain() -> None:
    """Run the sitecustomize module that Python would have run without OpenKCM."""
    spec = PathFinder.find_spec("sitecustomize", [place for place in sys.path if place not in {_HERE, ""}])
    if spec is None or spec.loader is None or spec.origin == __file__:
        return
    from importlib.util import module_from_spec  # noqa: PLC0415 - rarely needed

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if "OPENKCM_RUN_FOLDER" in os.environ:
    _load()
    _chain()
