"""Checks of statements that change the structure: which columns are protected, and whether their values survive."""

import re
from collections.abc import Sequence
from contextlib import suppress

from openkcm.field_encryption.postgresql.catalog import Catalogue, Table
from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.parser import Node, NotParsed, parse

_WORDS = re.compile(
    rb"\b(?:create|alter|drop|comment|truncate|call|import|prepared|do(?!\s+(?:update|nothing)\b)"
    rb"|(?<!insert )(?<!merge )into)\b",
    re.IGNORECASE,
)
"""A word of each statement that changes the structure; any other statement may contain one too."""
_SETVAL = re.compile(rb"\bsetval\b", re.IGNORECASE)
_SCHEMA = re.compile(rb"\bschema\b", re.IGNORECASE)
_NO_CHANGES = frozenset({
    "SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CopyStmt", "DeclareCursorStmt", "FetchStmt",
    "ClosePortalStmt", "PrepareStmt", "ExecuteStmt", "DeallocateStmt", "VariableSetStmt", "VariableShowStmt",
    "TransactionStmt", "LockStmt", "ListenStmt", "UnlistenStmt", "NotifyStmt", "ConstraintsSetStmt", "IndexStmt",
    "VacuumStmt", "GrantStmt",
})  # fmt: skip
_TYPES = {
    "int2": "int", "int4": "int", "int8": "int", "text": "text", "varchar": "text", "uuid": "uuid", "bytea": "bytea",
}  # fmt: skip
"""The kinds of the types that a primary key may have, by the parser's name of the type."""
_STORES = frozenset({"InsertStmt", "UpdateStmt", "MergeStmt"})


def changes_structure(text: bytes) -> bool:
    """Return whether a text may change tables, columns, comments or sequences; the parser decides, not its words."""
    if _SETVAL.search(text):
        return True
    if not _WORDS.search(text):
        return False
    try:
        return any(_changes(statement) for statement in parse(text))
    except NotParsed:
        return True


def _changes(statement: Node) -> bool:
    ((kind, node),) = statement.items()
    if kind == "ExplainStmt":
        return _changes(node["query"])
    while "larg" in node:  # SELECT INTO is in the first part of a UNION
        node = node["larg"]
    created = node.get("relation") if kind == "CreateStmt" else node.get("into", {}).get("rel")
    if created and created["relpersistence"] == "t":
        # Without a copied comment, a temporary table is not protected; many programs create one in a transaction.
        return any("TableLikeClause" in one for one in node.get("tableElts", ())) or "inhRelations" in node
    return kind not in _NO_CHANGES or "intoClause" in node or str(node.get("kind", "")).endswith("_PREPARED")


def check_script(statements: Sequence[Node]) -> None:
    """Reject a script that stores values after a change: the protection after the change is not known before it."""
    changed = False
    for statement in statements:
        if changed and not _changes(statement) and _stores(statement):
            raise StatementRefused(
                "a script that changes tables or comments and then stores values is not supported",
                "send its statements one by one",
            )
        changed = changed or _changes(statement)


def _stores(node: object) -> bool:
    if isinstance(node, list):
        return any(_stores(one) for one in node)
    if not isinstance(node, dict):
        return False
    return bool(node.get("is_from")) or any(kind in _STORES or _stores(inner) for kind, inner in node.items())


def check_change(catalogue: Catalogue, kind: str, node: Node) -> None:
    """Reject a change after which the encrypted values of a table could not be decrypted.

    Each value is bound to its schema, table, column and primary key. A table with a new name would also leave the list
    of protected columns, so that later values would be stored plain.
    """
    relation = node.get("relation") or {}
    schema, name = relation.get("schemaname", ""), relation.get("relname", "")
    renamed = node["subname"] if kind == "RenameStmt" and node.get("renameType") == "OBJECT_SCHEMA" else None
    for table in catalogue.tables.values():
        if table.protected and (table.schema == renamed or (table.name == name and schema in {"", table.schema})):
            changed = _lost_by_name(table, kind, node) or _lost_by_type(table, kind, node)
            if changed:
                raise StatementRefused(
                    f"the encrypted values of {table.full_name} could not be decrypted after this change of {changed}",
                    "decrypt them with `openkcm backfill --undo`, end the protection of the columns, make the change, "
                    "and protect the columns again",
                )


def check_schemas(catalogue: Catalogue, text: bytes) -> None:
    """Reject a rename of the schema of a protected table, which the text need not name. Raises StatementRefused."""
    if not catalogue.tables or not _SCHEMA.search(text):
        return
    with suppress(NotParsed):  # the server decides about it
        for statement in parse(text):
            ((kind, node),) = statement.items()
            check_change(catalogue, kind, node)


def _lost_by_name(table: Table, kind: str, node: Node) -> str:
    if kind == "AlterObjectSchemaStmt" and node.get("objectType") == "OBJECT_TABLE":
        return "its schema"
    if kind != "RenameStmt":
        return ""
    if node.get("renameType") == "OBJECT_SCHEMA":
        return "the name of its schema"
    if "subname" not in node:  # the relation itself; PostgreSQL renames a table by ALTER INDEX too
        return "its name"
    column = node.get("subname", "") if node.get("renameType") == "OBJECT_COLUMN" else ""
    return f"the name of {column}" if column in table.protected else ""


def _lost_by_type(table: Table, kind: str, node: Node) -> str:
    """Return the column whose stored values an ALTER TABLE computes again, or whose type in the key it changes."""
    if kind != "AlterTableStmt":
        return ""
    kinds = {column.name: column.kind for column in table.key}
    for command in (one["AlterTableCmd"] for one in node["cmds"]):
        column = command.get("name", "")
        if command.get("subtype") != "AT_AlterColumnType" or column not in {*table.protected, *kinds}:
            continue
        definition = command["def"]["ColumnDef"]
        if "raw_default" in definition:  # USING
            return f"the type of {column}"
        names = definition["typeName"]["names"]
        if column in kinds and _TYPES.get(names[-1]["String"]["sval"]) != kinds[column]:
            return f"the type of {column}"
    return ""
