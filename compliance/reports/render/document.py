"""What a rendered report is made of: sections of blocks, in plain text. How they look is the templates' business."""

from dataclasses import dataclass
from typing import Literal

Tone = Literal["plain", "good", "warn", "none"]
"""How a value stands: in order, to be looked at, or not there. Always beside a word, never by colour alone."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value: `note` is smaller and beneath it, `code` says that it is a name or a hash and not a sentence.

    A `digest` is never broken, so that whoever copies it has it as it is; only what is wide enough may hold one.
    """

    text: str
    note: str = ""
    tone: Tone = "plain"
    code: bool = False
    digest: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """`share` is its part of the width; a column of numbers is set to the right."""

    title: str
    share: float
    number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """`caption` says what the rows are; `more` that there are more than these; `empty` what would be here."""

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
    """One number to be seen first, with what it counts beneath."""

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
    """What is typed on a command line."""

    text: str
    block: Literal["command"] = "command"


Block = Table | KeyValueTable | Figures | Paragraph | BulletList | Command


@dataclass(frozen=True, slots=True)
class Subsection:
    """A part of a section, with a heading of its own."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """`lead` says what the section shows and what it rests on."""

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
    """A whole report in words. `running` stands on top of each page, `attached` is the name of the signed document."""

    title: str
    running: str
    report_id: str
    attached: str
    cover: Cover
    sections: tuple[Section, ...]
