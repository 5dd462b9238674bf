import pytest

from core.tenants.roles import OPERATORS, PERMISSIONS, Permission, Person, PersonRole


def somebody(*roles: PersonRole) -> Person:
    return Person("ada", "Ada", "acme", frozenset(roles))


def test_every_role_has_a_meaning() -> None:
    assert PERMISSIONS.keys() == set(PersonRole)


def test_nobody_without_a_role_may_anything() -> None:
    assert not any(somebody().may(permission) for permission in Permission)


def test_roles_add_up() -> None:
    both = somebody(PersonRole.KEY_ADMINISTRATOR, PersonRole.AUDITOR)
    assert both.may(Permission.MANAGE_KEYS)
    assert both.may(Permission.VIEW_AUDIT)
    assert not both.may(Permission.MANAGE_SERVICES)


@pytest.mark.parametrize("role", [role for role in PersonRole if role is not PersonRole.OPERATOR])
def test_no_role_of_a_customer_operates_the_platform(role: PersonRole) -> None:
    assert not somebody(role).may(Permission.OPERATE)


def test_an_operator_sees_nothing_of_a_customers_tenant() -> None:
    operator = Person("olga", "Olga", OPERATORS, frozenset({PersonRole.OPERATOR}))
    assert operator.is_operator
    assert {permission for permission in Permission if operator.may(permission)} == {Permission.OPERATE}
