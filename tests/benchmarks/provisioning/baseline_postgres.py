"""PostgreSQL's part of the floor: the recorded messages of one tenant, replayed for another one.

The messages come from the server's log, so they are the product's and remain so when it changes. They are replayed one
after another through libpq; only names and signed contexts are replaced before.
"""

import hmac
import re
import time
from dataclasses import dataclass, replace

import psycopg
from psycopg.pq import ExecStatus

from config.secrets import Role
from core.names import CANARY_TENANT_ID
from database.postgres.access import login, sign
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.harness.statement_log import Message

_BEGIN = re.compile(r"begin;.*set_config\('app\.tenant_id', '([^']*)'", re.DOTALL)
_CONTEXT = re.compile(r"([a-z0-9-]+)\|(\d+)\|([0-9a-f]{64})")
_ENDS = ("COMMIT", "ROLLBACK")
_READY = "update okcm.tenant set state"
_MARKETPLACE_TRANSACTIONS = 2


@dataclass(frozen=True)
class Recording:
    """The transactions of a tenant in the order of their start, each with its role."""

    tenant_id: str
    at: float
    transactions: tuple[tuple[Role, tuple[Message, ...]], ...]

    @classmethod
    def of(cls, tenant_id: str, messages: list[Message], roles: dict[int, Role]) -> "Recording":
        """Select from a log the transactions for the tenant until it was active.

        Those of the marketplace are the acceptance and the mark that the workflow has the event; without the mark, the
        product's sweep would start a workflow for the script's tenant. Status requests are excluded.
        """
        began: dict[int, int] = {}
        parts: dict[int, list[Message]] = {}
        for position, message in enumerate(messages):
            begin = _BEGIN.search(message.text)
            if begin is not None and begin[1] in {tenant_id, CANARY_TENANT_ID}:
                began[position], parts[position] = message.session, []
            current = max((p for p, session in began.items() if session == message.session), default=None)
            if current is not None:
                parts[current].append(message)
                if message.text.upper() in _ENDS:
                    del began[current]
        chosen = [(roles[part[0].session], tuple(part)) for _, part in sorted(parts.items())]
        last = max(number for number, (_, part) in enumerate(chosen) if any(_READY in m.text for m in part))
        done = [t for t in chosen if t[0] is Role.MARKETPLACE][:_MARKETPLACE_TRANSACTIONS]
        done += [t for t in chosen[: last + 1] if t[0] is Role.WORKER]
        return cls(tenant_id, time.time(), tuple(done))


class BareDatabase:
    def __init__(self, stack: Stack, recording: Recording) -> None:
        self._recording = recording
        self._keys: dict[Role, bytes] = {}
        self._connections: dict[Role, psycopg.Connection] = {}
        for role in (Role.MARKETPLACE, Role.WORKER):
            password, self._keys[role] = stack.database_secrets(role)
            self._connections[role] = psycopg.connect(
                stack.settings.postgres_url,
                user=login(role),
                password=password,
                autocommit=True,
                options="-c search_path=pg_catalog",
            )

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def messages_for(self, tenant_id: str) -> list[tuple[Role, Message]]:
        """Return the messages for another tenant, with contexts that are valid where the product's were valid."""
        shift = int(time.time() - self._recording.at)

        def fit(role: Role, text: str) -> str:
            def sign_again(context: re.Match[str]) -> str:
                named, expires, mac = context[1], int(context[2]), context[3]
                genuine = hmac.compare_digest(sign(self._keys[role], named, expires), context[0])
                replaced = named.replace(self._recording.tenant_id, tenant_id)
                if not genuine:
                    return f"{replaced}|{expires + shift}|{mac}"
                return sign(self._keys[role], replaced, expires + shift)

            # Contexts first: they are verified with the recorded name.
            return _CONTEXT.sub(sign_again, text).replace(self._recording.tenant_id, tenant_id)

        def replace_tenant(role: Role, message: Message) -> Message:
            values = message.values and tuple(v and fit(role, v.decode()).encode() for v in message.values)
            return replace(message, text=fit(role, message.text), values=values)

        return [
            (role, replace_tenant(role, message)) for role, part in self._recording.transactions for message in part
        ]

    def replay(self, messages: list[tuple[Role, Message]]) -> None:
        """Send all messages; each must have the same result as the product's, success or error."""
        for role, message in messages:
            libpq = self._connections[role].pgconn
            if message.values is None:
                result = libpq.exec_(message.text.encode())
            else:
                result = libpq.exec_params(message.text.encode(), list(message.values))
            if (result.status == ExecStatus.FATAL_ERROR) is not message.refused:
                raise RuntimeError(f"replay has another result: {message.text[:200]}: {result.error_message!r}")
