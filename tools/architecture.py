"""The import ladder and the house rules a parser can check; `make lint` runs them through tests/test_architecture.py.

Each rule is a function from a tree of source files to findings, one line each, naming file, line and rule.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

RUNGS = {
    "tenancy": 0,
    "config": 1,
    "vault": 2,
    "keystores": 2,
    "database": 2,
    "storefront": 2,
    "fronts": 2,
    "rendering": 2,
    "activities": 3,
    "workflows": 4,
    "worker": 5,
    "marketplace": 5,
    "dashboard": 5,
    "crypto": 5,
    "agent": 6,
    "hooks": 6,
    "cli": 7,
    "devstack": 7,
    "benchmarks": 8,
}
"""A module imports from lower rungs only, and from its own package; never sideways."""

_CLIENT = ("client", "client_calls", "client_disk", "client_errors", "client_identity", "client_local")
_AT_THE_CUSTOMER: dict[str, tuple[str, ...]] = {
    "config": ("config.settings", "config.logs"),
    "vault": (),
    "keystores": (),
    "database": (),
    "storefront": (),
    "fronts": (),
    "rendering": (),
    "activities": (),
    "workflows": (),
    "worker": (),
    "marketplace": (),
    "dashboard": (),
    "crypto": tuple(f"crypto.{module}" for module in _CLIENT),
}

# Where a lower rung may be seen in part only: package → {imported package: the modules of it, None for none}.
NARROWED: dict[str, dict[str, tuple[str, ...]]] = {
    "vault": {"config": ()},
    "keystores": {"config": ()},
    "database": {"config": ()},
    "storefront": {"config": ()},
    "fronts": {"config": ()},
    "rendering": {"config": ()},
    "activities": {
        "config": (),
        "vault": ("vault.interfaces",),
        "keystores": ("keystores.interfaces",),
        "database": ("database.interfaces",),
        "storefront": (),
        "rendering": (),
        "fronts": ("fronts.interfaces",),
    },
    "workflows": {
        "config": (),
        "vault": (),
        "keystores": (),
        "database": (),
        "storefront": (),
        "fronts": (),
        "rendering": (),
    },
    "worker": {
        "storefront": (),
        "rendering": (),
        "fronts": ("fronts.interfaces",),
        "vault": ("vault.interfaces",),
        "keystores": ("keystores.interfaces",),
        "database": ("database.interfaces",),
    },
    "marketplace": {
        # And what a certificate request must be, which is said before one is stored; no key server in it.
        "vault": ("vault.signing_requests",),
        "keystores": (),
        "storefront": (),
        "fronts": (),
        "rendering": (),
        "activities": (),
        "workflows": ("workflows.gateway",),
    },
    "dashboard": {
        # And what a certificate request must be, which is said before one is stored; no key server in it.
        "vault": ("vault.signing_requests",),
        "keystores": (),
        # And the ways an audit stream is handed out, a join token made, a field protected and coverage judged, which
        # the command shares; they know the interfaces alone.
        "database": (
            "database.interfaces",
            "database.audit_reading",
            "database.join_tokens",
            "database.protecting",
            "database.coverage",
            # And how a tenant stands: the page Compliance judges by what a report made now would state.
            "database.report_facts",
        ),
        "storefront": (),
        "fronts": (),
        "activities": (),
        "workflows": ("workflows.gateway",),
    },
    "crypto": {
        "storefront": (),
        "fronts": (),
        "rendering": (),
        # And the one spelling of serial numbers, by which the issuing and the asking side must agree.
        "vault": ("vault.interfaces", "vault.certificates.hex_serial"),
        "keystores": ("keystores.interfaces",),
        "database": ("database.interfaces",),
        "activities": (),
        "workflows": (),
    },
    # What runs at the customer knows nothing of the platform but how to be its client.
    "agent": _AT_THE_CUSTOMER | {"vault": ("vault.signing_requests",)},
    "hooks": _AT_THE_CUSTOMER | {"config": ()},
    "cli": {"fronts": (), "activities": (), "workflows": ("workflows.gateway",)},
}

EXCEPTIONS = {
    ("worker.wiring", "vault"): "the one place that chooses implementations",
    ("worker.wiring", "keystores"): "the same",
    ("worker.wiring", "database"): "the same",
    ("worker.wiring", "fronts"): "the same",
    ("worker.evidence_wiring", "vault"): "a part of it",
    ("worker.evidence_wiring", "keystores"): "the same",
    ("worker.evidence_wiring", "database"): "the same",
    ("worker.evidence_wiring", "fronts"): "the same",
    ("worker.wiring", "rendering"): "the same",
    ("crypto.wiring", "vault"): "the one place that chooses implementations",
    ("crypto.wiring", "keystores"): "the same",
    ("crypto.wiring", "database"): "the same",
    ("dashboard.wiring", "database"): "the one place that chooses implementations",
    ("dashboard.wiring", "storefront"): "the same, and only for the development marketplace page",
    ("worker.codec_server", "vault"): "a process of its own whose whole wiring is one adapter",
    ("worker.identity", "vault"): "who a process is at the key server, shared by the two wirings",
    ("cli", "devstack"): "openkcm up and down are the embedded stack",
}
"""The whole list: (module or package, imported package) → why."""

OWNERS = {
    "hvac": ("vault",),
    "psycopg": ("database", "hooks", "devstack", "benchmarks"),
    "postgast": ("hooks",),
    "psycopg_pool": ("database",),
    "temporalio": ("workflows", "activities", "worker", "devstack", "benchmarks"),
    "streamlit": ("dashboard",),
    "botocore": ("keystores",),
    "pkcs11": ("keystores",),
    "uvloop": ("crypto",),
    "httptools": ("crypto",),
    "typst": ("rendering",),
    "jinja2": ("rendering",),
}
"""Libraries that only their adapters know."""

IMPURE = ("asyncio", "os", "pathlib", "random", "secrets", "socket", "subprocess", "threading", "time")
PURE_LIBRARIES = ("pydantic", "annotated_types")
LONGEST_FILE = 400

_NOQA = re.compile(r"#\s*noqa\b(?P<rest>.*)", re.IGNORECASE)
_NOQA_GOOD = re.compile(r": [A-Z]+[0-9]+(, [A-Z]+[0-9]+)* - \S.*")
_IGNORE = re.compile(r"#\s*type:\s*ignore(?P<rest>.*)")
_IGNORE_GOOD = re.compile(r"\[[a-z-]+(, ?[a-z-]+)*\]\s+# \S.*")


@dataclass(frozen=True)
class Source:
    """One Python file. `module` is its dotted name, `package` the first part of it."""

    path: str
    text: str

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yield (line, dotted name); `from a import b` gives `a.b`, for b may be a module."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)

    def at(self, line: int, problem: str) -> str:
        return f"{self.path}:{line}: {problem}"


def read_tree(root: Path) -> list[Source]:
    """Return the Python files of the repository, hidden folders left out."""
    return [
        Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(root.rglob("*.py"))
        if not any(part.startswith(".") or part == "build" for part in path.relative_to(root).parts)
    ]


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def ladder(sources: list[Source]) -> Iterator[str]:
    """Imports go down the ladder, and through the doors that `NARROWED` leaves open."""
    for source in sources:
        own = RUNGS.get(source.package)
        for line, name in source.imports() if own is not None else ():
            target = name.partition(".")[0]
            if name.startswith("."):
                yield source.at(line, "imports are absolute")
            if target not in RUNGS or target == source.package:
                continue
            if (source.module, target) in EXCEPTIONS or (source.package, target) in EXCEPTIONS:
                continue
            if own is not None and RUNGS[target] >= own:
                yield source.at(line, f"{source.package} may not import {name}: it is not on a lower rung")
            elif not _within(name, NARROWED.get(source.package, {}).get(target, (target,))):
                yield source.at(line, f"{source.package} may not import {name}: that door is closed")


def gateway_is_a_door(sources: list[Source]) -> Iterator[str]:
    """No workflow imports the gateway, which holds a client and would bring I/O into workflow code."""
    for source in sources:
        if source.package == "workflows" and source.module != "workflows.gateway":
            for line, name in source.imports():
                if _within(name, ("workflows.gateway",)):
                    yield source.at(line, "a workflow may not import workflows.gateway")


def libraries(sources: list[Source]) -> Iterator[str]:
    """A foreign library is known to its adapters only, so that it can be replaced and its errors stay there."""
    for source in sources:
        for line, name in source.imports() if source.package in RUNGS else ():
            owners = OWNERS.get(name.partition(".")[0])
            if owners is not None and source.package not in owners:
                yield source.at(line, f"{name.partition('.')[0]} is for {', '.join(owners)} only")


def purity(sources: list[Source], standard: frozenset[str]) -> Iterator[str]:
    """`tenancy` is the standard library without I/O, clock and randomness, and pydantic."""
    for source in sources:
        if source.package != "tenancy":
            continue
        for line, name in source.imports():
            root = name.partition(".")[0]
            if root in IMPURE or (root not in standard and root not in (*PURE_LIBRARIES, "tenancy")):
                yield source.at(line, f"tenancy is pure and may not import {root}")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "uuid4", "uuid1"}:
                yield source.at(node.lineno, f"tenancy has no clock and no randomness: {node.attr}")
            if isinstance(node, ast.Name) and node.id in {"open", "print", "uuid4", "uuid1"}:
                yield source.at(node.lineno, f"tenancy does no I/O and has no randomness: {node.id}")


def maps(sources: list[Source]) -> Iterator[str]:
    """A package opens with its map and holds nothing but exports beside it."""
    for source in sources:
        if not source.path.endswith("__init__.py"):
            continue
        if not ast.get_docstring(source.tree):
            yield source.at(1, "a package opens with a docstring that is its map")
        for node in source.tree.body:
            exports = isinstance(node, ast.Import | ast.ImportFrom) or (
                isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
            )
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not exports and not docstring:
                yield source.at(node.lineno, "a package's __init__ holds its map and exports, no code")


def sizes(sources: list[Source]) -> Iterator[str]:
    """A file can be read top to bottom."""
    for source in sources:
        if (lines := source.text.count("\n")) > LONGEST_FILE:
            yield source.at(lines, f"{lines} lines, {LONGEST_FILE} is the most: split it by concern")


def suppressions(sources: list[Source]) -> Iterator[str]:
    """A suppression names its code and its reason."""
    for source in sources:
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type != tokenize.COMMENT:
                continue
            noqa, ignore = _NOQA.search(token.string), _IGNORE.search(token.string)
            if noqa and not _NOQA_GOOD.fullmatch(noqa["rest"]):
                yield source.at(token.start[0], "write: noqa: CODE - reason")
            if ignore and not _IGNORE_GOOD.fullmatch(ignore["rest"]):
                yield source.at(token.start[0], "write: type: ignore[code]  # reason")


RULES: tuple[Callable[[list[Source]], Iterator[str]], ...] = (
    ladder,
    gateway_is_a_door,
    libraries,
    maps,
    sizes,
    suppressions,
)
