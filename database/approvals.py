"""Approval requests that wait for a second person, and the votes on them (table `okcm.approval`)."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from core.tenants.approvals import Action, Approval, ApprovalState, Argument, Vote, VoteChoice
from core.tenants.roles import Person, PersonRole
from database.repository import Repository

_READ = (
    "select approval_id, action, argument, requested_by, requested_name, requested_at, state, expires_at, decided_by,"
    " decided_name, decided_at, used_by, reason, request_reason, (select v.reason from okcm.approval_vote v"
    " where v.tenant_id = a.tenant_id and v.approval_id = a.approval_id and v.subject = a.decided_by)"
    " from okcm.approval a"
)
_NAME = 300


class Approvals(Repository):
    """Approvals of one tenant. The dashboard requests and votes; the worker decides.

    PostgreSQL sets every time, so that all expiry decisions use one clock.
    """

    def now(self) -> datetime:
        now: datetime
        (now,) = self.connection.execute("select clock_timestamp()").fetchall()[0]
        return now

    def ask(self, approval_id: str, action: Action, argument: Argument, person: Person, reason: str) -> None:
        """Store a request of the signed-in user (dashboard); a repeated id changes nothing."""
        self.connection.execute(
            "insert into okcm.approval (tenant_id, approval_id, action, argument, requested_by, requested_name,"
            " request_reason) values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                self.tenant_id,
                approval_id,
                action,
                json.dumps(dict(argument)),
                person.subject,
                person.name[:_NAME],
                reason,
            ],
        )

    def vote(self, approval_id: str, person: Person, choice: str, reason: str | None = None) -> bool:
        """Store a vote of the signed-in user (dashboard); return False if the user has voted before."""
        stored = self.connection.execute(
            "insert into okcm.approval_vote (tenant_id, approval_id, subject, name, roles, choice, reason)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                self.tenant_id,
                approval_id,
                person.subject,
                person.name[:_NAME],
                sorted(person.roles),
                choice,
                reason,
            ],
        )
        return stored.rowcount == 1

    def get(self, approval_id: str) -> Approval | None:
        row = self.connection.execute(f"{_READ} where approval_id = %s", [approval_id]).fetchone()
        return None if row is None else _approval(row)

    def votes(self, approval_id: str) -> Sequence[Vote]:
        """Return the votes on a request in the order in which they were cast."""
        rows = self.connection.execute(
            "select subject, name, roles, choice, voted_at, reason from okcm.approval_vote where approval_id = %s"
            " order by voted_at, subject",
            [approval_id],
        ).fetchall()
        return [
            Vote(subject, name, frozenset(map(PersonRole, roles)), VoteChoice(choice), at, reason)
            for subject, name, roles, choice, at, reason in rows
        ]

    def pending(self) -> Sequence[Approval]:
        """Return pending requests, the first to expire first."""
        rows = self.connection.execute(f"{_READ} where state = 'pending' order by expires_at, approval_id").fetchall()
        return [_approval(row) for row in rows]

    def unexecuted(self) -> Sequence[Approval]:
        """Return approved requests whose action has not begun, the first approved first."""
        rows = self.connection.execute(
            f"{_READ} where state = 'approved' and used_by is null order by decided_at, approval_id"
        ).fetchall()
        return [_approval(row) for row in rows]

    def latest(self, limit: int = 10) -> Sequence[Approval]:
        """Return the newest requests that are no longer pending, newest first."""
        rows = self.connection.execute(
            f"{_READ} where state not in ('asked', 'pending') order by requested_at desc, approval_id limit %s", [limit]
        ).fetchall()
        return [_approval(row) for row in rows]

    def admit(self, approval_id: str, lasts: timedelta) -> None:
        """Make a request pending for the given time (worker)."""
        self.connection.execute(
            "update okcm.approval set state = 'pending', expires_at = clock_timestamp() + %s"
            " where approval_id = %s and state = 'asked'",
            [lasts, approval_id],
        )

    def settle(self, approval_id: str, state: ApprovalState, vote: Vote | None = None, failure: str = "") -> None:
        """Store the outcome of a request and the deciding vote (worker)."""
        by, name = (None, None) if vote is None else (vote.subject, vote.name)
        self.connection.execute(
            "update okcm.approval set state = %s, decided_by = coalesce(%s, decided_by),"
            " decided_name = coalesce(%s, decided_name), decided_at = coalesce(decided_at, clock_timestamp()),"
            " reason = nullif(%s, '') where approval_id = %s",
            [state, by, name, failure, approval_id],
        )

    def use(self, approval_id: str, operation_id: str) -> None:
        """Bind an approval to one operation (worker)."""
        self.connection.execute(
            "update okcm.approval set used_by = %s where approval_id = %s and used_by is null",
            [operation_id, approval_id],
        )


def _approval(row: tuple[Any, ...]) -> Approval:
    approval_id, action, argument, by, name, at, state, *rest = row
    return Approval(approval_id, Action(action), argument, by, name, at, ApprovalState(state), *rest)
