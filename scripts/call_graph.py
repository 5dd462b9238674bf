"""Find the members of an enumeration that a function can use, by static analysis of its code and of what it calls.

The analysis follows functions and classes by name, methods of `self`, and methods of attributes of `self` by their
annotation. It resolves less than the interpreter does and can therefore miss members. A caller states the expected
members, so that a difference is reported.
"""

import ast
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """A module's functions by qualified name, and the definitions of its other names."""

    name: str
    tree: ast.Module
    functions: dict[str, FunctionNode] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name → module and name in it, empty for the module itself."""

    def __post_init__(self) -> None:
        for node in self.tree.body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self.functions[node.name] = node
                case ast.ClassDef():
                    self.classes[node.name] = node
                    for inner in node.body:
                        if isinstance(inner, FunctionNode):
                            self.functions[f"{node.name}.{inner.name}"] = inner
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.constants[name] = value
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    self.constants[name] = value
                case ast.ImportFrom(module=str(of), names=names):
                    for alias in names:
                        self.imports[alias.asname or alias.name] = (of, alias.name)

    @cached_property
    def annotations(self) -> dict[tuple[str, str], str]:
        """(class, attribute of self) → its annotated class: of a field, or of an argument of `__init__`."""
        found = {}
        for name, node in self.classes.items():
            for inner in node.body:
                if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    found[name, inner.target.id] = ast.unparse(inner.annotation)
            init = self.functions.get(f"{name}.__init__")
            arguments = [*init.args.args, *init.args.kwonlyargs] if init else []
            kinds = {one.arg: ast.unparse(one.annotation) for one in arguments if one.annotation}
            for assigned in ast.walk(init) if init else ():
                match assigned:
                    case ast.Assign(targets=[ast.Attribute(attr=attribute)], value=ast.Name(id=argument)):
                        if argument in kinds:
                            found[name, attribute] = kinds[argument]
        return found


class Code:
    """The repository's code, parsed on demand; calls are followed within `packages`."""

    def __init__(self, enumeration: str, packages: tuple[str, ...], root: Path = ROOT) -> None:
        self._enumeration = enumeration
        self._packages = packages
        self._root = root
        self._modules: dict[str, Module | None] = {}

    def reached(self, module: str, function: str) -> frozenset[str]:
        """Return the members that a function (`name` or `Class.name`) can use; raises KeyError for an unknown one."""
        found = self._module(module)
        if found is None or function not in found.functions:
            raise KeyError(f"{module}.{function}")
        members: set[str] = set()
        self._follow(found, function, members, set())
        return frozenset(members)

    def _module(self, name: str) -> Module | None:
        if name not in self._modules:
            path = self._root / f"{name.replace('.', '/')}.py"
            known = any(f"{name}.".startswith(f"{one}.") for one in self._packages) and path.exists()
            tree = ast.parse(path.read_text(encoding="utf-8")) if known else None
            self._modules[name] = None if tree is None else Module(name, tree)
        return self._modules[name]

    def _follow(self, module: Module, what: str, members: set[str], seen: set[tuple[str, str]]) -> None:
        """Add the members of the definition of a module's name."""
        if (module.name, what) in seen:
            return
        seen.add((module.name, what))
        node: ast.AST | None = module.functions.get(what) or module.constants.get(what)
        if node is not None:
            self._take(module, what.rpartition(".")[0], node, members, seen)
        elif what in module.classes:
            for function in module.functions:
                if function.startswith(f"{what}."):
                    self._follow(module, function, members, seen)
        elif what in module.imports:
            of, name = module.imports[what]
            imported = self._module(of)
            if imported is not None:
                self._follow(imported, name, members, seen)

    def _take(self, module: Module, owner: str, node: ast.AST, members: set[str], seen: set[tuple[str, str]]) -> None:
        for inner in ast.walk(node):
            match inner:
                case ast.Attribute(value=ast.Name(id=name), attr=member) if name == self._enumeration:
                    members.add(member)
                case ast.Attribute(value=ast.Name(id="self"), attr=attribute):
                    self._follow(module, f"{owner}.{attribute}", members, seen)
                case ast.Attribute(value=ast.Attribute(value=ast.Name(id="self"), attr=attribute), attr=method):
                    kind = module.annotations.get((owner, attribute), "")
                    of, name = module.imports.get(kind, (module.name, kind))
                    other = self._module(of)
                    if other is not None and f"{name}.{method}" in other.functions:
                        self._follow(other, f"{name}.{method}", members, seen)
                case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in module.imports:
                    of, imported = module.imports[name]
                    submodule = self._module(f"{of}.{imported}")
                    if submodule is not None:
                        self._follow(submodule, attribute, members, seen)
                case ast.Name(id=name) if name != self._enumeration:
                    self._follow(module, name, members, seen)
