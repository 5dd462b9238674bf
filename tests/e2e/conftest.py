"""One installation for the stories of each pytest worker process; each story has separate tenants.

It stops after the last story: its processes would otherwise take a third of a core from all later tests. For this the
folder is a package, which is what pytest's scope `package` means.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from playwright.sync_api import Browser

from devstack.servers.postgres import PostgresServer
from tests.e2e.clients import Program, start_program
from tests.e2e.dashboard.harness import browser
from tests.e2e.dashboard.harness.browser import Visitor
from tests.e2e.root_keys.holders import Holders
from tests.e2e.services.enrolling import Issuer
from tests.e2e.stack import ACME, Stack
from tests.e2e.tenants import new_tenant


@pytest.fixture(scope="package")
def holders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holders]:
    """Key servers of customers; they run before the stack, whose settings name them."""
    with Holders(tmp_path_factory.mktemp("holders")).until_closed() as started:
        yield started


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """The platform's issuer of JWTs with its keys in a file."""
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory, holders: Holders, platform: Issuer) -> Iterator[Stack]:
    """A running installation, started by `make up` in an empty folder."""
    stack = Stack(tmp_path_factory.mktemp("stories"), workload_issuers=platform.settings(), **holders.settings())
    stack.command("up")
    yield stack
    stack.command("down")
    stack.close()


@pytest.fixture(scope="package")
def acme(stack: Stack) -> str:
    """ACME Corporation, enabled by one click and notified that it is ready."""
    stack.enable(ACME, "ACME Corporation")
    stack.wait_announced(ACME)
    return ACME


@pytest.fixture(scope="module")
def tenant(stack: Stack, request: pytest.FixtureRequest) -> str:
    """A tenant of one test module, with the name of the module and the organization `ORGANIZATION`."""
    return new_tenant(stack, request.path.stem.removeprefix("test_").replace("_", "-"))


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[str]:
    """A database of the customer on a server that the platform does not know."""
    name = f"customer_{uuid4().hex}"
    with psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        yield psycopg.conninfo.make_conninfo(postgres.admin_conninfo, dbname=name)
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def program(stack: Stack, tmp_path: Path) -> Iterator[Program]:
    """A service of a new tenant that has encrypted data."""
    started = start_program(stack, new_tenant(stack, "program"), tmp_path)
    yield started
    started.hang_up()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for each test module; not for all, because its driver occupies the event loop of the thread."""
    with browser.chromium() as started:
        yield started


@pytest.fixture
def visitor(stack: Stack, chromium: Browser) -> Iterator[Callable[..., Visitor]]:
    """A function that opens a separate window; at the end each window must have sent requests to the dashboard only."""
    with ExitStack() as windows:

        def open_window(*origins: str, **options: Any) -> Visitor:
            window = Visitor(chromium, stack.settings.dashboard_url, *origins, **options)
            return windows.enter_context(closing(window))

        yield open_window
