from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.errors.tenants import AccessDenied, SessionEnded
from core.tenants.roles import OPERATORS, PersonRole
from dashboard.auth.claims import read
from tests.dashboard.people import NAMES, Clock, claims_of

CLOCK = Clock(datetime(2026, 11, 25, 12, tzinfo=UTC))
NOW = CLOCK.at


def claims(**changed: Any) -> dict[str, Any]:
    """Return complete claims of an administrator of ACME; None removes one."""
    return claims_of(CLOCK, **{"iat": int(NOW.timestamp()) - 60} | changed)


def test_complete_claims_identify_user_tenant_and_role() -> None:
    sign_on = read(claims(), NAMES, NOW)
    assert sign_on.person.subject == "ada"
    assert sign_on.person.tenant_id == "acme-corp-12345"
    assert sign_on.person.roles == {PersonRole.ADMINISTRATOR}
    assert sign_on.expires_at == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    "changed", [{"nonce": "n-2"}, {"sub": "eve"}, {"iss": "https://b.example"}, {"iat": 1}, {"sid": "s"}]
)
def test_another_sign_on_is_another_session(changed: dict[str, Any]) -> None:
    assert read(claims(**changed), NAMES, NOW).session_id != read(claims(), NAMES, NOW).session_id


def test_shifted_characters_between_claims_change_the_session_id() -> None:
    one = read(claims(sub="ab", nonce="c"), NAMES, NOW)
    other = read(claims(sub="a", nonce="bc"), NAMES, NOW)
    assert one.session_id != other.session_id


@pytest.mark.parametrize("name", [None, "", "  ", 7])
def test_without_a_name_the_subject_is_shown(name: object) -> None:
    assert read(claims(name=name), NAMES, NOW).person.name == "ada"


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": int(NOW.timestamp())},
        {"exp": int(NOW.timestamp()) - 86400},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": 1e30},
        {"exp": float("nan")},
        {"iat": None},
        {"iat": int(NOW.timestamp()) + 120},
    ],
)
def test_a_sign_on_with_missing_or_past_times_has_ended(changed: dict[str, Any]) -> None:
    with pytest.raises(SessionEnded):
        read(claims(**changed), NAMES, NOW)


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 301},
        {"sub": ["ada"]},
        {"openkcm_tenant": None},
        {"openkcm_tenant": ""},
        {"openkcm_tenant": ["acme-corp-12345"]},
        {"openkcm_tenant": "ACME"},
        {"openkcm_tenant": "openkcm-operators"},
        {"openkcm_tenant": "openkcm-canary"},
        {"openkcm_tenant": "*"},
        {"openkcm_roles": None},
        {"openkcm_roles": []},
        {"openkcm_roles": "root"},
        {"openkcm_roles": {"administrator": True}},
        {"openkcm_roles": [["administrator"]]},
    ],
)
def test_a_sign_on_without_user_tenant_or_role_is_denied(changed: dict[str, Any]) -> None:
    with pytest.raises(AccessDenied):
        read(claims(**changed), NAMES, NOW)


@pytest.mark.parametrize("roles", ["auditor", ["auditor", "billing", 7]])
def test_a_role_may_be_text_and_roles_of_other_products_are_ignored(roles: object) -> None:
    assert read(claims(openkcm_roles=roles), NAMES, NOW).person.roles == {PersonRole.AUDITOR}


def test_an_operator_has_no_tenant() -> None:
    operator = read(claims(openkcm_tenant=None, openkcm_roles=["operator", "administrator"]), NAMES, NOW).person
    assert (operator.tenant_id, operator.roles) == (OPERATORS, {PersonRole.OPERATOR})
    with pytest.raises(AccessDenied):
        read(claims(openkcm_roles=["operator"]), NAMES, NOW)
