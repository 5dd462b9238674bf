"""Requests that wait for a second person: the part of `interfaces` that is about them. Imports no psycopg."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from tenancy.approvals import Action, Approval, ApprovalState, Argument, Vote
from tenancy.people import Person


class Approvals(Protocol):
    """The dashboard's role asks and votes; the worker's decides. Every time is PostgreSQL's, so one clock judges."""

    def now(self) -> datetime: ...

    def ask(self, approval_id: str, action: Action, argument: Argument, person: Person) -> None:
        """Store what somebody asks for who is signed on now (dashboard); the same id again changes nothing."""
        ...

    def vote(self, approval_id: str, person: Person, choice: str) -> bool:
        """Store what somebody says who is signed on now (dashboard); False when they have spoken before."""
        ...

    def get(self, approval_id: str) -> Approval | None: ...

    def votes(self, approval_id: str) -> Sequence[Vote]:
        """Return what was said of a request, in the order in which it was said."""
        ...

    def pending(self) -> Sequence[Approval]:
        """Return what waits, the first to expire first."""
        ...

    def latest(self, limit: int = 10) -> Sequence[Approval]:
        """Return the newest requests on which something became of, the newest first."""
        ...

    def admit(self, approval_id: str, lasts: timedelta) -> None:
        """Let a request wait, for so long (worker)."""
        ...

    def settle(self, approval_id: str, state: ApprovalState, vote: Vote | None = None, reason: str = "") -> None:
        """Write down what became of a request, and by whose word (worker)."""
        ...

    def use(self, approval_id: str, operation_id: str) -> None:
        """Keep an approval for one operation (worker)."""
        ...
