"""What somebody looks for in an audit stream, and whether a record is that."""

import json
from dataclasses import dataclass
from datetime import datetime

from openkcm.contract.audit_events import Outcome, fields_of


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records are looked for; what is empty is not asked about, and what is asked must all be so.

    `names` are names of events, or of whole families where they end in a point (`crypto.`). `actor`, `subject` and
    `text` are found anywhere in the field, `text` anywhere in the record, names of fields included; upper and lower
    case are the same. `since` belongs to the time that is looked at and `until` does not.
    """

    names: frozenset[str] = frozenset()
    outcomes: frozenset[Outcome] = frozenset()
    actor: str = ""
    subject: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def wants(self, record: str) -> bool:
        """Return whether the record is as asked; its time is for whoever reads the stream.

        What is no record at all has no fields: it is wanted by whoever asks for none, so that nobody can hide a record
        by damaging it.
        """
        return self.escaped_text.lower() in record.lower() and self._wants_fields(record)

    @property
    def escaped_text(self) -> str:
        """The text as it stands in a record."""
        return json.dumps(self.text, ensure_ascii=False)[1:-1]

    def _wants_fields(self, record: str) -> bool:
        if not (self.names or self.outcomes or self.actor or self.subject):
            return True
        fields = fields_of(record)
        name = str(fields.get("name"))
        return (
            (not self.names or not self.names.isdisjoint({name, f"{name.partition('.')[0]}."}))
            and (not self.outcomes or fields.get("outcome") in self.outcomes)
            and self.actor.lower() in str(fields.get("actor")).lower()
            and self.subject.lower() in str(fields.get("subject")).lower()
        )

    def words(self) -> dict[str, str]:
        """Return what is asked, for a file or a record that says what was chosen."""
        said = {
            "names": ", ".join(sorted(self.names)),
            "outcomes": ", ".join(sorted(self.outcomes)),
            "actor": self.actor,
            "object": self.subject,
            "text": self.text,
            "since": self.since.isoformat() if self.since else "",
            "until": self.until.isoformat() if self.until else "",
        }
        return {name: value for name, value in said.items() if value}
