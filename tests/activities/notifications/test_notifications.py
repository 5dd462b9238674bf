"""Step 6: each message of the outbox is sent once by its id, and one channel's failure does not delay the other."""

import pytest

from config.settings import Settings
from core.errors.platform import NotificationUndelivered
from core.notifications import Channel, NotificationKind
from core.tenants.provisioning import Step
from tests.activities.notifications.receiving import Mailbox
from tests.activities.provisioning import Provisioning
from tests.database.fixtures import Field
from tests.e2e.receivers import CallbackReceiver


@pytest.fixture
def settings(settings: Settings, callback: CallbackReceiver, mailbox: Mailbox) -> Settings:
    return settings.model_copy(update={"callback_url": callback.url, "smtp_port": mailbox.port})


def unsent(tenant: Provisioning) -> list[Channel]:
    return tenant.read(lambda tx: [message.channel for message in tx.outbox.unsent()])


def make_due(field: Field) -> None:
    """Let the next attempt of every message be due."""
    with field.administrator() as administrator:
        administrator.execute("update okcm.outbox set next_try = now(), added_at = added_at - interval '1 minute'")


def test_message_is_sent_once_on_every_channel_and_again_with_the_same_id_if_not_marked(
    ready, callback, mailbox, field
) -> None:
    ready.run(Step.ANNOUNCE, kind=NotificationKind.READY)
    ready.run(Step.ANNOUNCE, kind=NotificationKind.READY)
    assert len(callback.about(ready.tenant_id, "ready")) == 1
    assert len(mailbox.about(ready.tenant_id, "is ready")) == 1
    assert unsent(ready) == []
    assert ready.is_done(Step.ANNOUNCE)
    with field.administrator() as administrator:  # as after a crash between sending and marking
        administrator.execute(
            "update okcm.outbox set sent_at = null, next_try = now() where tenant_id = %s", [ready.tenant_id]
        )
    ready.run(Step.ANNOUNCE, kind=NotificationKind.READY)
    sent = callback.about(ready.tenant_id, "ready")
    assert len(sent) == 2
    assert len({taken.headers["webhook-id"] for taken in sent} | {taken.event["id"] for taken in sent}) == 1
    mails = mailbox.about(ready.tenant_id, "is ready")
    assert len(mails) == 2
    assert len({mail["Message-ID"] for mail in mails}) == 1
    ready.assert_audited_once()


def test_failing_channel_does_not_delay_the_other_and_is_retried(ready, callback, mailbox, field) -> None:
    mailbox.close()
    with pytest.raises(NotificationUndelivered):
        ready.run(Step.ANNOUNCE, kind=NotificationKind.READY)
    assert len(callback.about(ready.tenant_id, "ready")) == 1
    assert unsent(ready) == [Channel.EMAIL]
    assert not ready.is_done(Step.ANNOUNCE)

    mailbox.open()
    make_due(field)
    ready.run(Step.ANNOUNCE, kind=NotificationKind.READY)
    assert len(mailbox.about(ready.tenant_id, "is ready")) == 1
    assert len(callback.about(ready.tenant_id, "ready")) == 1
    assert ready.is_done(Step.ANNOUNCE)


def test_sweep_sends_messages_of_every_tenant_also_when_the_mail_server_fails(
    ready, request_tenant, callback, mailbox, field
) -> None:
    other = request_tenant()
    other.run_until(Step.ACTIVATE)
    ready.run_platform("dispatch-outbox")
    assert callback.taken == [], "the operation sends a message that it has just stored"
    mailbox.close()
    make_due(field)
    ready.run_platform("dispatch-outbox")
    assert [len(callback.about(tenant.tenant_id, "ready")) for tenant in (ready, other)] == [1, 1]
    mailbox.open()
    make_due(field)
    ready.run_platform("dispatch-outbox")
    assert [len(mailbox.about(tenant.tenant_id, "is ready")) for tenant in (ready, other)] == [1, 1]
    assert unsent(ready) == unsent(other) == []
