"""A simulated crash of the process right after an effect of a step."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest

from kms.network.http import Transport
from tests.activities.provisioning import Provisioning
from vault.auth.client import VaultSession


class SimulatedCrash(BaseException):
    """A crash of the process, which no `except` of the product catches."""


def crash() -> None:
    raise SimulatedCrash


def full_but(ordinary: tuple[Any, ...], *axes: Iterable[Any]) -> list[Any]:
    """Return the product of the axes as parameters; only `ordinary` runs outside the full tier."""
    return [pytest.param(*one, marks=() if one == ordinary else pytest.mark.full) for one in product(*axes)]


def every_effect(effects: Mapping[str, int], ordinary: str) -> list[Any]:
    """Return (step, effect) for each effect of each step; steps other than `ordinary` run in the full tier."""
    marks = {name: () if name == ordinary else pytest.mark.full for name in effects}
    return [pytest.param(name, n, marks=marks[name]) for name, most in effects.items() for n in range(1, most + 1)]


def crashes_after(tenant: Provisioning, effect: int, perform: Callable[[], object]) -> bool:
    """Run a step and crash after its nth effect; return False when it has fewer effects."""
    with after_effect(tenant, effect, crash):
        try:
            perform()
        except SimulatedCrash:
            return True
    return False


def perform_with_crash(
    tenant: Provisioning, steps: Mapping[str, Callable[[], object]], crashing_step: str, effect: int
) -> None:
    """Perform steps in order; the named one crashes after its nth effect and is performed again."""
    for name, perform in steps.items():
        if name == crashing_step:
            assert crashes_after(tenant, effect, perform), "the step has fewer effects"
        perform()


@contextmanager
def after_effect(tenant: Provisioning, number: int, then: Callable[[], object]) -> Iterator[list[int]]:
    """Call `then` right after the nth effect of a step; yield the number of effects.

    An effect is a response of Vault or of a customer's key server, or a commit.
    """
    tenant_tx, seen = tenant.database.tenant_tx, [0]
    counting = threading.Lock()

    def effect() -> None:
        with counting:
            seen[0] += 1
            now = seen[0]
        if now == number:
            then()

    def counted(send: Callable[..., Any]) -> Callable[..., Any]:
        def sent(*args: Any, **kwargs: Any) -> Any:
            answer = send(*args, **kwargs)
            effect()
            return answer

        return sent

    @contextmanager
    def transaction(tenant_id: str) -> Iterator[Any]:
        with tenant_tx(tenant_id) as tx:
            yield tx
        effect()

    sessions: tuple[VaultSession, ...] = (tenant.parts.vault, tenant.parts.offboarding)
    with pytest.MonkeyPatch.context() as patch:
        for session in sessions:
            patch.setattr(session, "request", counted(session.request))
        patch.setattr(tenant.database, "tenant_tx", transaction)
        patch.setattr(Transport, "send", counted(Transport.send))
        yield seen
