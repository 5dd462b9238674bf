"""A change of the product's parameters is noticed here, before the full tier removes the controls with the old ones."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tests.compliance.isolation.crypto_api.controls import CONTROLS


def _require_same_parameters(replaced: Callable[..., Any], replacement: Callable[..., Any]) -> None:
    """Raise TypeError unless `replacement` takes the arguments of `replaced`, by the same names where it names them."""
    parameters = inspect.signature(replaced).parameters.values()
    positional = [one.name for one in parameters if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}]
    named = {one.name: one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    taken = inspect.signature(replacement).bind(*positional, **named)
    for name, value in taken.arguments.items():
        if isinstance(value, str) and name.strip("_") not in {"", value}:
            raise TypeError(f"{name} is passed as {value}")


class ComparingPatch(pytest.MonkeyPatch):
    """A monkeypatch that accepts only functions with the parameters of what they replace."""

    def setattr(self, target: Any, name: Any, *value: Any) -> None:
        _require_same_parameters(getattr(target, name), *value)
        super().setattr(target, name, *value)


@pytest.mark.parametrize("control", CONTROLS)
def test_functions_that_remove_a_control_take_the_parameters_of_the_replaced_ones(control) -> None:
    remove_control, _ = CONTROLS[control]
    with ComparingPatch.context() as patch:
        remove_control(patch)


@pytest.mark.parametrize(
    "replacement", [lambda _self, conditions: conditions, lambda _self, conditions, charge: (conditions, charge)]
)
def test_function_with_other_parameters_is_refused(replacement) -> None:
    class Store:
        def search(self, charge, conditions) -> None: ...

    with ComparingPatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(Store, "search", replacement)
