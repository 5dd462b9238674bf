import pytest

from core.tenants.roles import OPERATORS, PERMISSIONS, Permission, Person, PersonRole


def a_person(*roles: PersonRole) -> Person:
    return Person("ada", "Ada", "acme", frozenset(roles))


def test_every_role_has_permissions() -> None:
    assert PERMISSIONS.keys() == set(PersonRole)


def test_person_without_a_role_has_no_permission() -> None:
    assert not any(a_person().may(permission) for permission in Permission)


def test_permissions_of_several_roles_are_combined() -> None:
    both = a_person(PersonRole.KEY_ADMINISTRATOR, PersonRole.AUDITOR)
    assert both.may(Permission.MANAGE_KEYS)
    assert both.may(Permission.VIEW_AUDIT)
    assert not both.may(Permission.MANAGE_SERVICES)


@pytest.mark.parametrize("role", [role for role in PersonRole if role is not PersonRole.OPERATOR])
def test_no_role_of_a_customer_operates_the_platform(role: PersonRole) -> None:
    assert not a_person(role).may(Permission.OPERATE)


def test_operator_has_no_permission_of_a_customer() -> None:
    operator = Person("olga", "Olga", OPERATORS, frozenset({PersonRole.OPERATOR}))
    assert operator.is_operator
    assert {permission for permission in Permission if operator.may(permission)} == {Permission.OPERATE}
