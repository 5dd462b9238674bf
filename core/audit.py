"""Filter for the records of an audit stream."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from openkcm.contract.audit_events import Outcome, fields_of

_OF_SERVICES = re.compile(r"(service|enrolment|protection|key\.service_key|certificate\.service_certificate)[._]")
"""Families of events whose subject begins with the name of a service."""


def service_of(fields: Mapping[str, object]) -> str:
    """Return the service that acted or that a record is about, or an empty text; `okcm.audit_service` is the same."""
    if fields.get("actor_kind") == "service":
        return _text(fields, "actor")
    if _OF_SERVICES.match(_text(fields, "name")):
        return _text(fields, "subject").partition(" ")[0]
    return ""


def operation_of(fields: Mapping[str, object]) -> str:
    """Return the operation of the crypto service that a record is about, or an empty text."""
    details = fields.get("details")
    return _text(details, "operation") if isinstance(details, Mapping) else ""


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Conditions that a record must all meet; an empty condition matches every record.

    `names` are names of events, or prefixes of event families that end in a period (`crypto.`). `services` and
    `operations` are those of `service_of` and `operation_of`. `actor` and `subject` match any part of their field,
    `text` any part of the record including field names; case is ignored. `since` is inclusive and `until` exclusive.
    """

    names: frozenset[str] = frozenset()
    outcomes: frozenset[Outcome] = frozenset()
    actor: str = ""
    subject: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    services: frozenset[str] = frozenset()
    operations: frozenset[str] = frozenset()

    @property
    def is_counted(self) -> bool:
        """Whether a condition is one by which `okcm.audit_hour` counts records."""
        return bool(self.names or self.outcomes or self.services or self.operations)

    def wants(self, record: str) -> bool:
        """Return whether the record meets all conditions but the time, which the reader of the stream applies.

        A damaged record has no fields. A filter without field conditions returns it, so that an attacker cannot hide a
        record by damaging it.
        """
        return self.escaped_text.lower() in record.lower() and self._wants_fields(record)

    @property
    def escaped_text(self) -> str:
        """The text as JSON encodes it in a record."""
        return json.dumps(self.text, ensure_ascii=False)[1:-1]

    def _wants_fields(self, record: str) -> bool:
        if not (self.is_counted or self.actor or self.subject):
            return True
        fields = fields_of(record)
        name = str(fields.get("name"))
        return (
            (not self.names or not self.names.isdisjoint({name, f"{name.partition('.')[0]}."}))
            and (not self.outcomes or fields.get("outcome") in self.outcomes)
            and (not self.services or service_of(fields) in self.services)
            and (not self.operations or operation_of(fields) in self.operations)
            and self.actor.lower() in str(fields.get("actor")).lower()
            and self.subject.lower() in str(fields.get("subject")).lower()
        )

    def words(self) -> dict[str, str]:
        """Return the conditions as text, for an export header or an audit record."""
        conditions = {
            "names": ", ".join(sorted(self.names)),
            "outcomes": ", ".join(sorted(self.outcomes)),
            "services": ", ".join(sorted(self.services)),
            "operations": ", ".join(sorted(self.operations)),
            "actor": self.actor,
            "object": self.subject,
            "text": self.text,
            "since": self.since.isoformat() if self.since else "",
            "until": self.until.isoformat() if self.until else "",
        }
        return {name: value for name, value in conditions.items() if value}
