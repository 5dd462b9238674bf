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
def test_the_address_of_the_page_has_one_slash(base):
    assert dashboard_url(base, "acme-corp-12345") == "https://cmk.openkcm.io/tenant/acme-corp-12345"


@pytest.mark.parametrize("kind", [NotificationKind.LATE, NotificationKind.FAILED])
def test_bad_news_promises_no_address_and_says_what_happens_next(kind):
    subject, body = announcement_text(kind, "ACME Corporation", "https://cmk.openkcm.io/tenant/acme-corp-12345")
    assert "ACME Corporation" in subject
    assert "https://" not in body
    assert "is ready" not in subject
    assert "you will get" in body


def test_each_announcement_has_an_id_of_its_own_that_every_attempt_repeats():
    tenants, operations = ("acme-corp-12345", "beta-corp-67890"), ("provision/1", "provision/2")
    cases = list(product(tenants, operations, NotificationKind, Channel))
    made = [message_id(*case) for case in cases]
    assert len(set(made)) == len(cases)
    assert [message_id(*case) for case in cases] == made


@pytest.mark.parametrize("kind", [NotificationKind.LEAVING, NotificationKind.LEAVING_REMINDER])
def test_who_leaves_is_told_until_when_and_where_it_can_be_undone(kind):
    until = datetime(2026, 12, 25, 10, 30, tzinfo=UTC)
    _, body = announcement_text(kind, "ACME Corporation", "https://cmk.openkcm.io/tenant/acme-corp-12345", until)
    assert "Until 2026-12-25 10:30 UTC" in body
    assert "https://cmk.openkcm.io/tenant/acme-corp-12345" in body
    assert "ACME Corporation" in body


def test_the_farewell_names_nobody():
    texts = announcement_text(NotificationKind.FAREWELL, "ACME Corporation", "https://cmk.openkcm.io/tenant/acme")
    assert not [text for text in texts if "ACME" in text or "acme" in text]
