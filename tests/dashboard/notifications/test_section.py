"""Notifications on the page Settings: targets, tests, retries and roles, on a real database with a real receiver."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from standardwebhooks import Webhook
from streamlit.testing.v1 import AppTest

from core.errors.tenants import PermissionDenied
from core.messages.base import StepInput
from core.notifications import NotificationKind
from core.notifications.targets import GROUPS, EventGroup, NotificationTarget, TargetKind
from core.tenants.lifecycle import State
from core.tenants.roles import PersonRole
from dashboard.notifications import actions
from tests.dashboard.scene import ACME, Scene, everything_stored, press, shown, text
from tests.e2e.receivers import CallbackReceiver

ADMINISTRATOR, AUDITOR, KEYS = PersonRole.ADMINISTRATOR, PersonRole.AUDITOR, PersonRole.KEY_ADMINISTRATOR
BETA = "beta-corp-67890"
EVERY = tuple(kind for kinds in GROUPS.values() for kind in kinds)


@pytest.fixture
def receiver() -> Iterator[CallbackReceiver]:
    with closing(CallbackReceiver()) as receiver:
        yield receiver


@pytest.fixture
def acme(scene: Scene) -> Scene:
    scene.tenant(State.ACTIVE)
    return scene


def settings(scene: Scene, role: PersonRole = ADMINISTRATOR) -> AppTest:
    return shown("settings", replace(scene.page_context(ACME, role), plain_webhooks=True))


def targets(scene: Scene, tenant_id: str = ACME) -> list[NotificationTarget]:
    with scene.dashboard.tenant_tx(tenant_id) as tx:
        return list(tx.targets.all())


def add_webhook(scene: Scene, url: str, tenant_id: str = ACME) -> str:
    """Add a webhook and return its id."""
    context = replace(scene.page_context(tenant_id), plain_webhooks=True)
    actions.add(context, TargetKind.WEBHOOK, "Security team", url, EVERY)
    return targets(scene, tenant_id)[-1].target_id


def store_lock(scene: Scene) -> None:
    """Store the notification of a lock, as its operation does."""
    with scene.worker.tenant_tx(ACME) as tx:
        row = tx.tenants.get()
        assert row is not None
        step = StepInput(tenant_id=ACME, operation_id="lock-1")
        scene.gateway.notifications._outbox.store(tx, step, row, NotificationKind.LOCKED)


def table(at: AppTest, number: int) -> list[dict[str, object]]:
    return at.dataframe[number].value.to_dict("records")


def test_webhook_is_added_with_its_events_and_shows_its_secret_once(acme: Scene, receiver) -> None:
    at = settings(acme)
    assert "No targets. All notifications go to the e-mail receiver" in text(at)
    press(at, "notifications.add")
    at.text_input(key="notifications.dialog.label").set_value("Security team")
    at.text_input(key="notifications.dialog.address").set_value("hooks.example")
    assert "The URL does not begin with https://" in press(at, "notifications.dialog.do")
    at.text_input(key="notifications.dialog.address").set_value(receiver.url)
    at.multiselect(key=f"notifications.dialog.{EventGroup.KEYS}").set_value([])
    said = press(at, "notifications.dialog.do")
    assert "shown only once" in said
    [secret] = [block.value for block in at.code if block.value.startswith("whsec_")]
    press(at, "notifications.dialog.close")
    assert secret not in text(at)
    assert "notifications.done" not in at.session_state
    [target] = targets(acme)
    assert (target.label, target.wants(NotificationKind.LOCKED), target.wants(NotificationKind.KEYS_ROTATED)) == (
        "Security team",
        True,
        False,
    )
    assert table(at, 0)[0]["Events"] == "Security, Certificates, Approvals, Compliance, Lifecycle"
    said = press(at, "notifications.test")
    assert "Delivered (204)" in said
    Webhook(secret).verify(receiver.taken[0].body, receiver.taken[0].headers)
    assert secret.removeprefix("whsec_") not in everything_stored(acme.field)
    assert acme.recorded("tenant.notification_target_added") == [("ada@acme.example", "success")]
    assert acme.recorded("tenant.notification_test_requested") == [("ada@acme.example", "success")]


def test_failed_test_names_its_cause_and_retry_delivers_it(acme: Scene, receiver) -> None:
    add_webhook(acme, receiver.url)
    receiver.status = 503
    at = settings(acme)
    said = press(at, "notifications.test")
    assert "Failed, will be retried: The receiver responded with 503" in said
    [row] = table(at, 1)
    assert (row["Event"], row["Target"], row["Attempts"]) == ("Test", "Security team", 1)
    receiver.status = 200
    at = settings(acme)
    assert "Delivered (200)" in press(at, "notifications.retry")
    assert len({taken.headers["webhook-id"] for taken in receiver.taken}) == 1
    at = settings(acme)
    assert table(at, 1)[0]["Result"] == "Delivered (200)"
    assert not [one for one in at.button if one.key == "notifications.retry"]
    assert acme.recorded("tenant.notification_retry_requested") == [("ada@acme.example", "success")]


def test_target_is_changed_paused_rotated_and_removed(acme: Scene, receiver) -> None:
    add_webhook(acme, receiver.url)
    at = settings(acme)
    press(at, "notifications.events")
    for group in GROUPS:
        at.multiselect(key=f"notifications.dialog.{group}").set_value([])
    assert "No event is selected" in press(at, "notifications.dialog.do")
    at.multiselect(key=f"notifications.dialog.{EventGroup.SECURITY}").set_value([NotificationKind.LOCKED])
    press(at, "notifications.dialog.do")
    assert table(at, 0)[0]["Events"] == "Security (1 of 3)"
    press(at, "notifications.pause")
    assert table(at, 0)[0]["State"] == "Paused"
    assert at.button(key="notifications.test").disabled
    press(at, "notifications.pause")
    press(at, "notifications.rotate")
    said = press(at, "notifications.dialog.do")
    assert "For 24 hours messages also have a signature with the former secret" in said
    assert [block.value for block in at.code if block.value.startswith("whsec_")]
    press(at, "notifications.dialog.close")
    assert str(table(at, 0)[0]["Signing secret"]).startswith("Two secrets until")
    press(at, "notifications.remove")
    press(at, "notifications.dialog.do")
    assert targets(acme) == []
    names = [one["name"] for one in acme.records() if "notification" in one["name"]]
    assert names == [
        "tenant.notification_target_added",
        *["tenant.notification_target_changed"] * 3,
        "tenant.notification_secret_rotated",
        "tenant.notification_target_removed",
    ]


def test_auditor_reads_and_key_administrator_sees_nothing(acme: Scene, receiver) -> None:
    target_id = add_webhook(acme, receiver.url)
    at = settings(acme, AUDITOR)
    assert table(at, 0)[0]["Label"] == "Security team"
    assert "Read-only for your role" in text(at)
    assert not [one for one in at.button if str(one.key).startswith("notifications.")]
    assert "Delivery log" not in text(settings(acme, KEYS))
    for role in (AUDITOR, KEYS):
        context = acme.page_context(ACME, role)
        for attempt in (
            lambda context=context: actions.add(context, TargetKind.EMAIL, "Eve", "eve@example.com", EVERY),
            lambda context=context: actions.change_events(context, target_id, EVERY),
            lambda context=context: actions.pause(context, target_id, paused=True),
            lambda context=context: actions.rotate_secret(context, target_id),
            lambda context=context: actions.remove(context, target_id),
            lambda context=context: actions.send_test(context, target_id),
            lambda context=context: actions.retry(context, target_id, "message"),
        ):
            with pytest.raises(PermissionDenied):
                attempt()
    assert [one.label for one in targets(acme)] == ["Security team"]
    assert len(acme.recorded("dashboard.action_refused")) == 14
    assert receiver.taken == []


def test_administrator_of_another_tenant_reaches_no_target(acme: Scene, receiver) -> None:
    target_id = add_webhook(acme, receiver.url)
    acme.tenant(State.ACTIVE, BETA, "Beta")
    store_lock(acme)
    beta = replace(acme.page_context(BETA), plain_webhooks=True)
    assert "Security team" not in text(shown("settings", beta))
    with acme.dashboard.tenant_tx(ACME) as tx:
        [message] = tx.outbox.deliveries(9)
    for attempt in (
        lambda: actions.change_events(beta, target_id, [NotificationKind.READY]),
        lambda: actions.pause(beta, target_id, paused=True),
        lambda: actions.rotate_secret(beta, target_id),
        lambda: actions.remove(beta, target_id),
        lambda: actions.send_test(beta, target_id),
        lambda: actions.retry(beta, target_id, message.message_id),
    ):
        with pytest.raises(Exception, match=r"does not exist|not waiting"):
            attempt()
    assert receiver.taken == []
    [target] = targets(acme)
    assert (target.paused, target.secret_number, target.muted) == (False, 1, frozenset())
