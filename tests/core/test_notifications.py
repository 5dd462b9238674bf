from datetime import UTC, datetime
from itertools import product

import pytest

from core.notifications import Channel, NotificationKind, announcement_text, dashboard_url, message_id


def test_the_ready_message_is_the_customers_own_wording():
    url = dashboard_url("https://cmk.openkcm.io", "acme-corp-12345")
    subject, body = announcement_text(NotificationKind.READY, "ACME Corporation", url)
    assert subject == "OpenKCM is ready for ACME Corporation!"
    assert body.splitlines() == [
        "OpenKCM is ready for ACME Corporation!",
        "",
        "✓ Tenant environment created",
        "✓ Encryption keys configured",
        "✓ Services can now request encryption keys",
        "✓ CMK UI available at: https://cmk.openkcm.io/tenant/acme-corp-12345",
    ]


@pytest.mark.parametrize("base", ["https://cmk.openkcm.io", "https://cmk.openkcm.io/"])
def test_dashboard_url_has_one_slash_before_its_path(base):
    assert dashboard_url(base, "acme-corp-12345") == "https://cmk.openkcm.io/tenant/acme-corp-12345"


@pytest.mark.parametrize("kind", [NotificationKind.LATE, NotificationKind.FAILED])
def test_delay_and_failure_notifications_have_no_url_and_state_the_next_step(kind):
    subject, body = announcement_text(kind, "ACME Corporation", "https://cmk.openkcm.io/tenant/acme-corp-12345")
    assert "ACME Corporation" in subject
    assert "https://" not in body
    assert "is ready" not in subject
    assert "will notify you" in body


def test_each_notification_has_a_unique_id_that_each_attempt_repeats():
    tenants, operations = ("acme-corp-12345", "beta-corp-67890"), ("provision/1", "provision/2")
    cases = list(product(tenants, operations, NotificationKind, Channel))
    made = [message_id(*case) for case in cases]
    assert len(set(made)) == len(cases)
    assert [message_id(*case) for case in cases] == made


@pytest.mark.parametrize("kind", [NotificationKind.LEAVING, NotificationKind.LEAVING_REMINDER])
def test_offboarding_notification_states_time_limit_and_page_of_restore(kind):
    until = datetime(2026, 12, 25, 10, 30, tzinfo=UTC)
    _, body = announcement_text(kind, "ACME Corporation", "https://cmk.openkcm.io/tenant/acme-corp-12345", until)
    assert "until 2026-12-25 10:30 UTC" in body
    assert "https://cmk.openkcm.io/tenant/acme-corp-12345" in body
    assert "ACME Corporation" in body


def test_notification_of_an_offboarding_without_a_grace_period_promises_no_restore():
    subject, body = announcement_text(NotificationKind.LEAVING, "ACME Corporation", "https://cmk.example/tenant/acme")
    assert subject == "ACME Corporation is offboarded without a grace period"
    assert "cannot be restored" in body
    assert "nothing is destroyed yet" not in body
    assert "restore your tenant" not in body


def test_last_offboarding_notification_names_no_organization():
    texts = announcement_text(NotificationKind.OFFBOARDED, "ACME Corporation", "https://cmk.openkcm.io/tenant/acme")
    assert not [text for text in texts if "ACME" in text or "acme" in text]
