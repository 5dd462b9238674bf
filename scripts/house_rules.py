"""Rules for source files that no other tool checks; `make lint` runs them through tests/test_architecture.py.

The import rules between packages are in pyproject.toml, for import-linter. Each rule here is a function from a tree of
source files to findings: one line each, with file, line and rule.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

IMPURE = ("asyncio", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time")
PURE_LIBRARIES = ("pydantic", "annotated_types")
_PURE = ("core",)
LONGEST_FILE = 600
_CHECKOUT_ONLY = ("devstack", "scripts", "tests")
_CHECKOUT_COMMAND = re.compile(r"\bmake (up|down|status|demo)\b|\bdevstack\b")

_NOQA = re.compile(r"#\s*noqa\b(?P<rest>.*)", re.IGNORECASE)
_NOQA_GOOD = re.compile(r": [A-Z]+[0-9]+(, [A-Z]+[0-9]+)* - \S.*")
_IGNORE = re.compile(r"#\s*type:\s*ignore(?P<rest>.*)")
_IGNORE_GOOD = re.compile(r"\[[a-z-]+(, ?[a-z-]+)*\]\s+# \S.*")


@dataclass(frozen=True)
class Source:
    """A Python file. `module` is its dotted name, `package` the first part of it."""

    path: str
    text: str

    @property
    def module(self) -> str:
        return self.path.removeprefix("client/src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yield (line, dotted name); `from a import b` gives `a.b`, since b may be a module."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)

    def at(self, line: int, problem: str) -> str:
        return f"{self.path}:{line}: {problem}"


def read_tree(root: Path) -> list[Source]:
    """Return the Python files of the repository, without hidden folders."""
    return [
        Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(root.rglob("*.py"))
        if not any(part.startswith(".") or part == "build" for part in path.relative_to(root).parts)
    ]


def purity(sources: list[Source]) -> Iterator[str]:
    """Require that `core` imports only pydantic and the standard library, without I/O, clock and randomness."""
    for source in sources:
        if source.package not in _PURE:
            continue
        for line, name in source.imports():
            root = name.partition(".")[0]
            if root in IMPURE or (
                root not in sys.stdlib_module_names and root not in (*PURE_LIBRARIES, *_PURE, "openkcm")
            ):
                yield source.at(line, f"{source.package} is pure and may not import {root}")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "uuid4", "uuid1"}:
                yield source.at(node.lineno, f"{source.package} has no clock and no randomness: {node.attr}")
            if isinstance(node, ast.Name) and node.id in {"open", "print", "uuid4", "uuid1"}:
                yield source.at(node.lineno, f"{source.package} does no I/O and has no randomness: {node.id}")


def maps(sources: list[Source]) -> Iterator[str]:
    """Require that a package starts with a docstring that describes its modules, and contains only exports."""
    for source in sources:
        if not source.path.endswith("__init__.py"):
            continue
        if not ast.get_docstring(source.tree):
            yield source.at(1, "a package starts with a docstring that describes its modules")
        for node in source.tree.body:
            exports = isinstance(node, ast.Import | ast.ImportFrom) or (
                isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
            )
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not exports and not docstring:
                yield source.at(node.lineno, "a package's __init__ contains its docstring and exports, no code")


def sizes(sources: list[Source]) -> Iterator[str]:
    """Limit the length of files."""
    for source in sources:
        if (lines := source.text.count("\n")) > LONGEST_FILE:
            yield source.at(lines, f"{lines} lines, the maximum is {LONGEST_FILE}: split it by concern")


def suppressions(sources: list[Source]) -> Iterator[str]:
    """Require a code and a reason for each suppression."""
    for source in sources:
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type != tokenize.COMMENT:
                continue
            noqa, ignore = _NOQA.search(token.string), _IGNORE.search(token.string)
            if noqa and not _NOQA_GOOD.fullmatch(noqa["rest"]):
                yield source.at(token.start[0], "write: noqa: CODE - reason")
            if ignore and not _IGNORE_GOOD.fullmatch(ignore["rest"]):
                yield source.at(token.start[0], "write: type: ignore[code]  # reason")


def remedies(sources: list[Source]) -> Iterator[str]:
    """Reject commands of a checkout in the texts of packages that are installed without one."""
    for source in sources:
        if source.package in _CHECKOUT_ONLY or not _CHECKOUT_COMMAND.search(source.text):
            continue
        nodes = list(ast.walk(source.tree))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
        for node in texts:
            if found := _CHECKOUT_COMMAND.search(str(node.value)):
                yield source.at(node.lineno, f"an installation has no {found[0]}: write what to check")


RULES: tuple[Callable[[list[Source]], Iterator[str]], ...] = (purity, maps, sizes, suppressions, remedies)
