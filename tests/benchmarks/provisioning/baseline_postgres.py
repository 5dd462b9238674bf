"""PostgreSQL's part of the floor: the recorded messages of one tenant, replayed for another one.

The messages come from the server's log, so they are the product's and remain so when it changes. They are replayed one
after another through libpq. Names are replaced before, and signed contexts in the transaction that they are signed for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import psycopg
from psycopg.pq import ExecStatus

from config.secrets import Role
from config.settings import Settings
from core.names import CANARY_TENANT_ID
from database.postgres.access import CURRENT_TRANSACTION, login, sign
from tests.benchmarks.harness.stack import database_secrets
from tests.benchmarks.harness.statement_log import Message

_SET_CONTEXT = "set_config('app.ctx', $2"
# An attempt of the isolation suite to refer to another tenant's rows. Only it has a valid context and another tenant.
_REFERENCE = re.compile(
    r'"pretended": "(?P<tenant>[^"]*)", "context": "(?P<context>[0-9a-f]{64})", "statement": "[^"]*",'
    r' "whose": "(?!(?P=tenant)")[^"]*", "own": "(?P=tenant)"'
)
_ENDS = ("COMMIT", "ROLLBACK")
_READY = "update okcm.tenant set state"
_MARK = "update okcm.marketplace_event set started_at"


@dataclass(frozen=True)
class Recording:
    """The transactions of a tenant in the order of their start, each with its role."""

    tenant_id: str
    transactions: tuple[tuple[Role, tuple[Message, ...]], ...]

    @classmethod
    def of(cls, tenant_id: str, messages: list[Message], roles: dict[int, Role]) -> "Recording":
        """Select from a log the transactions for the tenant until it was active.

        Those of the marketplace end with the mark that the workflow has the event; without the mark, the product's
        sweep would start or signal a workflow for the script's tenant. Status requests are excluded.
        """
        began: dict[int, int] = {}
        parts: dict[int, list[Message]] = {}
        for position, message in enumerate(messages):
            if CURRENT_TRANSACTION in message.text:
                began[position], parts[position] = message.session, []
            current = max((p for p, session in began.items() if session == message.session), default=None)
            if current is not None:
                parts[current].append(message)
                if message.text.upper() in _ENDS:
                    del began[current]
        tenants = {tenant_id, CANARY_TENANT_ID}
        chosen = [
            (roles[part[0].session], tuple(part))
            for position, part in sorted(parts.items())
            if position not in began  # the log may end within a transaction
            and tenants.intersection(_valid_contexts(part[1]).values())
        ]
        last = max(number for number, (_, part) in enumerate(chosen) if any(_READY in m.text for m in part))
        accepted = [t for t in chosen if t[0] is Role.MARKETPLACE]
        marked = next(number for number, (_, part) in enumerate(accepted) if any(_MARK in m.text for m in part))
        done = accepted[: marked + 1]
        done += [t for t in chosen[: last + 1] if t[0] is Role.WORKER]
        return cls(tenant_id, tuple(done))


class BareDatabase:
    def __init__(self, settings: Settings, recording: Recording) -> None:
        self._recording = recording
        self._keys: dict[Role, bytes] = {}
        self._connections: dict[Role, psycopg.Connection] = {}
        for role in (Role.MARKETPLACE, Role.WORKER):
            password, self._keys[role] = database_secrets(settings, role)
            self._connections[role] = psycopg.connect(
                settings.postgres_url,
                user=login(role),
                password=password,
                autocommit=True,
                options="-c search_path=pg_catalog",
            )

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def messages_for(self, tenant_id: str) -> list[tuple[Role, Message]]:
        """Return the messages for another tenant; their contexts are those of the recording."""

        def fit(text: str) -> str:
            return text.replace(self._recording.tenant_id, tenant_id)

        def replace_tenant(message: Message) -> Message:
            values = message.values and tuple(v and fit(v.decode()).encode() for v in message.values)
            return replace(message, text=fit(message.text), values=values)

        return [(role, replace_tenant(message)) for role, part in self._recording.transactions for message in part]

    def replay(self, messages: list[tuple[Role, Message]]) -> None:
        """Send all messages; each must have the same result as the product's, success or error."""
        transaction = ""
        for role, message in messages:
            libpq = self._connections[role].pgconn
            sent = self._sign_again(role, transaction, message)
            if sent.values is None:
                result = libpq.exec_(sent.text.encode())
            else:
                result = libpq.exec_params(sent.text.encode(), list(sent.values))
            if (result.status == ExecStatus.FATAL_ERROR) is not sent.refused:
                raise RuntimeError(f"replay has another result: {sent.text[:200]}: {result.error_message!r}")
            if CURRENT_TRANSACTION in sent.text:
                transaction = (result.get_value(0, 0) or b"").decode()

    def _sign_again(self, role: Role, transaction: str, message: Message) -> Message:
        """Replace the contexts that were valid in the recorded transaction with those of this one."""
        for context, tenant_id in _valid_contexts(message).items():
            valid = sign(self._keys[role], tenant_id, transaction)
            values = message.values and tuple(
                valid.encode() if value == context.encode() else value for value in message.values
            )
            message = replace(message, text=message.text.replace(context, valid), values=values)
        return message


def _valid_contexts(message: Message) -> Mapping[str, str]:
    """Return each context of a message that is valid in its transaction, with its tenant."""
    if message.values and _SET_CONTEXT in message.text:
        tenant_id, context = ((value or b"").decode() for value in message.values[:2])
        return {context: tenant_id}
    return {found["context"]: found["tenant"] for found in _REFERENCE.finditer(message.text)}
