"""The page Services shows whether all sensitive data is encrypted, and otherwise each gap with its remedy."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from playwright.sync_api import Page, expect

from config.secrets import Role
from database.services.agents import ProtectionUseRow
from devstack.servers.postgres import PostgresServer
from openkcm.sdk.client import Client
from tests.concurrency import wait_until
from tests.e2e.connected import Service, connect
from tests.e2e.dashboard.harness.accessibility import assert_accessible
from tests.e2e.dashboard.harness.browser import Visitor
from tests.e2e.dashboard.harness.dashboard_pages import go_to, select_service
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.stack import OPENKCM, ROOT, Stack, other_machine
from tests.e2e.tenants import new_tenant

SENTENCE = "Encryption Status: All sensitive data protected"
PATIENTS, ORDERS = "public.patients", "public.orders"
DIAGNOSIS, INSURANCE = (f"postgresql:{PATIENTS}.{name}" for name in ("diagnosis", "insurance"))
SCHEMA = "import clinic; c = clinic.connect(); c.execute(clinic.SCHEMA); c.commit()"
ADMIT = "import clinic; c = clinic.connect(); clinic.admit(c, {0!r}, {1!r}, {2!r}); c.commit()"
READ = "import clinic; print([clinic.patient(clinic.connect(), n)['diagnosis'] for n in (1, {0})])"


class Clinic:
    """An application without code for OpenKCM, and its database."""

    def __init__(self, stack: Stack, service: Service, folder: Path) -> None:
        self.service, self.app = service, folder / "app"
        shutil.copytree(ROOT / "tests" / "client" / "field_encryption" / "demo", self.app)
        name = f"clinic_{uuid4().hex}"
        with stack.owner() as owner:
            owner.execute(f"CREATE DATABASE {name}")
        server = PostgresServer(stack.settings.state_dir, stack.settings.postgres_port)
        self.conninfo = psycopg.conninfo.make_conninfo(server.admin_conninfo, dbname=name)
        self._run([sys.executable, "-c", SCHEMA])

    def run_protected(self, text: str) -> str:
        """Run a program of the application under `openkcm run` until it exits."""
        return self._run([OPENKCM, "run", "--folder", str(self.service.folder), "--", sys.executable, "-c", text])

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.app,
            env=other_machine() | {"CLINIC_DATABASE": self.conninfo},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def codes(stack: Stack, tenant_id: str) -> list[tuple[str, str]]:
    return [(one["code"], one["place"]) for one in stack.command("service", "coverage", tenant_id)["missing"]]


def wait_missing(stack: Stack, tenant: str, *expected: tuple[str, str]) -> None:
    """Wait until the coverage has exactly the expected gaps."""
    wait_until(lambda: codes(stack, tenant) == list(expected), lambda: f"missing: {codes(stack, tenant)}")


def report_use(stack: Stack, tenant: str, service: str) -> None:
    """Report the use of the listed field of a service, as a program under `openkcm run` does."""
    use = ProtectionUseRow(datetime.now(UTC).date(), service, f"postgresql:{ORDERS}.note", 10, 320, 70, 4, 2000)
    with stack.database(Role.CRYPTO).tenant_tx(tenant) as tx:
        tx.agents.note([], [use])


def reload_services(page: Page) -> None:
    go_to(page, "Keys")
    go_to(page, "Services")


def test_the_status_all_data_protected_appears_with_the_last_field_and_disappears_with_a_plain_value(
    stack: Stack, acme: str, visitor: Callable[..., Visitor], tmp_path: Path
) -> None:
    tenant = new_tenant(stack, "clinic")
    shop = connect(stack, tenant, "microservice", "shop", tmp_path / "shop")
    clinic = Clinic(stack, connect(stack, tenant, "postgresql", "clinic-db", tmp_path / "clinic"), tmp_path)
    with Client.from_folder(shop.folder) as kcm:
        kcm.encrypt(b"a record", "orders/1")
    stack.command("service", "protect-field", tenant, shop.name, ORDERS, "note", "--store", "postgresql")
    report_use(stack, tenant, shop.name)
    for name in ("diagnosis", "insurance"):
        stack.command("service", "protect-field", tenant, clinic.service.name, PATIENTS, name)
    clinic.run_protected(ADMIT.format("Ann", "flu", None))
    wait_missing(stack, tenant, ("field_not_reported", INSURANCE))
    page = sign_in(visitor(), stack, tenant)
    go_to(page, "Services")
    expect(page.get_by_text("coverage incomplete")).to_be_visible()
    missing = page.get_by_text("is protected, but no program encrypted or decrypted it in the last 30 days").first
    expect(missing).to_contain_text(f"clinic-db: {PATIENTS}.insurance")
    expect(missing).to_contain_text("Next: Start every program that uses it with openkcm run")
    expect(page.get_by_text(SENTENCE)).to_have_count(0)
    assert_accessible(page)

    clinic.run_protected(ADMIT.format("Bob", "cold", "A-1"))
    wait_missing(stack, tenant)
    reload_services(page)
    expect(page.get_by_text(SENTENCE)).to_be_visible()
    expect(page.get_by_text("2 of 2", exact=True)).to_be_visible()
    expect(page.get_by_text("overhead in 7 days")).to_be_visible()
    select_service(page, "clinic-db")
    expect(page.get_by_text("field encryption in its programs")).to_be_visible()
    assert_accessible(page)

    # A client writes plaintext without the application, and the list of protected fields allows it.
    with psycopg.connect(clinic.conninfo) as past:
        written = past.execute("INSERT INTO patients (name, diagnosis) VALUES ('Eve', 'plain') RETURNING id").fetchone()
        assert written is not None
    words = ("service", "protect-field", tenant, clinic.service.name, PATIENTS, "diagnosis", "--plaintext-allowed")
    stack.command(*words)
    assert clinic.run_protected(READ.format(written[0])) == "['flu', 'plain']\n"
    wait_missing(stack, tenant, ("plaintext_allowed", DIAGNOSIS), ("plaintext_read", DIAGNOSIS))
    reload_services(page)
    expect(page.get_by_text("contained unencrypted values: 1 read").first).to_be_visible()
    expect(page.get_by_text(SENTENCE)).to_have_count(0)

    others: dict[str, Any] = stack.command("service", "coverage", acme)
    assert PATIENTS not in str(others)
