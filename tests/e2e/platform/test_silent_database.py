"""A database that hangs as a whole: every process answers soon after its return."""

import time
from uuid import uuid4

from tests.concurrency import wait_until
from tests.database.silent_peer import stopped
from tests.e2e.clients import Program
from tests.e2e.outages import hanging
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

HANG_SECONDS = 15
"""Longer than the deadlines of all calls, so that no process still waits for its first response."""
ANSWER_SECONDS = 10


def sessions(stack: Stack) -> list[int]:
    with stack.owner() as owner:
        rows = owner.execute("select pid from pg_stat_activity where usename like 'okcm%'")
        return [pid for (pid,) in rows]


def accepts_an_event(stack: Stack) -> bool:
    tenant_id = f"after-{uuid4().hex[:8]}"
    return stack.click(f"msg_{tenant_id}", customer=tenant_id, organization="Patient Corp").status_code == 202


def test_every_process_answers_within_10_seconds_after_a_hung_database(stack: Stack, program: Program) -> None:
    victim = new_tenant(stack, "locked-after-hang")
    stack.wait_announced(victim)
    with stopped(*sessions(stack)), hanging(stack, "postgres"):
        time.sleep(HANG_SECONDS)
    began = time.monotonic()
    answers: dict[str, float] = {}
    # The operator's command waits for the worker.
    stack.command("tenant", "lock", victim, "--confirm", victim)
    answers["worker and operator"] = time.monotonic() - began
    for name, answer in {"marketplace": lambda: accepts_an_event(stack), "crypto service": program.works}.items():
        wait_until(answer, lambda name=name: f"the {name} does not answer")
        answers[name] = time.monotonic() - began
    assert max(answers.values()) < ANSWER_SECONDS, answers
