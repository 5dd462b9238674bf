"""The top of every page on a real database: measured badges, notices, the progress of a lock, emergency controls."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from streamlit.testing.v1 import AppTest

from core.errors.platform import DatabaseUnavailable
from core.services import CryptoOperation
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from core.tenants.roles import PersonRole
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.root_keys import RootKeyRead
from database.usage import UsesRow
from openkcm.contract.audit_events import AuditName
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, SECONDS, Scene, shortcodes, shown, text
from tests.database.builders import an_audit_event

PAGES = ("overview", "keys", "services", "approvals", "usage", "audit", "reports", "settings")


def strip(at: AppTest) -> str:
    """Return the badges of the strip."""
    return next(one.value for one in at.markdown if "as of" in one.value)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_what_was_measured_and_the_kill_switch(scene: Scene, page: str) -> None:
    scene.tenant(State.ACTIVE)
    scene.measured()
    at = shown(page, scene.page_context())
    said = strip(at)
    assert ":green-badge[:material/check: Operational]" in said
    assert "Key server" in said
    assert "UTC" in said
    assert "red-badge" not in said
    assert at.button(key="standing.lock").label == "Lock all keys…"
    assert shortcodes(at) == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_measured_is_unknown_and_never_green(scene: Scene, page: str) -> None:
    scene.tenant(State.ACTIVE)
    said = strip(shown(page, scene.page_context()))
    assert ":gray-badge[:material/help: Unknown]" in said or ":orange-badge[:material/warning: Degraded]" in said
    assert "Operational" not in said
    assert ":green-badge[:material/check: Key" not in said


def test_an_open_page_has_the_root_key_checked_as_often_as_one_in_use(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    read = RootKeyRead("eu-west-1", 0, 1, timedelta(seconds=90), None, (ACME,), "", 10)
    queries = PlatformQueries(scene.worker)

    def used_seconds() -> float:
        key = queries.monitored_root_keys(read).found[ACME]
        assert key is not None
        return key.used_seconds

    assert used_seconds() <= 0
    shown("keys", scene.page_context())
    assert used_seconds() > 60


def test_silent_key_server_is_named_on_the_overview(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("ledger", ServiceKind.POSTGRESQL, uses=100)
    scene.measured(key_server="vault_unavailable")
    said = text(shown("overview", scene.page_context()))
    assert "Key server: does not respond" in said
    assert "Services use keys in memory for a minute at most." in said
    assert "Everything works" not in said
    assert "Ready ✓" not in said


def test_rejected_requests_prevent_operational_and_name_their_cause(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.measured()
    minute = datetime.now(UTC).replace(second=0, microsecond=0)
    with scene.crypto.tenant_tx(ACME) as tx:
        tx.usage.add([UsesRow(minute, "ledger", CryptoOperation.DECRYPT, "vault_unavailable", 7, 0)], "batch")
    said = text(shown("overview", scene.page_context()))
    assert "Requests rejected" in said
    assert "Causes: Key server unavailable." in said
    assert "Operational" not in said


def test_stopped_worker_delays_changes_and_says_so(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.measured()
    with scene.field.administrator() as administrator:
        administrator.execute(
            "update okcm.process_report set reported_at = now() - interval '1 minute' where process = 'worker'"
        )
    said = text(shown("keys", scene.page_context()))
    assert "Requested changes: delayed" in said
    assert "Services continue to work." in said


def test_lock_names_who_and_when_and_each_process_until_it_rejects(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("ledger", ServiceKind.POSTGRESQL, uses=100)
    context = scene.page_context()
    at = shown("keys", context)
    at.button(key="standing.lock").click().run()
    at.text_input(key="standing.confirm").set_value(ACME).run()
    at.button(key="standing.lock.do").click().run()
    scene.measured(applied=1)
    said = text(shown("services", context))
    assert "Locked by ada@acme\\.example" in said
    assert "0 of 1 process rejects requests" in said
    assert "Process 1: open" in said
    scene.measured()
    at = shown("services", context)
    said = text(at)
    assert "Every process rejects requests" in said
    assert "Process 1: closed" in said
    assert "Last rejected request: ledger" in said
    assert at.button(key="standing.unlock").label == "Unlock…"
    assert ":red-badge[:material/error: Stopped]" in strip(at)


def test_a_lock_is_not_attributed_to_the_user_of_an_earlier_one(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    context = scene.page_context()
    with scene.dashboard.tenant_tx(ACME) as tx:
        tx.audit.append(context.event(AuditName.LOCK_REQUESTED, ACME, "success"))
    with scene.worker.tenant_tx(ACME) as tx:
        tx.tenants.hold(LockReason.ROOT_KEY)
    assert "Locked by ada" not in text(shown("keys", context)), "the root key locks it"
    with scene.worker.tenant_tx(ACME) as tx:
        tx.tenants.hold(LockReason.MANUAL)
    assert "Locked by ada@acme\\.example" in text(shown("keys", context))
    with scene.worker.tenant_tx(ACME) as tx:
        tx.audit.append(an_audit_event("unlocked", name=AuditName.TENANT_UNLOCKED))
    assert "Locked by ada" not in text(shown("keys", context)), "locked again by an approval"


@pytest.mark.parametrize("state", [State.ACTIVE, State.PROVISIONING])
def test_open_page_without_the_database_says_so_and_raises_nothing(scene: Scene, state: State) -> None:
    def left() -> bool:
        raise DatabaseUnavailable("PostgreSQL does not respond")

    scene.tenant(state)
    said = text(shown("overview", replace(scene.page_context(), left=left)))
    assert "Status not available" in said
    assert "Nothing can be changed now, and no change was lost." in said
    assert "PostgreSQL" not in said


def test_roles_without_the_permission_see_the_status_and_no_controls(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.measured()
    at = shown("services", scene.page_context(ACME, PersonRole.AUDITOR))
    assert "Operational" in strip(at)
    assert not [one for one in at.button if one.key and one.key.startswith("standing.")]


def test_old_isolation_checks_are_unknown(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.measured()
    with scene.field.administrator() as administrator:
        administrator.execute(
            "update okcm.boundary_result set recorded_at = %s", [datetime.now(UTC) - timedelta(hours=30)]
        )
    said = strip(shown("overview", scene.page_context()))
    assert ":gray-badge[:material/help: Isolation: Check overdue]" in said


@pytest.mark.parametrize("state", [State.ACTIVE, State.LOCKED])
def test_refresh_of_an_open_page_takes_one_transaction(
    scene: Scene, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.tenant(state)
    scene.measured()
    context = scene.page_context(ACME, PersonRole.AUDITOR)
    with context.database.tenant_tx(ACME) as tx:
        drawn = tx.tenants.get()
    begun: list[str] = []
    begin = Database._begin
    monkeypatch.setattr(
        Database, "_begin", lambda self, tenant, **how: [begun.append(tenant), begin(self, tenant, **how)][1]
    )
    at = AppTest.from_function(_header, args=(context, drawn), default_timeout=SECONDS).run()
    assert not at.exception, at.exception
    assert "as of" in strip(at)
    assert begun == [ACME]


def _header(context, drawn) -> None:
    from dashboard.status import section  # noqa: PLC0415 - AppTest runs this function's source as a separate script

    section.draw_header(context, drawn, "Keys")
