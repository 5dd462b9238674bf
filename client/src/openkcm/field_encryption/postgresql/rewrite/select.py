"""Analysis of queries: the protected columns of their results, with keys, and the use of protected columns inside."""

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
    covered,
    find,
    path,
    quoted,
    reference,
    refusal,
    relation_source,
    table_of,
)

_CLAUSES = ("whereClause", "groupClause", "havingClause", "windowClause", "limitOffset", "limitCount")


def select(a: Analysis, node: Node, parent: Scope, use: str) -> list[Output]:
    """Analyse a SELECT or VALUES, and add the keys of exported columns to it."""
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
    protected, names = _targets(a, targets, scope)
    conditions.check(a, [node.get(clause) for clause in _CLAUSES], scope)
    _check_order(a, node, scope, names, [one for one in targets if _exports(one, scope)])
    if node.get("intoClause") and protected:
        raise StatementRefused("SELECT INTO would copy protected values to other rows", "insert the values instead")
    if not protected or use == IGNORED:
        return []
    if use == REFUSED:
        raise refusal(protected[0][1].column, protected[0][1].table, "compare or combine")
    if node.get("distinctClause") == [{}]:
        return _distinct(targets, protected)
    place = a.word_after(targets[-1]["ResTarget"]["location"], "FROM")
    return _with_keys(a, protected, place.start, b" ")


def returning(a: Analysis, node: Node, source: Source, others: Scope, use: str) -> list[Output]:
    """Analyse RETURNING of a statement that modifies `source`."""
    clause = node.get("returningClause") or {}
    targets = clause.get("exprs") or node.get("returningList") or []
    if not targets:
        return []
    if clause.get("options") and source.fields:
        raise StatementRefused("RETURNING WITH is not supported on protected tables", "leave WITH out")
    # PostgreSQL 18 provides the row before and after under these names; both are rejected.
    changed = [Source(name, source.fields, source.names) for name in ("old", "new") if source.fields]
    for target in targets:
        ref = reference(target["ResTarget"].get("val"))
        if ref is not None and path(ref)[0][:1] in (["old"], ["new"]) and source.fields:
            raise StatementRefused("RETURNING old and new is not supported on protected tables", "name the columns")
    scope = Scope(others, [source, *others.sources])
    protected, _ = _targets(a, targets, scope)
    scope.sources += changed
    if not protected or use == IGNORED:
        return []
    if use == REFUSED:
        raise refusal(protected[0][1].column, protected[0][1].table, "compare or combine")
    return _with_keys(a, protected, a.end_of_level(targets[-1]["ResTarget"]["location"]), b"")


def define(a: Analysis, clause: Node | None, scope: Scope) -> None:
    """Add the queries of WITH to the scope."""
    for item in (clause or {}).get("ctes", ()):
        query = item["CommonTableExpr"]
        ((kind, inner),) = query["ctequery"].items()
        if kind == "SelectStmt":
            outputs = select(a, inner, scope, EXPORTED)
        else:
            outputs = a.write(a, kind, inner, scope, EXPORTED)
        scope.queries[query["ctename"]] = _derived(query["ctename"], outputs, query.get("aliascolnames"))


def add_source(a: Analysis, item: Node, scope: Scope) -> None:
    """Add a part of FROM to the scope."""
    ((kind, node),) = item.items()
    if kind == "RangeVar":
        scope.sources.append(_relation(a, node, scope))
    elif kind == "JoinExpr":
        before = len(scope.sources)
        add_source(a, node["larg"], scope)
        add_source(a, node["rarg"], scope)
        _check_join(a, node, scope, scope.sources[before:])
    elif kind == "RangeSubselect":
        # Without LATERAL, PostgreSQL does not see the other parts of this FROM.
        visible = scope if node.get("lateral") else Scope(scope.parent, queries=scope.queries)
        outputs = select(a, node["subquery"]["SelectStmt"], visible, EXPORTED)
        alias = node.get("alias") or {}
        scope.sources.append(_derived(alias.get("aliasname", ""), outputs, alias.get("colnames")))
    elif kind == "RangeTableSample":
        add_source(a, node["relation"], scope)
    else:
        conditions.check(a, node, scope)
        scope.sources.append(Source((node.get("alias") or {}).get("aliasname", "")))


def _relation(a: Analysis, node: Node, scope: Scope) -> Source:
    named = None if node.get("schemaname") else scope.query(node["relname"])
    if named is not None:
        found = Source(relation_source(node, None).alias, named.fields, named.names)
    else:
        found = relation_source(node, table_of(node, a.catalogue))
    if found.fields and (node.get("alias") or {}).get("colnames"):
        raise StatementRefused(f"the columns of {found.alias} are renamed in FROM", "rename them in the target list")
    return found


def _derived(alias: str, outputs: list[Output], renamed: Any) -> Source:
    if not outputs:
        return Source(alias)
    names = [one.name for one in outputs]
    if renamed or len(set(names)) < len(names) or not alias:
        raise StatementRefused(
            "protected columns of a subquery need an alias and distinct names", "name each one with AS"
        )
    return Source(alias, tuple(Field(one.name, one.table, one.column, one.key) for one in outputs))


def _check_join(a: Analysis, node: Node, scope: Scope, inside: list[Source]) -> None:
    fields = [one for source in inside for one in source.fields]
    if node.get("isNatural") and fields:
        raise StatementRefused("a natural join may compare protected columns", "use ON or USING")
    using = {part["String"]["sval"] for part in node.get("usingClause", ())}
    for one in fields:
        if one.name in using:
            raise refusal(one.column, one.table, "join by")
    if node.get("alias") and fields:
        raise StatementRefused("an alias for a join hides protected columns", "leave the alias out")
    # ON sees the two sides of its join only.
    conditions.check(a, node.get("quals"), Scope(scope.parent, inside, scope.queries))


def _exports(target: Node, scope: Scope) -> bool:
    ref = reference(target["ResTarget"].get("val"))
    return ref is not None and not path(ref)[1] and find(ref, scope) is not None


def _targets(
    a: Analysis, targets: list[Node], scope: Scope
) -> tuple[list[tuple[Source, Field, str]], dict[str, Field]]:
    """Return the protected columns of the target list in their order, and the result names that refer to them."""
    protected: list[tuple[Source, Field, str]] = []
    names: dict[str, Field] = {}
    for target in targets:
        result = target["ResTarget"]
        ref = reference(result.get("val"))
        if ref is None:
            conditions.check(a, result.get("val"), scope)
            continue
        if path(ref)[1]:
            protected += [(source, one, one.name) for source in covered(ref, scope) for one in source.fields]
            continue
        found = find(ref, scope)
        if found is not None:
            name = result.get("name") or found[1].name
            protected.append((*found, name))
            names[name] = found[1]
    return protected, names


def _check_order(a: Analysis, node: Node, scope: Scope, names: Mapping[str, Field], exported: list[Node]) -> None:
    """Check ORDER BY, GROUP BY and DISTINCT ON, which may refer to a result column by name or number."""
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
                    "sorting or grouping by a column number is not supported here", "name the column"
                )
        conditions.check(a, value, scope)


def _with_keys(a: Analysis, protected: list[tuple[Source, Field, str]], at: int, after: bytes) -> list[Output]:
    """Add the primary keys of protected columns to the target list."""
    added: dict[tuple[int, str], str] = {}
    outputs, text = [], b""
    for source, one, name in protected:
        for key in one.key:
            if (id(source), key) not in added:
                hidden = added[id(source), key] = a.hide()
                schema = quoted(source.schema) + b"." if source.schema else b""
                text += b", " + schema + quoted(source.alias) + b"." + quoted(key) + b" AS " + quoted(hidden)
        outputs.append(Output(name, one.table, one.column, tuple(added[id(source), key] for key in one.key)))
    a.insert(at, text + after)
    return outputs


def _distinct(targets: list[Node], protected: list[tuple[Source, Field, str]]) -> list[Output]:
    """Use the keys in the target list itself: an added column would change which rows are distinct."""
    found: dict[tuple[str, ...], str] = {}
    for target in targets:
        ref = reference(target["ResTarget"].get("val"))
        if ref is not None and not path(ref)[1]:
            names = path(ref)[0]
            found[tuple(names)] = target["ResTarget"].get("name") or names[-1]
    outputs = []
    for source, one, name in protected:
        listed = {
            names[-1]: result for names, result in found.items() if len(names) == 1 or source.is_named(names[:-1])
        }
        keys = [listed.get(key) for key in one.key]
        known = [key for key in keys if key is not None]
        if len(known) < len(keys) or len(set(found.values())) < len(found):
            raise StatementRefused(
                f"DISTINCT would compare ciphertexts of {one.table.full_name}.{one.column.name}, which all differ",
                "add the primary key's columns by name, or leave DISTINCT out",
            )
        outputs.append(Output(name, one.table, one.column, tuple(known)))
    return outputs
