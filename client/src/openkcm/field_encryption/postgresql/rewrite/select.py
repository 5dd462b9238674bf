"""Queries: which protected columns come out of them, with which keys, and what is asked of them on the way."""

from collections.abc import Mapping
from typing import Any

from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.parser import Node
from openkcm.field_encryption.postgresql.rewrite import where as conditions
from openkcm.field_encryption.postgresql.rewrite.analysis import Analysis
from openkcm.field_encryption.postgresql.rewrite.scopes import (
    EXPORTED,
    IGNORED,
    REFUSED,
    Field,
    Output,
    Scope,
    Source,
    alias_of,
    base_source,
    covered,
    find,
    path,
    quoted,
    reference,
    refusal,
    table_of,
)

_CLAUSES = ("whereClause", "groupClause", "havingClause", "windowClause", "limitOffset", "limitCount")


def select(a: Analysis, node: Node, parent: Scope, use: str) -> list[Output]:
    """Understand a SELECT or VALUES, changing it so that the keys of what is exported come along."""
    scope = Scope(parent)
    define(a, node.get("withClause"), scope)
    if "valuesLists" in node:
        conditions.check(a, node["valuesLists"], scope)
        return []
    if node.get("op", "SETOP_NONE") != "SETOP_NONE":
        for side in ("larg", "rarg"):
            select(a, node[side], scope, IGNORED if use == IGNORED else REFUSED)
        conditions.check(a, [node.get(clause) for clause in ("sortClause", *_CLAUSES)], scope)
        return []
    for item in node.get("fromClause", ()):
        add_source(a, item, scope)
    targets = node.get("targetList", [])
    shown, names = _targets(a, targets, scope)
    conditions.check(a, [node.get(clause) for clause in _CLAUSES], scope)
    _check_order(a, node, scope, names, [one for one in targets if _exports(one, scope)])
    if node.get("intoClause") and shown:
        raise StatementRefused("SELECT INTO would copy protected values away from their rows", "insert them instead")
    if not shown or use == IGNORED:
        return []
    if use == REFUSED:
        raise refusal(shown[0][1].column, shown[0][1].table, "compare or combine")
    if node.get("distinctClause") == [{}]:
        return _distinct(targets, shown)
    place = a.word_after(targets[-1]["ResTarget"]["location"], "FROM")
    return _with_keys(a, shown, place.start, b" ")


def returning(a: Analysis, node: Node, source: Source, others: Scope, use: str) -> list[Output]:
    """Understand RETURNING of a write to `source`."""
    clause = node.get("returningClause") or {}
    targets = clause.get("exprs") or node.get("returningList") or []
    if not targets:
        return []
    if clause.get("options") and source.fields:
        raise StatementRefused("RETURNING WITH cannot be followed on protected tables", "leave WITH out")
    # PostgreSQL 18 knows the row before and after by these names; both are known here, so both are refused.
    changed = [Source(name, source.fields, source.names) for name in ("old", "new") if source.fields]
    for target in targets:
        ref = reference(target["ResTarget"].get("val"))
        if ref is not None and path(ref)[0][:1] in (["old"], ["new"]) and source.fields:
            raise StatementRefused("RETURNING old and new cannot be followed on protected tables", "name the columns")
    scope = Scope(others, [source, *others.sources])
    shown, _ = _targets(a, targets, scope)
    scope.sources += changed
    if not shown or use == IGNORED:
        return []
    if use == REFUSED:
        raise refusal(shown[0][1].column, shown[0][1].table, "compare or combine")
    return _with_keys(a, shown, a.end_of_level(targets[-1]["ResTarget"]["location"]), b"")


def define(a: Analysis, clause: Node | None, scope: Scope) -> None:
    """Take in what WITH defines."""
    for item in (clause or {}).get("ctes", ()):
        query = item["CommonTableExpr"]
        ((kind, inner),) = query["ctequery"].items()
        if kind == "SelectStmt":
            outputs = select(a, inner, scope, EXPORTED)
        else:
            outputs = a.write(a, kind, inner, scope, EXPORTED)
        scope.queries[query["ctename"]] = _derived(query["ctename"], outputs, query.get("aliascolnames"))


def add_source(a: Analysis, item: Node, scope: Scope) -> None:
    """Take in one part of FROM."""
    ((kind, node),) = item.items()
    if kind == "RangeVar":
        scope.sources.append(_relation(a, node, scope))
    elif kind == "JoinExpr":
        before = len(scope.sources)
        add_source(a, node["larg"], scope)
        add_source(a, node["rarg"], scope)
        _check_join(a, node, scope, scope.sources[before:])
    elif kind == "RangeSubselect":
        outputs = select(a, node["subquery"]["SelectStmt"], scope, EXPORTED)
        alias = node.get("alias") or {}
        scope.sources.append(_derived(alias.get("aliasname", ""), outputs, alias.get("colnames")))
    elif kind == "RangeTableSample":
        add_source(a, node["relation"], scope)
    else:
        conditions.check(a, node, scope)
        scope.sources.append(Source((node.get("alias") or {}).get("aliasname", "")))


def _relation(a: Analysis, node: Node, scope: Scope) -> Source:
    alias = alias_of(node)
    named = None if node.get("schemaname") else scope.query(node["relname"])
    if named is not None:
        found = Source(alias, named.fields, named.names)
    else:
        table = table_of(node, a.catalogue)
        found = Source(alias) if table is None else base_source(table, alias)
    if found.fields and (node.get("alias") or {}).get("colnames"):
        raise StatementRefused(f"the columns of {alias} are renamed in FROM", "rename them in the list of results")
    return found


def _derived(alias: str, outputs: list[Output], renamed: Any) -> Source:
    if not outputs:
        return Source(alias)
    names = [one.name for one in outputs]
    if renamed or len(set(names)) < len(names) or not alias:
        raise StatementRefused(
            "protected columns of a subquery need an alias for it and names of their own", "name each one with AS"
        )
    return Source(alias, tuple(Field(one.name, one.table, one.column, one.key) for one in outputs))


def _check_join(a: Analysis, node: Node, scope: Scope, inside: list[Source]) -> None:
    fields = [one for source in inside for one in source.fields]
    if node.get("isNatural") and fields:
        raise StatementRefused("a natural join may compare protected columns", "say what is joined with ON or USING")
    using = {part["String"]["sval"] for part in node.get("usingClause", ())}
    for one in fields:
        if one.name in using:
            raise refusal(one.column, one.table, "join by")
    if node.get("alias") and fields:
        raise StatementRefused("a join with an alias of its own hides protected columns", "leave the alias out")
    conditions.check(a, node.get("quals"), scope)


def _exports(target: Node, scope: Scope) -> bool:
    ref = reference(target["ResTarget"].get("val"))
    return ref is not None and not path(ref)[1] and find(ref, scope) is not None


def _targets(
    a: Analysis, targets: list[Node], scope: Scope
) -> tuple[list[tuple[Source, Field, str]], dict[str, Field]]:
    """Return the protected columns of the list in their order, and which names of results mean them."""
    shown: list[tuple[Source, Field, str]] = []
    names: dict[str, Field] = {}
    for target in targets:
        result = target["ResTarget"]
        ref = reference(result.get("val"))
        if ref is None:
            conditions.check(a, result.get("val"), scope)
            continue
        if path(ref)[1]:
            shown += [(source, one, one.name) for source in covered(ref, scope) for one in source.fields]
            continue
        found = find(ref, scope)
        if found is not None:
            name = result.get("name") or found[1].name
            shown.append((*found, name))
            names[name] = found[1]
    return shown, names


def _check_order(a: Analysis, node: Node, scope: Scope, names: Mapping[str, Field], exported: list[Node]) -> None:
    """ORDER BY, GROUP BY and DISTINCT ON may name a result or its number."""
    targets = node.get("targetList", [])
    for item in [*node.get("sortClause", ()), *node.get("groupClause", ()), *node.get("distinctClause", ())]:
        value = item.get("SortBy", {}).get("node") if "SortBy" in item else item
        if not value:
            continue
        ref, number = reference(value), value.get("A_Const", {}).get("ival")
        if ref is not None and path(ref)[0][0] in names and len(ref["fields"]) == 1:
            one = names[path(ref)[0][0]]
            raise refusal(one.column, one.table, "sort or group by")
        if number is not None:
            position = number.get("ival", 0) - 1
            starred = any("A_Star" in str(one["ResTarget"].get("val")) for one in targets[: position + 1])
            counted = 0 <= position < len(targets) and targets[position] in exported
            if counted or (starred and any(source.fields for source in scope.sources)):
                raise StatementRefused(
                    "sorting or grouping by the number of a column cannot be followed here", "name the column"
                )
        conditions.check(a, value, scope)


def _with_keys(a: Analysis, shown: list[tuple[Source, Field, str]], at: int, after: bytes) -> list[Output]:
    """Add the primary keys of what is shown to the list of results."""
    added: dict[tuple[int, str], str] = {}
    outputs, text = [], b""
    for source, one, name in shown:
        for key in one.key:
            if (id(source), key) not in added:
                hidden = added[id(source), key] = a.hide()
                text += b", " + quoted(source.alias) + b"." + quoted(key) + b" AS " + quoted(hidden)
        outputs.append(Output(name, one.table, one.column, tuple(added[id(source), key] for key in one.key)))
    a.insert(at, text + after)
    return outputs


def _distinct(targets: list[Node], shown: list[tuple[Source, Field, str]]) -> list[Output]:
    """Take the keys from the list itself: another column in it would make other rows distinct."""
    found: dict[tuple[str, str], str] = {}
    for target in targets:
        ref = reference(target["ResTarget"].get("val"))
        if ref is not None and not path(ref)[1]:
            names = path(ref)[0]
            result = target["ResTarget"].get("name") or names[-1]
            found[names[-2] if len(names) > 1 else "", names[-1]] = result
    outputs = []
    for source, one, name in shown:
        keys = [found.get((source.alias, key)) or found.get(("", key)) for key in one.key]
        known = [key for key in keys if key is not None]
        if len(known) < len(keys) or len(set(found.values())) < len(found):
            raise StatementRefused(
                f"DISTINCT would compare ciphertexts of {one.table.full_name}.{one.column.name}, which all differ",
                "list the primary key's columns by name as well, or leave DISTINCT out",
            )
        outputs.append(Output(name, one.table, one.column, tuple(known)))
    return outputs
