"""Analysis of expressions: protected columns support tests for NULL, counts, and equality if deterministic.

All other computations on ciphertext are rejected.
"""

from collections.abc import Mapping
from typing import Any

from openkcm.contract.protected_fields import Mode
from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.parser import Node
from openkcm.field_encryption.postgresql.plan import Constant, EqualityTagParameter, Parameter
from openkcm.field_encryption.postgresql.rewrite.analysis import Analysis
from openkcm.field_encryption.postgresql.rewrite.scopes import (
    IGNORED,
    REFUSED,
    Field,
    Scope,
    covered,
    find,
    path,
    reference,
    refusal,
    whole_row,
)
from openkcm.field_encryption.value_format import TAG_BYTES, TAG_TEXT

_EQUALITY = {"AEXPR_OP": {"=", "<>"}, "AEXPR_IN": {"=", "<>"}, "AEXPR_OP_ANY": {"="}, "AEXPR_OP_ALL": {"<>"}}
_DISTINCT = {"AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"}


def check(a: Analysis, node: Any, scope: Scope) -> None:
    """Check an expression; raises StatementRefused for a computation on ciphertext."""
    if isinstance(node, list):
        for one in node:
            check(a, one, scope)
        return
    if not isinstance(node, dict):
        return
    for kind, inner in node.items():
        handler = _HANDLERS.get(kind)
        if handler is None:
            check(a, inner, scope)
        else:
            handler(a, inner, scope)


def _reference(_: Analysis, ref: Node, scope: Scope) -> None:
    if path(ref)[1]:
        for source in covered(ref, scope):
            if source.fields:
                raise whole_row(source)
    elif (found := find(ref, scope)) is not None:
        raise refusal(found[1].column, found[1].table, "compute with")


def _null_test(a: Analysis, test: Node, scope: Scope) -> None:
    ref = reference(test["arg"])
    if ref is None or path(ref)[1] or find(ref, scope) is None:
        check(a, test, scope)


def _function(a: Analysis, call: Node, scope: Scope) -> None:
    """Allow `count(column)`, which counts values that are not NULL, also of ciphertext."""
    arguments = call.get("args", [])
    counts = call["funcname"][-1]["String"]["sval"] == "count" and not call.get("agg_distinct")
    if counts and len(arguments) == 1 and (ref := reference(arguments[0])) is not None and not path(ref)[1]:
        find(ref, scope)
        arguments = []
    check(a, [arguments, *(inner for name, inner in call.items() if name != "args")], scope)


def _query(a: Analysis, link: Node, scope: Scope) -> None:
    use = IGNORED if link["subLinkType"] == "EXISTS_SUBLINK" else REFUSED
    check(a, link.get("testexpr"), scope)
    a.select(a, link["subselect"]["SelectStmt"], scope, use)


def _select(a: Analysis, node: Node, scope: Scope) -> None:
    a.select(a, node, scope, REFUSED)


def _comparison(a: Analysis, expression: Node, scope: Scope) -> None:
    kind, left, right = expression["kind"], expression.get("lexpr"), expression.get("rexpr")
    operator = expression["name"][-1]["String"]["sval"] if expression.get("name") else ""
    supported = operator in _EQUALITY.get(kind, ()) or kind in _DISTINCT
    for one, other in ((left, right), (right, left)):
        ref = reference(one)
        found = None if ref is None or path(ref)[1] else find(ref, scope)
        if found is None or ref is None:
            continue
        if found[1].column.mode is not Mode.DETERMINISTIC:
            raise refusal(found[1].column, found[1].table, "compare")
        if not supported or (one is right and kind not in {"AEXPR_OP", *_DISTINCT}):
            raise refusal(found[1].column, found[1].table, f"use {operator or 'this operator'} on")
        if one is right and found[1].column.plaintext_allowed:
            raise StatementRefused("the column is on the right of the comparison", "write the column first")
        _equality(a, ref, found[1], kind, operator, other)
        return
    check(a, [left, right], scope)


def _equality(  # noqa: PLR0913, PLR0917 - the parts of a comparison
    a: Analysis, ref: Mapping[str, Any], found: Field, kind: str, operator: str, other: Any
) -> None:
    """Replace a comparison of values by a comparison of tags: the prefixes of stored and expected value."""
    table, column = found.table, found.column
    start = ref["location"]
    end = a.reference_end(start)
    name = a.text[start:end]
    prefix = (
        b"left(" + name + b", %d)" % TAG_TEXT if column.kind == "text" else b"substr(%b, 1, %d)" % (name, TAG_BYTES)
    )
    operands = _operands(a, other, kind)
    supported = []
    for node in operands:
        value = a.operand(node, column)
        if value is None and kind in {"AEXPR_OP_ANY", "AEXPR_OP_ALL"}:
            value = _array(a, node)
        if value is None:
            raise StatementRefused(
                f"{table.full_name}.{column.name} can be compared with parameters and literals only",
                "pass the value as a parameter",
            )
        supported.append(value)
    if column.plaintext_allowed and (kind, operator) != ("AEXPR_OP", "="):
        raise StatementRefused(
            f"while {table.full_name}.{column.name} may contain plain values, it supports only =",
            "compare with one value at a time, or wait until all rows are encrypted",
        )
    many = kind in {"AEXPR_OP_ANY", "AEXPR_OP_ALL"} and "A_ArrayExpr" not in other
    a.replace(start, end, b"(" + prefix if column.plaintext_allowed else prefix)
    for operand, token in supported:
        tagged = EqualityTagParameter(table, column, operand, many)
        if column.plaintext_allowed:
            _either(a, name, operand, token.start, tagged)
        else:
            a.replace(token.start, token.end, tagged)


def _either(a: Analysis, name: bytes, value: Parameter | Constant, start: int, tagged: EqualityTagParameter) -> None:
    """Match earlier plain rows as well: `(tag = … OR column = value)`."""
    index = a.index(start)
    token = a.tokens[index]
    end = token.end
    if index + 2 < len(a.tokens) and a.tokens[index + 1].text == "::":
        end = a.tokens[index + 2].end
    plain = value if isinstance(value, Parameter) else a.text[token.start : token.end]
    a.replace(token.start, end, tagged, b" OR ", name, b" = ", plain, a.text[token.end : end] + b")")


def _operands(_: Analysis, other: Any, kind: str) -> list[Node]:
    if kind == "AEXPR_IN":
        return list(other["List"]["items"])
    if kind in {"AEXPR_OP_ANY", "AEXPR_OP_ALL"} and isinstance(other, dict) and "A_ArrayExpr" in other:
        return list(other["A_ArrayExpr"].get("elements", ()))
    return [other]


def _array(a: Analysis, node: Node) -> Any:
    """Return the parameter of an array, with or without a cast to text[]."""
    cast = node.get("TypeCast")
    if cast is not None and cast["typeName"].get("arrayBounds"):
        node = cast["arg"]
    if "ParamRef" in node:
        return Parameter(node["ParamRef"]["number"]), a.token(node["ParamRef"]["location"])
    return None


_HANDLERS = {
    "ColumnRef": _reference,
    "NullTest": _null_test,
    "FuncCall": _function,
    "SubLink": _query,
    "SelectStmt": _select,
    "A_Expr": _comparison,
}
