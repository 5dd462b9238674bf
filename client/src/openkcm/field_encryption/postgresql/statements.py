"""Cache of statements: each text is parsed, analysed and prepared once."""

from collections import OrderedDict
from enum import Enum

from openkcm.field_encryption.key_cache import ColumnKeys
from openkcm.field_encryption.postgresql.catalog import Catalogue, Column, Table
from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.execute.prepared import PreparedRewrite
from openkcm.field_encryption.postgresql.execute.rows import ColumnDecryptor
from openkcm.field_encryption.postgresql.parser import Node, NotParsed, parse
from openkcm.field_encryption.postgresql.plan import EncryptedParameter, Plan, make_plan
from openkcm.field_encryption.postgresql.rewrite import dml as writing
from openkcm.field_encryption.postgresql.rewrite import select as reading
from openkcm.field_encryption.postgresql.rewrite.analysis import Analysis
from openkcm.field_encryption.postgresql.rewrite.scopes import EXPORTED, IGNORED, REFUSED, Output, Scope, table_of
from openkcm.field_encryption.postgresql.structure import changes_structure, check_change, check_schemas, check_script
from openkcm.field_encryption.usage import UsageReporter

# Statements that neither store values nor return them: structure, maintenance, sessions.
_UNRESTRICTED = frozenset({
    "AlterTableStmt", "AlterOwnerStmt", "AlterObjectSchemaStmt", "AlterSeqStmt", "AlterPolicyStmt", "AlterEnumStmt",
    "AlterDefaultPrivilegesStmt", "AlterObjectDependsStmt", "AlterPublicationStmt", "AlterRoleStmt", "AlterRoleSetStmt",
    "AlterDatabaseStmt", "AlterDatabaseSetStmt", "AlterExtensionStmt", "AlterStatsStmt", "AlterTypeStmt",
    "AlterDomainStmt", "ClusterStmt", "CommentStmt", "CreateEnumStmt", "CreateExtensionStmt", "CreateFunctionStmt",
    "CreatePolicyStmt", "CreatePublicationStmt", "CreateRoleStmt", "CreateSchemaStmt", "CreateSeqStmt",
    "CreateStatsStmt", "CreateStmt", "CreateTrigStmt", "CompositeTypeStmt", "CreateDomainStmt", "CreatedbStmt",
    "DropStmt", "DropOwnedStmt", "DropRoleStmt", "DropdbStmt", "GrantStmt", "GrantRoleStmt", "IndexStmt", "LockStmt",
    "ReassignOwnedStmt", "ReindexStmt", "RenameStmt", "SecLabelStmt", "TruncateStmt", "VacuumStmt", "ViewStmt",
    "TransactionStmt", "VariableSetStmt", "VariableShowStmt", "ListenStmt", "UnlistenStmt", "NotifyStmt",
    "DeallocateStmt", "DiscardStmt", "CheckPointStmt", "ConstraintsSetStmt", "ClosePortalStmt", "CallStmt",
    "CreateForeignTableStmt", "CreateTableSpaceStmt", "CreateConversionStmt", "CreateSubscriptionStmt",
    "RefreshMatViewStmt", "RuleStmt",
})  # fmt: skip
_WRITES = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_MAX_STATEMENTS = 2000
_MAX_LENGTH = 1 << 16


class Unprepared(Enum):
    STRUCTURE_CHANGE = "structure change"
    """The statement uses nothing protected, but may change what is."""


class RewriteCache:
    """Prepared statements of one catalogue; thread-safe, since preparing a statement twice does no harm."""

    def __init__(self, catalogue: Catalogue, keys: ColumnKeys, uses: UsageReporter) -> None:
        self.catalogue = catalogue
        self._keys, self._uses = keys, uses
        self._cache: OrderedDict[bytes, PreparedRewrite | Unprepared | None] = OrderedDict()
        self._decryptors: dict[tuple[int, int], ColumnDecryptor] = {}

    def of(self, query: bytes) -> PreparedRewrite | Unprepared | None:
        """Return the prepared rewrite of a statement, None if it uses nothing protected.

        Raises: StatementRefused, ProtectionUnusable.
        """
        try:
            return self._cache[query]
        except KeyError:
            pass
        mentions = self.catalogue.mentions
        plan = None if mentions is None or mentions.search(query) is None else make(self.catalogue, query)
        work: PreparedRewrite | Unprepared | None = None
        if plan is not None:
            work = PreparedRewrite(plan, self._keys, self._decryptor, self._uses)
        elif changes_structure(query):
            check_schemas(self.catalogue, query)
            work = Unprepared.STRUCTURE_CHANGE
        if len(query) <= _MAX_LENGTH:
            self._cache[query] = work
            while len(self._cache) > _MAX_STATEMENTS:
                self._cache.popitem(last=False)
        return work

    def _decryptor(self, table: Table, column: Column) -> ColumnDecryptor:
        """Return the decryptor of a column, which all statements share."""
        found = self._decryptors.get((table.oid, column.number))
        if found is None:
            found = self._decryptors.setdefault((table.oid, column.number), ColumnDecryptor(self._keys, table, column))
        return found


def make(catalogue: Catalogue, query: bytes) -> Plan | None:
    """Return the plan of a statement whose text contains a protected name, None if it needs no change."""
    try:
        statements = parse(query)
    except NotParsed as failed:
        raise StatementRefused(f"the statement could not be parsed: {failed}", "correct it") from None
    check_script(statements)
    analyses = [_analyse(catalogue, query, one) for one in statements]
    plans = [plan for plan in analyses if plan is not None]
    if not plans:
        return None
    if len(statements) > 1:
        raise StatementRefused(
            "several statements at once, one of them on protected columns, are not supported", "send them one by one"
        )
    return plans[0]


def _analyse(catalogue: Catalogue, query: bytes, statement: Node) -> Plan | None:
    ((kind, node),) = statement.items()
    if kind in _UNRESTRICTED:
        check_change(catalogue, kind, node)
        return None
    a = Analysis(catalogue, query, reading.select, writing.write)
    outputs = _analyse_node(a, kind, node)
    pieces = a.pieces()
    parameters = any(token.text[0] == "$" and token.text[1:].isdigit() for token in a.tokens)
    plan = make_plan(
        pieces,
        tuple(one.read() for one in outputs),
        frozenset(a.hidden),
        declares=kind == "DeclareCursorStmt",
        parameters=parameters,
    )
    return plan if plan.columns or plan.made or plan.hidden else None


def _analyse_node(a: Analysis, kind: str, node: Node) -> list[Output]:
    scope = Scope()
    if kind == "SelectStmt":
        return reading.select(a, node, scope, EXPORTED)
    if kind in _WRITES:
        return writing.write(a, kind, node, scope, EXPORTED)
    if kind == "DeclareCursorStmt":
        return reading.select(a, node["query"]["SelectStmt"], scope, EXPORTED)
    if kind == "ExplainStmt":
        ((inner, query),) = node["query"].items()
        if inner == "SelectStmt":
            reading.select(a, query, scope, EXPORTED)
        else:
            writing.write(a, inner, query, scope, IGNORED)
        if a.changed(EncryptedParameter):
            raise StatementRefused("EXPLAIN of a statement that encrypts would be misleading", "explain a query")
        return []
    if kind in {"CopyStmt", "DoStmt"}:
        check = _copy if kind == "CopyStmt" else _block
        check(a, node, scope)
        return []
    # An unknown statement is allowed if it names no protected table and computes with no protected column.
    _no_table(a, node)
    return []


def _copy(a: Analysis, node: Node, scope: Scope) -> None:
    if "query" in node:
        ((kind, query),) = node["query"].items()
        if kind == "SelectStmt":
            reading.select(a, query, scope, REFUSED)
        else:
            writing.write(a, kind, query, scope, REFUSED)
        return
    table = table_of(node["relation"], a.catalogue)
    named = {one["String"]["sval"] for one in node.get("attlist", ())}
    touched = [name for name in (table.protected if table is not None else ()) if not named or name in named]
    if table is not None and touched:
        doing = (
            ("would store plain values in", "use INSERT with executemany")
            if node.get("is_from")
            else ("would return ciphertext of", "use SELECT")
        )
        raise StatementRefused(f"COPY {doing[0]} {table.full_name}.{touched[0]}", doing[1])


def _block(a: Analysis, node: Node, _: Scope) -> None:
    """Check an anonymous code block, whose code cannot be analysed: it may store values, with text it composes."""
    codes = [one["DefElem"]["arg"]["String"]["sval"] for one in node["args"] if one["DefElem"]["defname"] == "as"]
    for code in codes:
        found = a.catalogue.mentions and a.catalogue.mentions.search(code.encode("utf-8"))
        if found:
            raise StatementRefused(
                f"DO could store plain values: its code contains {found[0].decode('utf-8', 'replace')}",
                "send the statements of its code one by one; run a block that stores no value with psql",
            )


def _no_table(a: Analysis, node: object) -> None:
    if isinstance(node, list):
        for one in node:
            _no_table(a, one)
    elif isinstance(node, dict):
        for kind, inner in node.items():
            if kind in {"RangeVar", "relation", "rel"} and isinstance(inner, dict) and "relname" in inner:
                table = table_of(inner, a.catalogue)
                if table is not None and table.protected:
                    raise StatementRefused(f"the statement is not supported on {table.full_name}", "use SELECT")
            if kind == "ColumnRef":
                continue
            _no_table(a, inner)
