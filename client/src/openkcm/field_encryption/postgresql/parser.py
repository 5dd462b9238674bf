"""PostgreSQL's own parser (libpg_query), so that a statement is understood exactly as the server does.

Only the library file of the `postgast` wheel is used, through ctypes: its trees are JSON, so neither the package's
Python code nor protobuf is loaded into the application. Positions are bytes of the UTF-8 text.
"""

import ctypes
import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

Node = dict[str, Any]


class NotParsed(Exception):
    """The text is not a valid statement for this parser."""


class Token(NamedTuple):
    start: int
    end: int
    text: str
    """As written, but keywords in capitals; a quoted name keeps its quotes and is no keyword."""


class _Error(ctypes.Structure):
    _fields_ = (("message", ctypes.c_char_p),)


class _Tree(ctypes.Structure):
    _fields_ = (("tree", ctypes.c_char_p), ("stderr", ctypes.c_char_p), ("error", ctypes.POINTER(_Error)))


class _Tokens(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("stderr", ctypes.c_char_p),
        ("error", ctypes.POINTER(_Error)),
    )


@cache
def _library() -> ctypes.CDLL:
    """Load the library; raises ImportError when the wheel is not installed."""
    found = find_spec("postgast")
    if found is None or found.origin is None:
        raise ImportError("the package postgast is missing", name="postgast")
    files = sorted(Path(found.origin).parent.glob("libpg_query.*"))
    if not files:
        raise ImportError("libpg_query is missing in the package postgast", name="postgast")
    library = ctypes.CDLL(str(files[0]))
    library.pg_query_parse.argtypes = library.pg_query_scan.argtypes = [ctypes.c_char_p]
    library.pg_query_parse.restype, library.pg_query_free_parse_result.argtypes = _Tree, [_Tree]
    library.pg_query_scan.restype, library.pg_query_free_scan_result.argtypes = _Tokens, [_Tokens]
    return library


def load() -> None:
    """Verify that the parser is installed and works; raises ImportError, OSError or NotParsed."""
    parse(b"SELECT 1")


def parse(text: bytes) -> list[Node]:
    """Return the statements of a text, each `{"SelectStmt": {...}}` or the like; raises NotParsed."""
    if b"\0" in text:
        raise NotParsed("the statement contains a zero byte")
    library = _library()
    result = library.pg_query_parse(text)
    try:
        if result.error:
            raise NotParsed(result.error.contents.message.decode("utf-8", "replace"))
        document = json.loads(result.tree)
    finally:
        library.pg_query_free_parse_result(result)
    return [statement["stmt"] for statement in document["stmts"] if "stmt" in statement]


def tokens(text: bytes) -> list[Token]:
    """Return the tokens of a text without its comments; raises NotParsed."""
    library = _library()
    result = library.pg_query_scan(text)
    try:
        if result.error:
            raise NotParsed(result.error.contents.message.decode("utf-8", "replace"))
        encoded = ctypes.string_at(result.data, result.size)
    finally:
        library.pg_query_free_scan_result(result)
    found = []
    for start, end in _spans(encoded):
        word = text[start:end].decode("utf-8")
        if not word.startswith(("--", "/*")):
            found.append(Token(start, end, word.upper() if word[:1].isalpha() else word))
    return found


def _spans(encoded: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of each token from libpg_query's protobuf: field 2 is a token with the fields 1 and 2."""
    for field, token in _fields(encoded):
        if field == 2 and isinstance(token, bytes):
            numbers = {name: value for name, value in _fields(token) if isinstance(value, int)}
            yield numbers.get(1, 0), numbers.get(2, 0)


def _fields(encoded: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(encoded):
        head, at = _varint(encoded, at)
        value, at = _varint(encoded, at)
        if head & 7 == 2:
            yield head >> 3, encoded[at : at + value]
            at += value
        elif head & 7 == 0:
            yield head >> 3, value
        else:
            raise NotParsed("the scanner returned an unknown field")


def _varint(encoded: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = encoded[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
