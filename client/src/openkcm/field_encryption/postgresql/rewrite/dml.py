"""INSERT, UPDATE and DELETE: which values must be encrypted, and for which row.

The rows of an INSERT in its text, and the primary keys that are made for those which bring none.
"""

from dataclasses import dataclass
from typing import NamedTuple

from openkcm.field_encryption.postgresql.catalog import Column, Table
from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.parser import Node
from openkcm.field_encryption.postgresql.plan import Constant, EncryptedParameter, GeneratedKey, Operand, Piece
from openkcm.field_encryption.postgresql.rewrite import select as reading
from openkcm.field_encryption.postgresql.rewrite import where as conditions
from openkcm.field_encryption.postgresql.rewrite.analysis import Analysis, not_understood
from openkcm.field_encryption.postgresql.rewrite.scopes import (
    REFUSED,
    Output,
    Scope,
    Source,
    alias_of,
    base_source,
    path,
    quoted,
    reference,
    refusal,
    table_of,
)


def write(a: Analysis, kind: str, node: Node, parent: Scope, use: str) -> list[Output]:
    """Understand a statement that writes. Raises StatementRefused, ProtectionUnusable."""
    scope = Scope(parent)
    reading.define(a, node.get("withClause"), scope)
    if kind not in {"InsertStmt", "UpdateStmt", "DeleteStmt"}:
        raise StatementRefused(f"{kind.removesuffix('Stmt').upper()} is not possible where columns are protected")
    relation = node["relation"]
    table = table_of(relation, a.catalogue)
    source = Source(alias_of(relation)) if table is None else base_source(table, alias_of(relation))
    others = Scope(scope)
    if kind == "InsertStmt":
        _insert(a, node, table, scope)
    else:
        for item in [*node.get("fromClause", ()), *node.get("usingClause", ())]:
            reading.add_source(a, item, others)
        inside = Scope(scope, [source, *others.sources])
        if kind == "UpdateStmt":
            _update(a, node, table, inside)
        conditions.check(a, node.get("whereClause"), inside)
    return reading.returning(a, node, source, others, use)


def _insert(a: Analysis, node: Node, table: Table | None, scope: Scope) -> None:
    query = (node.get("selectStmt") or {}).get("SelectStmt")
    if query is None:  # DEFAULT VALUES, and protected columns have no defaults
        return
    if table is None:
        reading.select(a, query, scope, REFUSED)
        conditions.check(a, node.get("onConflictClause"), scope)
        return
    targets = _target_columns(node, table, query)
    written = {number: column for number, column in enumerate(targets) if column.name in table.protected}
    listed = listed_rows(a, node, query, set(written))
    if listed is None:
        if written:
            names = ", ".join(f"{table.full_name}.{column.name}" for column in written.values())
            raise StatementRefused(
                f"INSERT with a query would store {names} as the query gives it, unencrypted",
                "read the rows and insert their values with parameters",
            )
        reading.select(a, query, scope, REFUSED)
    rows = [] if listed is None else listed.rows
    made = {} if listed is None or not written else generated_values(a, node, table, targets, listed)
    keys: list[tuple[Operand, ...] | None] = []
    for number, row in enumerate(rows):
        key = _row_key(a, table, targets, row, {name: made[number, name] for at, name in made if at == number})
        keys.append(key)
        for position, item in enumerate(row.items):
            if position not in written:
                conditions.check(a, item, scope)
            elif "SetToDefault" not in item:
                _seal(a, table, written[position], item, key)
    _conflict(a, node.get("onConflictClause"), table, keys, base_source(table, alias_of(node["relation"])))


def _target_columns(node: Node, table: Table, query: Node) -> list[Column]:
    if not node.get("cols"):
        width = max((len(row["List"]["items"]) for row in query.get("valuesLists", ())), default=len(table.columns))
        return list(table.columns[:width])
    columns = []
    for target in node["cols"]:
        column = table.column(target["ResTarget"]["name"])
        if column is None or "indirection" in target["ResTarget"]:
            raise StatementRefused(f"{target['ResTarget']['name']} is not a column of {table.full_name} as known here")
        columns.append(column)
    return columns


class Row(NamedTuple):
    """One row of VALUES: the expression for each target column, and where its closing parenthesis is."""

    items: list[Node]
    end: int


def _row_key(
    a: Analysis, table: Table, targets: list[Column], row: Row, made: dict[str, GeneratedKey]
) -> tuple[Operand, ...] | None:
    """Return the primary key of a row to be inserted, None when it is an expression."""
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


def _seal(a: Analysis, table: Table, column: Column, item: Node, key: tuple[Operand, ...] | None) -> None:
    """Put the ciphertext in the place of a parameter or literal."""
    value = a.operand(item, column)
    if value is None:
        raise StatementRefused(
            f"{table.full_name}.{column.name} would be stored as the database computes it, unencrypted",
            "pass the value as a parameter or literal, without a function or a cast to another type",
        )
    if value[0] == Constant(None):
        return
    if key is None:
        raise StatementRefused(
            f"the primary key of the row in {table.full_name} is not known before it is stored",
            "give each column of the primary key as a parameter or literal",
        )
    a.replace(value[1].start, value[1].end, EncryptedParameter(table, column, value[0], key))


def _conflict(
    a: Analysis, clause: Node | None, table: Table, keys: list[tuple[Operand, ...] | None], source: Source
) -> None:
    if clause is None:
        return
    infer = clause.get("infer") or {}
    scope = Scope(None, [source, Source("excluded", source.fields, source.names)])
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
        taken = ref is not None and path(ref)[0] == ["excluded", name]
        null = "A_Const" in item and item["A_Const"].get("isnull")
        if null:
            continue
        if not same_row:
            raise StatementRefused(
                f"ON CONFLICT may store a value of {table.full_name}.{name} in another row than it is encrypted for",
                "let the conflict be on the primary key, or update the row by its primary key",
            )
        if not taken:
            _seal(a, table, column, item, keys[0] if len(keys) == 1 else None)


def _not_a_key(table: Table, name: str) -> None:
    if any(one.name == name for one in table.key):
        raise StatementRefused(
            f"the primary key of {table.full_name} cannot be changed: its protected values are bound to it",
            "insert the row anew and delete the old one",
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
                    f"{table.full_name}.{name} is encrypted for its row, and this UPDATE does not name it",
                    "update one row by its primary key: WHERE " + " AND ".join(f"{k.name} = …" for k in table.key),
                )
            _seal(a, table, column, item, key)


def _key_in(a: Analysis, where: Node | None, table: Table, scope: Scope) -> tuple[Operand, ...] | None:
    """Return the primary key that a condition fixes, None when it leaves it open."""
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
            ours = names[-2] == target.alias if len(names) > 1 else len(scope.sources) == 1
            column = next((key for key in table.key if key.name == names[-1]), None)
            if ours and column is not None and (operand := a.operand(expression[other], column)) is not None:
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
class Listed:
    """`through` and `names_end` are set when the rows go through a query: where its list and its names end."""

    rows: list[Row]
    through: int | None = None
    names_end: int = 0


def listed_rows(a: Analysis, node: Node, query: Node, written: set[int]) -> Listed | None:
    """Return the rows of an INSERT, None when they are not in the statement. `written` are the protected targets."""
    begin = node["relation"]["location"]
    if "valuesLists" in query:
        return Listed(_rows(a, a.index(a.word_after(begin, "VALUES").start), query["valuesLists"]))
    return _through_query(a, query, written)


def _through_query(a: Analysis, query: Node, written: set[int]) -> Listed | None:
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
    return Listed([Row([row.items[at] for at in order], row.end) for row in rows], place.start, names_end)


def _closing(a: Analysis, index: int) -> int:
    """Return the index of the parenthesis that closes a level; raises StatementRefused."""
    found = next((at for at, token in a.level(index) if token.text == ")"), None)
    if found is None:
        raise not_understood()
    return found


def _uncast(node: Node) -> Node:
    """Return what is cast without a length: a ciphertext is left as it is by its own type, and refused by others."""
    cast = node.get("TypeCast")
    if cast is None:
        return node
    name = cast["typeName"]
    return node if name.get("typmods") or name.get("arrayBounds") else cast["arg"]


def _rows(a: Analysis, index: int, lists: list[Node]) -> list[Row]:
    """Find the rows that follow the word VALUES."""
    rows: list[Row] = []
    for row in lists:
        index += 1
        if a.tokens[index].text != "(":
            raise not_understood()
        closing = _closing(a, index + 1)
        rows.append(Row(row["List"]["items"], a.tokens[closing].start))
        index = closing + 1
    return rows


def generated_values(
    a: Analysis, node: Node, table: Table, targets: list[Column], rows: Listed
) -> dict[tuple[int, str], GeneratedKey]:
    """Make the primary key values that the statement leaves to the database, before the database would."""
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
                    f"the primary key {table.full_name}.{column.name} is left to the database "
                    f"({column.made_by_database or 'it has no default'}), and is needed to encrypt the row",
                    "give the primary key in the statement",
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


def _override(a: Analysis, node: Node) -> None:
    """Identity columns that are always the database's take a value only when told so."""
    override = node.get("override", "")
    if "OVERRIDING_USER" in override:
        raise StatementRefused("OVERRIDING USER VALUE hides the primary key", "leave it out")
    if "SYSTEM" not in override:
        words = ("VALUES", "SELECT")
        after = next(t for _, t in a.level(a.index(node["relation"]["location"])) if t.text in words)
        a.insert(after.start, b"OVERRIDING SYSTEM VALUE ")


def _extend(
    a: Analysis,
    node: Node,
    targets: list[Column],
    rows: Listed,
    added: list[tuple[Column, dict[tuple[int, str], GeneratedKey]]],
) -> None:
    """Add columns to the list of an INSERT, or write the list if there is none, and values to each row."""
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
