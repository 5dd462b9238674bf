"""The plan of one statement: its text in pieces, the values between them, and the protected columns of its result."""

from dataclasses import dataclass

from openkcm.field_encryption.postgresql.catalog import Column, Table


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that the application passed as `$number`."""

    number: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal of the statement: text, an integer, or None for NULL."""

    value: str | int | None


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    """A primary key value taken from the sequence or generated, for the row of this number."""

    table: Table
    column: Column
    row: int


Operand = Parameter | Constant | GeneratedKey


@dataclass(frozen=True, slots=True)
class EncryptedParameter:
    """A value encrypted for its column and the row with this key."""

    table: Table
    column: Column
    value: Parameter | Constant
    key: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class EqualityTagParameter:
    """The tag of a value for an equality comparison; `many` is an array of values."""

    table: Table
    column: Column
    value: Parameter | Constant
    many: bool = False


Name = tuple[str, str, str]
"""Schema, table and column."""
Slot = Parameter | GeneratedKey | EncryptedParameter | EqualityTagParameter
Piece = bytes | Slot


@dataclass(frozen=True, slots=True)
class DecryptedColumn:
    """A protected column of the result, and the names of the result columns with its row's primary key."""

    table: Table
    column: Column
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    pieces: tuple[Piece, ...]
    reads: tuple[DecryptedColumn, ...] = ()
    hidden: frozenset[str] = frozenset()
    """Names of result columns that were added for decryption."""
    columns: tuple[Name, ...] = ()
    """All columns that are encrypted, decrypted or compared."""
    declares: bool = False
    """The statement declares a cursor, whose rows arrive with another statement."""
    query: bytes = b""
    """The text with parameters; empty when values are written into the text."""
    sources: tuple[Slot, ...] = ()
    made: tuple[GeneratedKey, ...] = ()
    passes: bool = False
    """The parameters are sent unchanged: only the result is protected."""


def make_plan(
    pieces: list[Piece], reads: tuple[DecryptedColumn, ...], hidden: frozenset[str], *, declares: bool, parameters: bool
) -> Plan:
    """Return the plan; with `parameters` every slot becomes a parameter, otherwise a literal."""
    slots = [piece for piece in pieces if not isinstance(piece, bytes)]
    made = tuple(dict.fromkeys(slot for slot in slots if isinstance(slot, GeneratedKey)))
    used = [(slot.table, slot.column) for slot in slots if isinstance(slot, EncryptedParameter | EqualityTagParameter)]
    used += [(read.table, read.column) for read in reads]
    columns = tuple(dict.fromkeys((table.schema, table.name, column.name) for table, column in used))
    query, sources = b"", tuple(dict.fromkeys(slots))
    if parameters or not slots:
        # The same encrypted value in two positions is encrypted twice; the same parameter is sent once.
        numbers: dict[Slot, int] = {slot: number for number, slot in enumerate(sources, 1)}
        query = b"".join(p if isinstance(p, bytes) else b"$%d" % numbers[p] + _cast(p) for p in pieces)
    passes = bool(query) and sources == tuple(Parameter(number) for number in range(1, len(sources) + 1))
    return Plan(tuple(pieces), reads, hidden, columns, declares, query, sources, made, passes)


def _cast(slot: Slot) -> bytes:
    return b"" if not isinstance(slot, GeneratedKey) else MADE_TYPES[slot.column.kind]


MADE_TYPES = {"int": b"::bigint", "uuid": b"::uuid"}
