"""An audit stream, or what was chosen from it, as JSON Lines: one file that its reader can check without us.

The first line is the header: whose stream, what was chosen, where the stream ended and its newest signed head. Then one
line for each record with its number, its chain hash and exactly the text that was hashed. The last line says how many
there were, so that a download that broke off is not taken for a stream that ends there.

The records of a whole stream go through `tenancy.audit.verify_chain`. Those of a selection are not neighbours: each can
be held against the same number in a whole export, and says so in its header.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tenancy.audit import StoredRecord
from tenancy.errors import AuditBroken


class SignedPlace(BaseModel):
    """A signature over `tenancy.audit.head_message`; base64 of the DER form, by `key` (`name:version`)."""

    model_config = ConfigDict(frozen=True)

    seq: int
    chain_hash: str = Field(pattern="^[0-9a-f]{64}$")
    signature: str
    key: str


class ExportHeader(BaseModel):
    """What a file says about itself. `selection` is empty for a whole stream, else what was asked for, in words."""

    model_config = ConfigDict(frozen=True)

    format: Literal["openkcm-audit/1"] = "openkcm-audit/1"
    tenant_id: str
    exported_at: datetime
    last_seq: int = Field(ge=0, description="the number of the stream's last record when the export began")
    selection: dict[str, str] = Field(default_factory=dict)
    signed_head: SignedPlace | None = None


def header_line(header: ExportHeader) -> str:
    return f"{header.model_dump_json()}\n"


def record_line(stored: StoredRecord) -> str:
    line = {"seq": stored.seq, "chain_hash": stored.chain_hash.hex(), "record": stored.record}
    return f"{json.dumps(line, ensure_ascii=False)}\n"


def end_line(records: int) -> str:
    return f"{json.dumps({'records': records})}\n"


def read_export(lines: Iterable[str]) -> tuple[ExportHeader, Iterator[StoredRecord]]:
    """Return the header and the records as they are read; the file's end is checked when the last one was.

    Raises:
        AuditBroken: now for the header, later for a line that is none of ours or an end that is missing or untrue.
    """
    rest = iter(lines)
    try:
        header = ExportHeader.model_validate_json(next(rest, ""))
    except ValidationError:
        raise AuditBroken("line 1 is not the header of an audit export") from None
    return header, _records(rest)


def _records(lines: Iterator[str]) -> Iterator[StoredRecord]:
    number = 0
    for number, line in enumerate(lines, start=1):
        fields = _fields(line)
        if fields.keys() == {"records"}:
            if fields["records"] != number - 1:
                raise AuditBroken(f"the file says {fields['records']} records and holds {number - 1}")
            if next(lines, None) is not None:
                raise AuditBroken(f"line {number + 2} follows the last line")
            return
        try:
            stored = _stored(fields)
        except (KeyError, TypeError, ValueError):
            raise AuditBroken(f"line {number + 1} is not a record") from None
        yield stored
    raise AuditBroken(f"the file breaks off after line {number + 1}")


def _fields(line: str) -> dict[str, object]:
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _stored(fields: dict[str, object]) -> StoredRecord:
    seq, record, chain_hash = fields["seq"], fields["record"], fields["chain_hash"]
    if type(seq) is not int or not isinstance(record, str) or not isinstance(chain_hash, str):
        raise TypeError
    return StoredRecord(seq, record, bytes.fromhex(chain_hash))
