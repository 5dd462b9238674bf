"""Parts of a rendered report: sections with blocks of plain text. The templates define their design."""

from dataclasses import dataclass
from typing import Literal

Tone = Literal["plain", "good", "warn", "none"]
"""Status of a value: in order, attention, or missing. A word always states it too, not only the colour."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value: `note` is shown smaller below it, `code` marks a name or a hash.

    A `digest` is never wrapped, so that a reader can copy it unchanged; only a wide cell may contain one.
    """

    text: str
    note: str = ""
    tone: Tone = "plain"
    code: bool = False
    digest: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `share` is its part of the width, numbers are aligned to the right."""

    title: str
    share: float
    number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `caption` names the rows, `more` states how many are omitted, `empty` replaces a table without rows."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str
    more: str = ""
    block: Literal["table"] = "table"


@dataclass(frozen=True, slots=True)
class KeyValueTable:
    """Names and their values."""

    rows: tuple[tuple[str, Cell], ...]
    block: Literal["facts"] = "facts"


@dataclass(frozen=True, slots=True)
class Figure:
    """One key figure with its label below."""

    value: str
    label: str
    note: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Figures:
    items: tuple[Figure, ...]
    block: Literal["figures"] = "figures"


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    block: Literal["words"] = "words"


@dataclass(frozen=True, slots=True)
class BulletList:
    items: tuple[str, ...]
    block: Literal["points"] = "points"


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command."""

    text: str
    block: Literal["command"] = "command"


Block = Table | KeyValueTable | Figures | Paragraph | BulletList | Command


@dataclass(frozen=True, slots=True)
class Subsection:
    """A part of a section with a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A section; `lead` states what the section shows and its sources."""

    id: str
    title: str
    lead: str
    blocks: tuple[Block, ...] = ()
    parts: tuple[Subsection, ...] = ()


@dataclass(frozen=True, slots=True)
class Cover:
    title: str
    organization: str
    period: str
    verdict: Cell
    facts: KeyValueTable
    verify: tuple[Block, ...]
    disclaimer: str


@dataclass(frozen=True, slots=True)
class Document:
    """A complete report as text. `running` is the page header, `attached` the file name of the signed document."""

    title: str
    running: str
    report_id: str
    attached: str
    cover: Cover
    sections: tuple[Section, ...]
