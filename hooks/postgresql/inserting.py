"""The rows of an INSERT in its text, and the primary keys that are made for those which bring none."""

from dataclasses import dataclass
from typing import NamedTuple

from hooks.postgresql.analysis import Analysis, not_understood
from hooks.postgresql.catalogue import Column, Table
from hooks.postgresql.errors import StatementRefused
from hooks.postgresql.parser import Node
from hooks.postgresql.plans import Made, Piece
from hooks.postgresql.scopes import path, quoted, reference

_ADDED = b"okcm$key"


class Row(NamedTuple):
    """One row of VALUES: the expression for each target column, and where its closing parenthesis is."""

    items: list[Node]
    end: int


@dataclass(frozen=True, slots=True)
class Listed:
    """`through` and `names_end` are set when the rows go through a query: where its list and its names end."""

    rows: list[Row]
    through: int | None = None
    names_end: int = 0


def listed(a: Analysis, node: Node, query: Node, written: set[int]) -> Listed | None:
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


def made(a: Analysis, node: Node, table: Table, targets: list[Column], rows: Listed) -> dict[tuple[int, str], Made]:
    """Make the primary key values that the statement leaves to the database, before the database would."""
    found: dict[tuple[int, str], Made] = {}
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
            found[number, column.name] = Made(table, column, number)
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
    added: list[tuple[Column, dict[tuple[int, str], Made]]],
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
