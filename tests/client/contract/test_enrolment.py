import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract.enrolment import (
    agent_command,
    enrolment_name,
    folder_of,
    join_token,
    parse_enrolment_name,
    parse_join_token,
    parse_lifetime,
)
from openkcm.contract.services import ServiceKind, is_connected
from openkcm.errors import CallerError, InvalidName

SECRET = "s" * 43


def test_token_contains_tenant_and_root_and_parses_back():
    token = join_token("acme-corp-12345", SECRET, b"root")
    assert token.text == f"okcmj1.acme-corp-12345.{SECRET}.{hashlib.sha256(b'root').hexdigest()[:32]}"
    assert parse_join_token(f" {token.text}\n") == token
    assert token.names(b"root")
    assert not token.names(b"another root")
    assert token.hash == hashlib.sha256(SECRET.encode()).hexdigest()
    assert SECRET not in repr(token)


@given(st.text() | st.builds("okcmj1.{}.{}.{}".format, st.text(), st.text(), st.text()))
def test_invalid_token_is_rejected_without_quoting_it(text):
    with pytest.raises(CallerError) as refused:
        parse_join_token(text)
    assert refused.value.message in {"invalid join token", "invalid tenant id"}


@pytest.mark.parametrize(
    ("text", "lifetime"), [("1h", timedelta(hours=1)), ("24h", timedelta(days=1)), ("90s", timedelta(seconds=90))]
)
def test_a_lifetime_is_a_number_and_a_unit(text, lifetime):
    assert parse_lifetime(text) == lifetime


@pytest.mark.parametrize("text", ["", "1", "h", "0h", "25h", "1441m", "-1h", "1.5h", "1d", "1h1", "\u0661h"])
def test_invalid_or_too_long_lifetime_is_rejected(text):
    with pytest.raises(InvalidName):
        parse_lifetime(text)


def test_enrolment_name_contains_its_tenant():
    assert parse_enrolment_name(enrolment_name("acme-corp-12345", "a" * 32)) == ("acme-corp-12345", "a" * 32)
    for name in ("acme", f"*.{'a' * 32}", f"-cme.{'a' * 32}", f"acme.{'A' * 32}", f"acme.{'a' * 33}"):
        assert parse_enrolment_name(name) is None


def test_the_command_of_an_agent_names_its_service_and_folder():
    command = agent_command("https://kcm.example", "orders", ServiceKind.MONGODB, folder_of("orders"))
    assert "--service orders --kind mongodb --out '/etc/openkcm/orders'" in command


def test_agent_counts_as_connected_until_it_missed_three_heartbeats():
    now = datetime(2026, 11, 27, tzinfo=UTC)
    assert is_connected(now, now)
    assert not is_connected(now - timedelta(hours=1), now)
