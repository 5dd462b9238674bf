"""Analysis of INSERT, UPDATE and DELETE: the values to encrypt, and the row of each.

It also finds the rows of an INSERT in its text, and generates missing primary keys.
"""

from dataclasses import dataclass
from typing import NamedTuple

from openkcm.field_encryption.postgresql.catalog import Column, Table
from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.parser import Node
from openkcm.field_encryption.postgresql.plan import Constant, EncryptedParameter, GeneratedKey, Operand, Piece
from openkcm.field_encryption.postgresql.rewrite import select as reading
from openkcm.field_encryption.postgresql.rewrite import where as conditions
from openkcm.field_encryption.postgresql.rewrite.analysis import Analysis, unsupported_syntax
from openkcm.field_encryption.postgresql.rewrite.scopes import (
    REFUSED,
    Output,
    Scope,
    Source,
    path,
    quoted,
    reference,
    refusal,
    relation_source,
    table_of,
)


def write(a: Analysis, kind: str, node: Node, parent: Scope, use: str) -> list[Output]:
    """Analyse a modifying statement. Raises StatementRefused, ProtectionUnusable."""
    scope = Scope(parent)
    reading.define(a, node.get("withClause"), scope)
    if kind not in {"InsertStmt", "UpdateStmt", "DeleteStmt"}:
        raise StatementRefused(f"{kind.removesuffix('Stmt').upper()} is not supported on protected columns")
    relation = node["relation"]
    table = table_of(relation, a.catalogue)
    source = relation_source(relation, table)
    others = Scope(scope)
    if kind == "InsertStmt":
        _insert(a, node, table, scope)
    else:
        for item in [*node.get("fromClause", ()), *node.get("usingClause", ())]:
            reading.add_source(a, item, others)
        inner = Scope(scope, [source, *others.sources])
        if kind == "UpdateStmt":
            _update(a, node, table, inner)
        conditions.check(a, node.get("whereClause"), inner)
    return reading.returning(a, node, source, others, use)


def _insert(a: Analysis, node: Node, table: Table | None, scope: Scope) -> None:
    query = (node.get("selectStmt") or {}).get("SelectStmt")
    if query is None:  # DEFAULT VALUES: protected columns have no defaults
        return
    if table is None:
        reading.select(a, query, scope, REFUSED)
        conditions.check(a, node.get("onConflictClause"), scope)
        return
    targets = _target_columns(node, table, query)
    written = {number: column for number, column in enumerate(targets) if column.name in table.protected}
    insert_rows = listed_rows(a, node, query, set(written))
    if insert_rows is None:
        if written:
            names = ", ".join(f"{table.full_name}.{column.name}" for column in written.values())
            raise StatementRefused(
                f"INSERT with a query would store {names} unencrypted",
                "read the rows and insert their values with parameters",
            )
        reading.select(a, query, scope, REFUSED)
    rows = [] if insert_rows is None else insert_rows.rows
    made = {} if insert_rows is None or not written else generated_values(a, node, table, targets, insert_rows)
    keys: list[tuple[Operand, ...] | None] = []
    for number, row in enumerate(rows):
        key = _row_key(a, table, targets, row, {name: made[number, name] for at, name in made if at == number})
        keys.append(key)
        for position, item in enumerate(row.items):
            if position not in written:
                conditions.check(a, item, scope)
            elif "SetToDefault" not in item:
                _encrypt(a, table, written[position], item, key)
    source = relation_source(node["relation"], table)
    excluded = Source("excluded", source.fields, source.names)
    _conflict(a, node.get("onConflictClause"), table, keys, Scope(scope, [source, excluded]))


def _target_columns(node: Node, table: Table, query: Node) -> list[Column]:
    if not node.get("cols"):
        width = max((len(row["List"]["items"]) for row in query.get("valuesLists", ())), default=len(table.columns))
        return list(table.columns[:width])
    columns = []
    for target in node["cols"]:
        column = table.column(target["ResTarget"]["name"])
        if column is None or "indirection" in target["ResTarget"]:
            raise StatementRefused(f"{target['ResTarget']['name']} is not a known column of {table.full_name}")
        columns.append(column)
    return columns


class Row(NamedTuple):
    """One row of VALUES: the expression for each target column, and the position of its closing parenthesis."""

    items: list[Node]
    end: int


def _row_key(
    a: Analysis, table: Table, targets: list[Column], row: Row, made: dict[str, GeneratedKey]
) -> tuple[Operand, ...] | None:
    """Return the primary key of a row to insert, None when it is an expression."""
    parts: list[Operand] = []
    for column in table.key:
        if column.name in made:
            parts.append(made[column.name])
            continue
        if column not in targets:
            return None
        operand = a.operand(row.items[targets.index(column)], column)
        if operand is None:
            return None
        parts.append(operand[0])
    return tuple(parts)


def _encrypt(a: Analysis, table: Table, column: Column, item: Node, key: tuple[Operand, ...] | None) -> None:
    """Replace a parameter or literal by its ciphertext."""
    value = a.operand(item, column)
    if value is None:
        raise StatementRefused(
            f"{table.full_name}.{column.name} would be computed by the database and stored unencrypted",
            "pass the value as a parameter or literal, without a function or a cast to another type",
        )
    if value[0] == Constant(None):
        return
    if key is None:
        raise StatementRefused(
            f"the primary key of the row in {table.full_name} is not known before it is stored",
            "pass each column of the primary key as a parameter or literal",
        )
    a.replace(value[1].start, value[1].end, EncryptedParameter(table, column, value[0], key))


def _conflict(
    a: Analysis, clause: Node | None, table: Table, keys: list[tuple[Operand, ...] | None], scope: Scope
) -> None:
    if clause is None:
        return
    infer = clause.get("infer") or {}
    names = [one["IndexElem"].get("name") for one in infer.get("indexElems", ())]
    for name in names:
        if name in table.protected:
            raise refusal(table.protected[name], table, "find duplicates in")
    same_row = (
        infer.get("conname") == table.key_name
        if "conname" in infer
        else (sorted(str(name) for name in names) == sorted(one.name for one in table.key))
    )
    conditions.check(a, [infer.get("whereClause"), clause.get("whereClause")], scope)
    for target in clause.get("targetList", ()):
        name, item = target["ResTarget"]["name"], target["ResTarget"]["val"]
        column = table.protected.get(name)
        _not_a_key(table, name)
        if column is None:
            conditions.check(a, item, scope)
            continue
        ref = reference(item)
        is_excluded = ref is not None and path(ref)[0] == ["excluded", name]
        null = "A_Const" in item and item["A_Const"].get("isnull")
        if null:
            continue
        if not same_row:
            raise StatementRefused(
                f"ON CONFLICT could store a value of {table.full_name}.{name} in a row for which it is not encrypted",
                "use the primary key as the conflict target, or update the row by its primary key",
            )
        if not is_excluded:
            _encrypt(a, table, column, item, keys[0] if len(keys) == 1 else None)


def _not_a_key(table: Table, name: str) -> None:
    if any(one.name == name for one in table.key):
        raise StatementRefused(
            f"the primary key of {table.full_name} cannot be changed: protected values are bound to it",
            "insert a new row and delete the old one",
        )


def _update(a: Analysis, node: Node, table: Table | None, scope: Scope) -> None:
    for target in node["targetList"]:
        name, item = target["ResTarget"]["name"], target["ResTarget"]["val"]
        if table is not None:
            _not_a_key(table, name)
        column = None if table is None else table.protected.get(name)
        if table is None or column is None:
            conditions.check(a, item, scope)
        elif "SetToDefault" not in item:
            key = _key_in(a, node.get("whereClause"), table, scope)
            if key is None and not ("A_Const" in item and item["A_Const"].get("isnull")):
                raise StatementRefused(
                    f"{table.full_name}.{name} is encrypted for its row, which this UPDATE does not identify",
                    "update one row by its primary key: WHERE " + " AND ".join(f"{k.name} = …" for k in table.key),
                )
            _encrypt(a, table, column, item, key)


def _key_in(a: Analysis, where: Node | None, table: Table, scope: Scope) -> tuple[Operand, ...] | None:
    """Return the primary key that a condition fixes, None if it does not."""
    found: dict[str, Operand] = {}
    target = scope.sources[0]
    for node in _conjuncts(where):
        expression = node.get("A_Expr", {})
        if expression.get("kind") != "AEXPR_OP" or expression["name"][-1]["String"]["sval"] != "=":
            continue
        for one, other in (("lexpr", "rexpr"), ("rexpr", "lexpr")):
            ref = reference(expression.get(one))
            if ref is None or path(ref)[1]:
                continue
            names = path(ref)[0]
            is_target = target.is_named(names[:-1]) if len(names) > 1 else len(scope.sources) == 1
            column = next((key for key in table.key if key.name == names[-1]), None)
            if is_target and column is not None and (operand := a.operand(expression[other], column)) is not None:
                found.setdefault(column.name, operand[0])
    return tuple(found[one.name] for one in table.key) if len(found) == len(table.key) else None


def _conjuncts(where: Node | None) -> list[Node]:
    if where is None:
        return []
    both = where.get("BoolExpr", {})
    if both.get("boolop") == "AND_EXPR":
        return [one for part in both["args"] for one in _conjuncts(part)]
    return [where]


_ADDED = b"okcm$key"


@dataclass(frozen=True, slots=True)
class InsertRows:
    """`through` and `names_end` are set for rows in a subquery: the ends of its target list and of its names."""

    rows: list[Row]
    through: int | None = None
    names_end: int = 0


def listed_rows(a: Analysis, node: Node, query: Node, written: set[int]) -> InsertRows | None:
    """Return the rows of an INSERT, None when the statement does not list them. `written` are protected targets."""
    begin = node["relation"]["location"]
    if "valuesLists" in query:
        return InsertRows(_rows(a, a.index(a.word_after(begin, "VALUES").start), query["valuesLists"]))
    return _rows_of_query(a, query, written)


def _rows_of_query(a: Analysis, query: Node, written: set[int]) -> InsertRows | None:
    """`INSERT … SELECT p0::VARCHAR, p1 FROM (VALUES …) AS x (p0, p1, n) ORDER BY n`, which SQLAlchemy writes."""
    source = query.get("fromClause", [{}])[0].get("RangeSubselect", {})
    values = source.get("subquery", {}).get("SelectStmt", {}).get("valuesLists")
    names = [part["String"]["sval"] for part in (source.get("alias") or {}).get("colnames", ())]
    simple = set(query) <= {"targetList", "fromClause", "sortClause", "limitOption", "op"}
    if not values or not names or not simple or len(query["fromClause"]) != 1:
        return None
    order: list[int] = []
    for target in query["targetList"]:
        ref = reference(_uncast(target["ResTarget"]["val"]))
        if ref is None or len(path(ref)[0]) != 1 or path(ref)[0][0] not in names:
            return None
        order.append(names.index(path(ref)[0][0]))
    protected = {names[order[position]] for position in written if position < len(order)}
    for item in query.get("sortClause", ()):
        ref = reference(item["SortBy"]["node"])
        if ref is None or path(ref)[0][-1] in protected:
            return None
    place = a.word_after(query["targetList"][-1]["ResTarget"]["location"], "FROM")
    index = a.index(place.start)
    rows = _rows(a, index + 2, values)
    after = a.tokens[_closing(a, index + 2)].end
    opening = next(at for at, token in a.level(a.index(after)) if token.text == "(")
    names_end = a.tokens[_closing(a, opening + 1)].start
    return InsertRows([Row([row.items[at] for at in order], row.end) for row in rows], place.start, names_end)


def _closing(a: Analysis, index: int) -> int:
    """Return the index of the closing parenthesis of a level; raises StatementRefused."""
    found = next((at for at, token in a.level(index) if token.text == ")"), None)
    if found is None:
        raise unsupported_syntax()
    return found


def _uncast(node: Node) -> Node:
    """Return the argument of a cast without a length, which does not change a ciphertext of the column's type."""
    cast = node.get("TypeCast")
    if cast is None:
        return node
    name = cast["typeName"]
    return node if name.get("typmods") or name.get("arrayBounds") else cast["arg"]


def _rows(a: Analysis, index: int, lists: list[Node]) -> list[Row]:
    """Return the rows after the word VALUES."""
    rows: list[Row] = []
    for row in lists:
        index += 1
        if a.tokens[index].text != "(":
            raise unsupported_syntax()
        closing = _closing(a, index + 1)
        rows.append(Row(row["List"]["items"], a.tokens[closing].start))
        index = closing + 1
    return rows


def generated_values(
    a: Analysis, node: Node, table: Table, targets: list[Column], rows: InsertRows
) -> dict[tuple[int, str], GeneratedKey]:
    """Generate the primary key values that the statement leaves to the database."""
    _check_override(node, table)
    found: dict[tuple[int, str], GeneratedKey] = {}
    added: list[Column] = []
    for column in table.key:
        position = targets.index(column) if column in targets else None
        if position is None:
            added.append(column)
        for number, row in enumerate(rows.rows):
            default = {} if position is None else row.items[position].get("SetToDefault")
            if default is None:
                continue
            if column.made_by_database not in {"sequence", "uuid"}:
                raise StatementRefused(
                    f"the primary key {table.full_name}.{column.name} is generated by the database "
                    f"({column.made_by_database or 'it has no default'}), but is needed to encrypt the row",
                    "pass the primary key in the statement",
                )
            found[number, column.name] = GeneratedKey(table, column, number)
            if position is not None:
                token = a.token(default["location"])
                a.replace(token.start, token.end, found[number, column.name])
    if added:
        _extend(a, node, targets, rows, [(column, found) for column in added])
    if any(one.column.always for one in found.values()):
        _override(a, node)
    return found


def _check_override(node: Node, table: Table) -> None:
    """Reject OVERRIDING USER VALUE: the database would replace the key for which the value is encrypted."""
    if "USER" in node.get("override", "") and any(one.made_by_database == "sequence" for one in table.key):
        raise StatementRefused(
            f"OVERRIDING USER VALUE replaces the primary key of {table.full_name} after its row is encrypted",
            "leave it out, and leave the primary key out or pass DEFAULT for it",
        )


def _override(a: Analysis, node: Node) -> None:
    """Add OVERRIDING SYSTEM VALUE, without which GENERATED ALWAYS columns accept no value."""
    if "SYSTEM" not in node.get("override", ""):
        words = ("VALUES", "SELECT")
        after = next(t for _, t in a.level(a.index(node["relation"]["location"])) if t.text in words)
        a.insert(after.start, b"OVERRIDING SYSTEM VALUE ")


def _extend(
    a: Analysis,
    node: Node,
    targets: list[Column],
    rows: InsertRows,
    added: list[tuple[Column, dict[tuple[int, str], GeneratedKey]]],
) -> None:
    """Add columns to the list of an INSERT, or create the list, and add values to each row."""
    names = b"".join(b", " + quoted(column.name) for column, _ in added)
    if node.get("cols"):
        closing = _closing(a, a.index(node["cols"][-1]["ResTarget"]["location"]))
        a.insert(a.tokens[closing].start, names)
    else:
        words = ("OVERRIDING", "VALUES", "SELECT")
        after = next(t for _, t in a.level(a.index(node["relation"]["location"])) if t.text in words)
        a.insert(after.start, b"(" + b", ".join(quoted(one.name) for one in targets) + names + b") ")
    for number, row in enumerate(rows.rows):
        pieces: list[Piece] = []
        for column, found in added:
            pieces += [b", ", found[number, column.name]]
        a.insert(row.end, *pieces)
    if rows.through is not None:
        passed = b"".join(b', "%b%d"' % (_ADDED, number) for number in range(len(added)))
        a.insert(rows.through, passed + b" ")
        a.insert(rows.names_end, passed)
