"""Python runs this before the program's first line: it brings the hook in, or ends the program.

Our packages have common names, so they are kept apart: while ours are imported, `import` finds ours; then they are
taken out of `sys.modules` again, and the program's own `crypto` or `hooks` are its own. The libraries we need are
looked for where the program looks, and only then where OpenKCM is installed: the program's versions win.
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
    """Finds our packages where they are, and nothing else there."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [_ROOT], target) if name in _OWN and path is None else None


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in _OWN


@contextmanager
def _ours() -> Iterator[None]:
    with _lock:
        theirs = {name: module for name, module in sys.modules.items() if _is_own(name)}
        for name in theirs:
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
            sys.modules.update(theirs)


def _stop(reason: str, hint: str) -> None:
    """End the program: an exception would be printed by Python, and the program would run unprotected."""
    sys.stderr.write(f"openkcm run: {reason}\n  hint: {hint}\n")
    sys.stderr.flush()
    os._exit(_CONFIGURATION_UNUSABLE)


def _begin() -> None:
    wanted, found = os.environ.get("KCM_RUN_PYTHON", ""), f"{sys.version_info[0]}.{sys.version_info[1]}"
    if wanted != found:
        _stop(
            f"the program runs on Python {found} and OpenKCM is installed for Python {wanted}",
            f"install OpenKCM with Python {found} as well, and use its `openkcm run`",
        )
    folder = Path(os.environ.get("KCM_RUN_FOLDER", ""))
    if not (folder / "client.toml").is_file():
        _stop(
            f"{folder} is not the folder of a connected service", "give the one that `openkcmctl service connect` wrote"
        )
    for place in os.environ.get("KCM_RUN_PATHS", "").split(os.pathsep):
        if place and place not in sys.path:
            sys.path.append(place)
    try:
        with _ours():
            from openkcm.field_encryption import import_hook as install  # noqa: PLC0415 - only inside is it ours

            install.begin(_ours)
    except BaseException as failed:  # noqa: BLE001 - whatever it is, the program must not run without the hook
        _stop(
            f"{type(failed).__name__}: {failed}",
            "see docs/postgresql.md#what-is-needed for what a protected program needs",
        )


def _chain() -> None:
    """Run the sitecustomize that Python would have run without us."""
    spec = PathFinder.find_spec("sitecustomize", [place for place in sys.path if place not in {_HERE, ""}])
    if spec is None or spec.loader is None or spec.origin == __file__:
        return
    from importlib.util import module_from_spec  # noqa: PLC0415 - rarely needed

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if "KCM_RUN_FOLDER" in os.environ:
    _begin()
    _chain()
