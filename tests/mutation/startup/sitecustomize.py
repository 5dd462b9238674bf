"""Alters modules of the product in every process that starts while a breach is active.

Python runs this file before the first line of a process. The file that `BREACHED` names contains the edits; it is empty
without a breach. A module is compiled from its edited text. If an edit does not match, the process exits, because a
breach that changes nothing must not count as detected.
"""

import json
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

BREACHED = "BREACHED"


class _Altered(SourceFileLoader):
    edits: list[list[str]]

    def get_code(self, fullname: str) -> CodeType | None:  # never uses the cache of compiled modules
        path = self.get_filename(fullname)
        text = Path(path).read_text(encoding="utf-8")
        for old, new in self.edits:
            if text.count(old) != 1:
                sys.stderr.write(f"{fullname} must contain this once: {old}\n")
                os._exit(70)
            text = text.replace(old, new)
        return compile(text, path, "exec", dont_inherit=True)


class _Breaches(MetaPathFinder):
    def __init__(self, edits: dict[str, list[list[str]]]) -> None:
        self._edits = edits

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in self._edits:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            loader = _Altered(spec.loader.name, spec.loader.path)
            loader.edits = self._edits[fullname]
            spec.loader = loader
        return spec


_file = Path(os.environ.get(BREACHED, os.devnull))
_edits = _file.read_text(encoding="utf-8") if _file.exists() else ""
if _edits:
    sys.meta_path.insert(0, _Breaches(json.loads(_edits)))
