"""The statement under analysis: its text, its tokens, and its changes so far."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from openkcm.field_encryption.postgresql.catalog import Catalogue, Column
from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.parser import Node, Token, tokens
from openkcm.field_encryption.postgresql.plan import Constant, Parameter, Piece, Slot
from openkcm.field_encryption.postgresql.rewrite.scopes import Output, Scope

_TYPES = {
    "int": {"int2", "int4", "int8"},
    "text": {"text", "varchar"},
    "uuid": {"uuid"},
    "bytea": {"bytea"},
}
_OPEN, _CLOSE = {"(", "["}, {")", "]"}


class Analysis:
    """`select` and `write` rewrite a query and a modifying statement inside another one: a subquery, a CTE."""

    def __init__(
        self,
        catalogue: Catalogue,
        text: bytes,
        select: "Callable[[Analysis, Node, Scope, str], list[Output]]",
        write: "Callable[[Analysis, str, Node, Scope, str], list[Output]]",
    ) -> None:
        self.catalogue, self.text, self.select, self.write = catalogue, text, select, write
        self.tokens = tokens(text)
        self.hidden: set[str] = set()
        self._starts = [token.start for token in self.tokens]
        self._edits: list[tuple[int, int, tuple[Piece, ...]]] = []

    # Positions.

    def index(self, location: int) -> int:
        """Return the index of the token at a location, or of the next one."""
        return bisect_left(self._starts, location)

    def token(self, location: int) -> Token:
        return self.tokens[self.index(location)]

    def level(self, index: int) -> Iterator[tuple[int, Token]]:
        """Yield the tokens from an index on outside of further parentheses, with the token that ends the level."""
        depth = 0
        while index < len(self.tokens):
            token = self.tokens[index]
            if token.text in _CLOSE:
                depth -= 1
                if depth < 0:
                    yield index, token
                    return
            elif depth == 0:
                yield index, token
                if token.text == ";":
                    return
            if token.text in _OPEN:
                depth += 1
            index += 1

    def word_after(self, location: int, word: str) -> Token:
        """Return the next such keyword on the same level; raises StatementRefused."""
        before = ""
        for _, token in self.level(self.index(location)):
            if token.text == word and before != "DISTINCT":
                return token
            before = token.text
        raise unsupported_syntax()

    def end_of_level(self, location: int) -> int:
        """Return the end of the last token on this level."""
        for index, token in self.level(self.index(location)):
            if token.text in _CLOSE or token.text == ";":
                return self.tokens[index - 1].end
        return self.tokens[-1].end

    def reference_end(self, location: int) -> int:
        """Return the end of a column reference."""
        index = self.index(location)
        while index + 2 < len(self.tokens) and self.tokens[index + 1].text == ".":
            index += 2
        return self.tokens[index].end

    # Changes.

    def replace(self, start: int, end: int, *pieces: Piece) -> None:
        self._edits.append((start, end, pieces))

    def insert(self, at: int, *pieces: Piece) -> None:
        self.replace(at, at, *pieces)

    def hide(self) -> str:
        """Return a new name for a column that is hidden from the application."""
        name = f"okcm${len(self.hidden)}"
        self.hidden.add(name)
        return name

    def changed(self, slot: type[Slot]) -> bool:
        return any(isinstance(piece, slot) for _, _, pieces in self._edits for piece in pieces)

    def pieces(self) -> list[Piece]:
        """Return the text with all changes, and the unchanged parameters between them."""
        edits = list(self._edits)
        edited = sorted((start, end) for start, end, _ in edits if end > start)
        for token in self.tokens:
            inside = any(start <= token.start < end for start, end in edited)
            if token.text[0] == "$" and token.text[1:].isdigit() and not inside:
                edits.append((token.start, token.end, (Parameter(int(token.text[1:])),)))
        found: list[Piece] = []
        at = 0
        for start, end, pieces in sorted(edits, key=lambda edit: edit[:2]):
            if start < at:
                raise unsupported_syntax()
            found += [self.text[at:start], *pieces]
            at = end
        return [*found, self.text[at:]]

    # Operands.

    def operand(self, node: Node, column: Column) -> tuple[Parameter | Constant, Token] | None:
        """Return a parameter or literal and its token, None for any other expression."""
        cast = node.get("TypeCast")
        if cast is not None:
            return self.operand(cast["arg"], column) if _fits(cast["typeName"], column) else None
        if "ParamRef" in node:
            token = self.token(node["ParamRef"]["location"])
            return Parameter(node["ParamRef"]["number"]), token
        if "A_Const" in node:
            literal = _literal(node["A_Const"])
            return None if literal is None else (literal, self.token(node["A_Const"]["location"]))
        return None


def _fits(type_name: Mapping[str, Any], column: Column) -> bool:
    name = type_name["names"][-1]["String"]["sval"]
    plain = not type_name.get("typmods") and not type_name.get("arrayBounds") and not type_name.get("setof")
    return plain and name in _TYPES.get(column.kind, ())


def _literal(constant: Mapping[str, Any]) -> Constant | None:
    if constant.get("isnull"):
        return Constant(None)
    if "sval" in constant:
        return Constant(constant["sval"].get("sval", ""))
    if "ival" in constant:
        return Constant(constant["ival"].get("ival", 0))
    return None


def unsupported_syntax() -> StatementRefused:
    return StatementRefused("the syntax of the statement is not supported here", "simplify the statement")
