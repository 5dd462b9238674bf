"""Batches of audit records as JSON Lines or syslog messages, and the state file of a forwarding.

Tenant and record numbers identify a batch, so that a receiver can drop duplicates. Syslog is RFC 5424 with octet
counting (RFC 6587, section 3.4.1; RFC 5425, section 4.3). The state file contains the last acknowledged record; one
process at a time uses it, and it is replaced atomically.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from compliance.audit.ocsf import ocsf_line
from core.errors.compliance import ForwardingBusy, ForwardingStateRefused
from openkcm.contract.audit_events import StoredRecord, fields_of
from openkcm.errors import FileRefused
from openkcm.verification.audit_export import record_line

LARGEST = 500
"""Maximum number of records in a batch."""
_AUDIT_FACILITY = 13
_SEVERITIES = {"refused": 4, "failure": 3}
_INFORMATIONAL = 6
_LONGEST_ID = 2**31 - 1
_NIL = "-"


class Form(StrEnum):
    OPENKCM = "openkcm"
    OCSF = "ocsf"


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one stream, at least one."""

    tenant_id: str
    form: Form
    records: Sequence[StoredRecord]
    host: str
    """Host name of the sender."""

    @property
    def key(self) -> str:
        """Idempotency key, the same for each retry; receivers drop duplicates."""
        return f"{self.tenant_id}/{self.records[0].seq}-{self.records[-1].seq}"

    @property
    def lines(self) -> Sequence[str]:
        """The records as JSON Lines; in the OpenKCM format each as in an export, with its hash."""
        return [record_line(one) if self.form is Form.OPENKCM else ocsf_line(one) for one in self.records]

    @property
    def frames(self) -> Sequence[bytes]:
        return [frame(message(one, line, self.host)) for one, line in zip(self.records, self.lines, strict=True)]


def message(stored: StoredRecord, line: str, host: str) -> bytes:
    """Return a record as a message of RFC 5424; `line` is its text."""
    fields = fields_of(stored.record)
    severity = _SEVERITIES.get(str(fields.get("outcome")), _INFORMATIONAL)
    time = str(fields.get("time", ""))
    words = (
        f"<{_AUDIT_FACILITY * 8 + severity}>1",
        time if _is_plain(time, 32) else _NIL,
        host if _is_plain(host, 255) else _NIL,
        "openkcm",
        _NIL,
        _word(str(fields.get("name", "")), 32),
        f'[meta sequenceId="{(stored.seq - 1) % _LONGEST_ID + 1}"]',
    )
    return f"{' '.join(words)} ".encode() + b"\xef\xbb\xbf" + line.rstrip("\n").encode(errors="replace")


def frame(sent: bytes) -> bytes:
    return b"%d %b" % (len(sent), sent)


def _is_plain(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and all("!" <= character <= "~" for character in text)


def _word(text: str, longest: int) -> str:
    """Return a name as one syslog field: truncated if too long, the nil value if it contains other characters."""
    return text[:longest] if _is_plain(text[:longest], longest) else _NIL


@dataclass(frozen=True, slots=True)
class ForwardedState:
    """The last record of a tenant's stream that the receiver acknowledged: number `seq` and its `chain_hash`."""

    tenant_id: str
    to: str
    form: Form
    seq: int
    chain_hash: str

    def text(self) -> str:
        fields = {"tenant_id": self.tenant_id, "to": self.to, "form": self.form, "seq": self.seq}
        return json.dumps(fields | {"chain_hash": self.chain_hash}) + "\n"

    @classmethod
    def read(cls, text: str) -> "ForwardedState | None":
        """Return the state in the text of a file; None if the text is no such state."""
        try:
            fields = json.loads(text)
            tenant_id, to, chain_hash = (fields[name] for name in ("tenant_id", "to", "chain_hash"))
            seq, form = fields["seq"], Form(fields["form"])
            bytes.fromhex(chain_hash)
        except (ValueError, KeyError, TypeError):
            return None
        if type(seq) is not int or seq < 0 or not isinstance(tenant_id, str) or not isinstance(to, str):
            return None
        return cls(tenant_id, to, form, seq, chain_hash)


@dataclass(frozen=True, slots=True)
class StateFile:
    path: Path

    def read(self, tenant_id: str, to: str, form: Form) -> ForwardedState:
        """Return the stored state; the initial state if the file does not exist.

        Raises:
            ForwardingStateRefused: the file is damaged or of another tenant, receiver or format. A restart from the
                first record would send every record twice; a continuation would skip records for this receiver.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ForwardedState(tenant_id, to, form, 0, "")
        except (OSError, UnicodeDecodeError):
            raise ForwardingStateRefused(f"{self.path} cannot be read") from None
        state = ForwardedState.read(text)
        if state is None or (state.tenant_id, state.to, state.form) != (tenant_id, to, form):
            raise ForwardingStateRefused
        return state

    def write(self, state: ForwardedState) -> None:
        """Replace the state atomically and sync it to disk; raises FileRefused."""
        draft = self.path.with_name(f".{self.path.name}.new")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(state.text())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as failed:
            raise FileRefused(f"{self.path} cannot be written: {failed.strerror}", "free some space") from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the file for this process; the kernel releases the lock at process end. Raises ForwardingBusy."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as failed:
            raise FileRefused(f"{self.path} cannot be created: {failed.strerror}", "choose another --state") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ForwardingBusy from None
            yield
        finally:
            os.close(lock)
