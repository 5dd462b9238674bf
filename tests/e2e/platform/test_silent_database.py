"""A database that hangs as a whole, and a network that drops all data: every process answers soon after the return."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from playwright.sync_api import Browser, Error, Page
from psycopg.conninfo import conninfo_to_dict

from config.secrets import DATABASE_ADMIN, ensure_secret
from devstack.servers.postgres import PostgresServer
from tests.concurrency import wait_until
from tests.database.silent_peer import Relay
from tests.e2e.clients import Program, start_program
from tests.e2e.dashboard.harness.browser import Visitor, drawn, title
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.outages import hanging
from tests.e2e.stack import Stack
from tests.e2e.tenants import ORGANIZATION, new_tenant
from tests.pausing import paused
from tests.ports import free_port

HANG_SECONDS = 15
"""Longer than the deadlines of all calls, so that no process still waits for its first response."""
ANSWER_SECONDS = 10


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    """The way to a separate database, with an administrator `installer`."""
    postgres = PostgresServer(tmp_path / "postgres", free_port())
    postgres.prepare()
    postgres.start()
    postgres.wait_ready(60)
    admin = conninfo_to_dict(postgres.admin_conninfo)
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as superuser:
        superuser.execute("create role installer login createrole createdb password 'of the installer'")
    with closing(Relay(f"postgresql://{admin['host']}:{admin['port']}/openkcm")) as relay:
        yield relay
    postgres.stop()


@pytest.fixture
def distant_stack(tmp_path: Path, relay: Relay) -> Iterator[Stack]:
    """An installation whose processes reach their database through the relay."""
    stack = Stack(tmp_path / "distant", database_url=relay.url)
    ensure_secret(stack.settings.secrets, DATABASE_ADMIN, "installer:of the installer")
    stack.command("setup", "database")
    stack.command("up")
    yield stack
    stack.command("down")
    stack.close()


def sessions(stack: Stack) -> list[int]:
    with stack.owner() as owner:
        rows = owner.execute("select pid from pg_stat_activity where usename like 'okcm%'")
        return [pid for (pid,) in rows]


def locks(stack: Stack, tenant_id: str) -> bool:
    """Return whether the operator's command locks a tenant; it waits for the worker."""
    return stack.run("tenant", "lock", tenant_id, "--confirm", tenant_id).returncode == 0


def accepts_an_event(stack: Stack) -> bool:
    tenant_id = f"after-{uuid4().hex[:8]}"
    return stack.click(f"msg_{tenant_id}", customer=tenant_id, organization="Patient Corp").status_code == 202


def shows_the_tenant(page: Page) -> bool:
    answer = page.reload()
    if answer is None or not answer.ok:
        return False
    drawn(page)
    return title(page).inner_text().startswith(ORGANIZATION)


def wait_in_silence(page: Page) -> None:
    """Wait while the database is silent; a user opens a page meanwhile."""
    until = time.monotonic() + HANG_SECONDS
    with suppress(Error):
        page.reload(timeout=HANG_SECONDS * 1000)
    time.sleep(max(0.0, until - time.monotonic()))


def seconds_until_each_answers(stack: Stack, victim: str, program: Program, page: Page) -> dict[str, float]:
    """Return the time from now to the first answer of each process."""
    began = time.monotonic()

    def measure(name: str, answers: Callable[[], bool]) -> float:
        wait_until(answers, lambda: f"the {name} does not answer")
        return time.monotonic() - began

    others = {
        "worker and operator": lambda: locks(stack, victim),
        "marketplace": lambda: accepts_an_event(stack),
        "crypto service": program.works,
    }
    with ThreadPoolExecutor(len(others)) as pool:
        asked = {name: pool.submit(measure, name, answers) for name, answers in others.items()}
        # The browser belongs to this thread.
        dashboard = measure("dashboard", lambda: shows_the_tenant(page))
        return {name: one.result() for name, one in asked.items()} | {"dashboard": dashboard}


def test_every_process_answers_within_10_seconds_after_a_hung_database(
    stack: Stack, program: Program, visitor: Callable[[], Visitor], record_property: Callable[[str, object], None]
) -> None:
    victim = new_tenant(stack, "locked-after-hang")
    stack.wait_announced(victim)
    page = sign_in(visitor(), stack, victim)
    with paused(*sessions(stack)), hanging(stack, "postgres"):
        wait_in_silence(page)
    answers = seconds_until_each_answers(stack, victim, program, page)
    record_property("seconds until each answers", answers)
    assert max(answers.values()) < ANSWER_SECONDS, answers


def test_every_process_answers_within_10_seconds_after_a_lost_network(
    distant_stack: Stack,
    relay: Relay,
    chromium: Browser,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    stack = distant_stack
    victim = new_tenant(stack, "locked-after-loss")
    stack.wait_announced(victim)
    program = start_program(stack, new_tenant(stack, "program"), tmp_path)
    with closing(Visitor(chromium, stack.settings.dashboard_url)) as window:
        page = sign_in(window, stack, victim)
        with relay.dropping():
            wait_in_silence(page)
        answers = seconds_until_each_answers(stack, victim, program, page)
    program.hang_up()
    record_property("seconds until each answers", answers)
    assert max(answers.values()) < ANSWER_SECONDS, answers
