"""I pull the switch, and my application stops: measured through it, by what it last read and last wrote.

It is a stock psycopg application under `openkcm run`, with a database that is no part of the platform. Each drill ends
with the same process reading and writing again.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from devstack.postgres import PostgresServer
from tests.stories.applications import Application, running
from tests.stories.browser import Visitor
from tests.stories.connected import Service, connect
from tests.stories.dashboard_pages import ADA, go_to
from tests.stories.holders import Holders
from tests.stories.root_key_pages import ask_for, close, press
from tests.stories.stack import Stack

REFUSED_WITHIN_SECONDS = 5.0
"""What is promised of a kill switch; the benchmark `kill_switch` measures it."""
KEY_SECONDS = 20.0
QUIET_SECONDS = 3.0


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[str]:
    """The customer's own database, on a server that the platform does not know."""
    name = f"ward_{uuid4().hex}"
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        yield psycopg.conninfo.make_conninfo(postgres.admin_conninfo, dbname=name)
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def ward(stack: Stack, acme: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """ACME's service that the application runs as."""
    service = connect(stack, acme, "microservice", "ward", tmp_path_factory.mktemp("ward") / "kcm")
    yield service
    service.disconnect()


@pytest.fixture(scope="module")
def application(ward: Service, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """One process for all drills."""
    with running(ward.folder, database, tmp_path_factory.mktemp("app"), key_seconds=KEY_SECONDS) as started:
        yield started


@pytest.fixture(autouse=True)
def as_before(stack: Stack, acme: str) -> Iterator[None]:
    """Leave ACME open and with the platform's key, whatever a drill ended with."""
    yield
    if "switch" in stack.command("tenant", "show", acme)["locks"]:
        stack.command("tenant", "unlock", acme)
    if stack.command("root-key", "show", acme)["root_key_mode"] != "platform":
        stack.command("root-key", "change", acme, "--provider", "platform")


def drill(application: Application, pull: Callable[[], object], undo: Callable[[], object], says: str) -> None:
    """Pull a switch, see the application stop for that reason and within what is promised, undo it, see it go on."""
    time.sleep(1)
    began = time.monotonic()
    pull()
    pulled = time.monotonic()
    stopped = application.wait_stopped(began, QUIET_SECONDS)
    assert max(stopped.last_read, stopped.last_write) - pulled < REFUSED_WITHIN_SECONDS
    assert "column_key_unavailable" in stopped.said
    assert says in stopped.said
    assert {note[:8] for note in application.stored()} == {"okcm:c1:"}, "nothing is stored plain"
    undone = time.monotonic()
    undo()
    application.wait_served(undone)


def test_the_kill_switch_by_command(stack: Stack, acme: str, application: Application) -> None:
    drill(
        application,
        lambda: stack.command("tenant", "lock", acme, "--confirm", acme),
        lambda: stack.command("tenant", "unlock", acme),
        "locked",
    )


def test_the_kill_switch_on_the_page(acme: str, application: Application, visitor: Any) -> None:
    window: Visitor = visitor()
    page = window.sign_in(ADA, f"/tenant/{acme}/")
    go_to(page, "Keys")
    lock = ask_for(page, "lock")
    lock.get_by_label(f"Type {acme} to confirm").fill(acme)

    def unlock() -> None:
        close(lock)
        press(ask_for(page, "unlock"), "Unlock", "The tenant is unlocked")

    drill(
        application,
        lambda: press(lock, "Lock (kill switch)", "The tenant is locked"),
        unlock,
        "locked",
    )


def test_the_service_is_disconnected_and_connected_again(stack: Stack, ward: Service, application: Application) -> None:
    drill(
        application,
        ward.disconnect,
        lambda: connect(stack, ward.tenant_id, "microservice", ward.name, ward.folder),
        "opens nothing here",
    )


def test_its_certificate_alone_is_revoked(stack: Stack, ward: Service, application: Application) -> None:
    """Nobody can do this but by disconnecting; the record alone decides, for whoever writes it."""

    def revoke() -> None:
        with stack.owner() as owner:
            owner.execute("set row_security = off")
            done = owner.execute(
                "update okcm.service_certificate set revoked_at = clock_timestamp()"
                " where tenant_id = %s and service = %s and revoked_at is null",
                [ward.tenant_id, ward.name],
            )
            assert done.rowcount >= 1

    drill(
        application,
        revoke,
        lambda: connect(stack, ward.tenant_id, "microservice", ward.name, ward.folder),
        "opens nothing here",
    )


@pytest.mark.parametrize("provider", ["aws-kms", "pkcs11", "openbao"])
def test_the_root_key_is_disabled_where_its_customer_holds_it(  # noqa: PLR0917 - the scene
    stack: Stack, acme: str, application: Application, holders: Holders, provider: str, tmp_path: Path
) -> None:
    holder = holders.hold(provider)
    stack.command("root-key", "change", acme, *holder.words(tmp_path))
    drill(application, holder.take_away, holder.give_back, "")


def test_the_whole_platform_stops_and_the_application_goes_on_for_its_keys_time(
    stack: Stack, application: Application
) -> None:
    began = time.monotonic()
    stack.command("down")
    down = time.monotonic()
    stopped = application.wait_stopped(down, QUIET_SECONDS, 2 * KEY_SECONDS)
    read, written = stopped.last_read - down, stopped.last_write - down
    assert min(read, written) > 1, "it went on while nothing answered"
    assert max(read, written) < KEY_SECONDS
    assert min(read, written) + down - began > KEY_SECONDS / 2 - 1
    assert "column_key_unavailable" in stopped.said
    assert "was not reached" in stopped.said
    assert {note[:8] for note in application.stored()} == {"okcm:c1:"}
    starting = time.monotonic()
    stack.command("up")
    application.wait_served(starting)
