"""Recognition of statements that may change which columns are protected, and of scripts that also store values."""

import re
from collections.abc import Sequence

from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.parser import Node, NotParsed, parse

_WORDS = re.compile(
    rb"\b(?:create|alter|drop|comment|truncate|call|import|prepared|do(?!\s+(?:update|nothing)\b)"
    rb"|(?<!insert )(?<!merge )into)\b",
    re.IGNORECASE,
)
"""A word of each statement that changes the structure; any other statement may contain one too."""
_SETVAL = re.compile(rb"\bsetval\b", re.IGNORECASE)
_NO_CHANGES = frozenset({
    "SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CopyStmt", "DeclareCursorStmt", "FetchStmt",
    "ClosePortalStmt", "PrepareStmt", "ExecuteStmt", "DeallocateStmt", "VariableSetStmt", "VariableShowStmt",
    "TransactionStmt", "LockStmt", "ListenStmt", "UnlistenStmt", "NotifyStmt", "ConstraintsSetStmt", "IndexStmt",
    "VacuumStmt", "GrantStmt",
})  # fmt: skip
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
