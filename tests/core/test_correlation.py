import re
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.correlation import cleaned, correlated, correlation_id, shown


@given(st.text(max_size=400), st.integers(3, 128))
def test_cleaned_id_is_bounded_and_safe(text: str, limit: int) -> None:
    assert re.fullmatch(rf"[A-Za-z0-9._:/~-]{{0,{limit}}}", cleaned(text, limit))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("tenant/acme-corp-12345/rotate/7", "tenant/acme-corp-12345/rotate/7"),
        ("a\r\nX-Vault-Token: stolen", "a__X-Vault-Token:_stolen"),
        ("'); drop table okcm.tenant; --", "____drop_table_okcm.tenant__--"),
    ],
)
def test_cleaned_keeps_valid_ids_and_replaces_unsafe_characters(text: str, clean: str) -> None:
    assert cleaned(text, 63) == clean


def test_shortened_id_keeps_owner_and_operation() -> None:
    long = f"tenant/{'a' * 40}/service/{'b' * 36}-one"
    cut = cleaned(long, 63)
    assert len(cut) == 63
    assert cut.startswith("tenant/aaa")
    assert cut.endswith("-one")
    assert cut != cleaned(long.replace("-one", "-two"), 63)


def test_current_id_belongs_to_the_context() -> None:
    def inside() -> str:
        correlation_id.set("tenant/acme")
        return shown(63)

    assert copy_context().run(inside) == "tenant/acme"
    assert shown(63) == ""


def test_id_is_reset_after_its_block() -> None:
    with correlated("tenant/acme"), correlated("tenant/beta"):
        assert shown(63) == "tenant/beta"
    assert shown(63) == ""
