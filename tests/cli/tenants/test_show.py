"""`openkcmctl tenant show` starts fast: it loads only what it needs."""

import json
import subprocess
import sys

import pytest

from cli.__main__ import main
from core.tenants.lifecycle import Transition
from database.connection.database import Database
from tests.dashboard.scene import ACME
from tests.database.builders import a_provisioned_tenant

pytestmark = pytest.mark.usefixtures("secrets_folder")

_OF_OTHERS = {
    *("cryptography", "hvac", "httpx2", "structlog", "temporalio"),
    *("cli.audited", "cli.tenants.commands", "core.messages", "openkcm.verification.reports"),
    *("database.notifications", "database.reports", "database.services.agents", "database.services.enrolment"),
    *("database.services.managed_objects", "database.services.protected_fields", "database.platform.scheduled"),
    *("rich.progress", "rich.markdown", "rich._emoji_codes"),
}


@pytest.fixture
def tenant_id(worker: Database) -> str:
    a_provisioned_tenant(worker, ACME)
    with worker.tenant_tx(ACME) as tx:
        tx.tenants.move(Transition.ACTIVATE)
    return ACME


def test_show_loads_no_module_of_other_commands(tenant_id: str, capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "import sys; from cli.__main__ import main;"
        f" status = main(['tenant', 'show', '{tenant_id}']); print(*sys.modules); sys.exit(status)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

    *shown, loaded = capfd.readouterr().out.splitlines()
    assert tenant_id in shown[0]
    assert not _OF_OTHERS.intersection(loaded.split())


def test_show_returns_the_tenant_and_its_status(tenant_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tenant", "show", tenant_id, "--json"]) == 0

    shown = json.loads(capsys.readouterr().out)
    assert (shown["tenant_id"], shown["state"]) == (tenant_id, "active")
    assert {one["subject"] for one in shown["status"]["subjects"]} >= {"certificates", "isolation"}


def test_help_between_the_words_of_a_command_lists_the_whole_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tenant", "-h", "show"]) == 0

    shown = capsys.readouterr().out
    assert "offboard" in shown
    assert "retry" in shown
