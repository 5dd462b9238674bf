"""What is done with one statement: its text in pieces, what is put between them, and how its rows are read."""

from dataclasses import dataclass

from openkcm.field_encryption.postgresql.catalog import Column, Table


@dataclass(frozen=True, slots=True)
class Parameter:
    """What the application passed as `$number`."""

    number: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal of the statement: text, an integer, or None for NULL."""

    value: str | int | None


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    """A primary key value that the hook takes from the sequence or makes, for the row of this number."""

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
    """What equals a value in a column that is asked for by equality; `many` is an array of values."""

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
    """A protected column of the result, and the names of the columns beside it that hold its row's primary key."""

    table: Table
    column: Column
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    pieces: tuple[Piece, ...]
    reads: tuple[DecryptedColumn, ...] = ()
    hidden: frozenset[str] = frozenset()
    """Names of result columns that the application did not ask for."""
    columns: tuple[Name, ...] = ()
    """All that are encrypted, decrypted or asked for."""
    declares: bool = False
    """It declares a cursor, whose rows come by another statement."""
    query: bytes = b""
    """The text with parameters; empty when values go into the text itself."""
    sources: tuple[Slot, ...] = ()
    made: tuple[GeneratedKey, ...] = ()
    passes: bool = False
    """The parameters are sent as they came: only what is read is protected."""


def finished(
    pieces: list[Piece], reads: tuple[DecryptedColumn, ...], hidden: frozenset[str], *, declares: bool, parameters: bool
) -> Plan:
    """Return the plan; with `parameters` every slot is one, else it is written into the text."""
    slots = [piece for piece in pieces if not isinstance(piece, bytes)]
    made = tuple(dict.fromkeys(slot for slot in slots if isinstance(slot, GeneratedKey)))
    touched = [
        (slot.table, slot.column) for slot in slots if isinstance(slot, EncryptedParameter | EqualityTagParameter)
    ]
    touched += [(read.table, read.column) for read in reads]
    columns = tuple(dict.fromkeys((table.schema, table.name, column.name) for table, column in touched))
    query, sources = b"", tuple(dict.fromkeys(slots))
    if parameters or not slots:
        # Two appearances of one sealed value are two ciphertexts; of one parameter, the same parameter.
        numbers: dict[Slot, int] = {slot: number for number, slot in enumerate(sources, 1)}
        query = b"".join(p if isinstance(p, bytes) else b"$%d" % numbers[p] + _cast(p) for p in pieces)
    passes = bool(query) and sources == tuple(Parameter(number) for number in range(1, len(sources) + 1))
    return Plan(tuple(pieces), reads, hidden, columns, declares, query, sources, made, passes)


def _cast(slot: Slot) -> bytes:
    return b"" if not isinstance(slot, GeneratedKey) else MADE_TYPES[slot.column.kind]


MADE_TYPES = {"int": b"::bigint", "uuid": b"::uuid"}
