"""Each step of ChangeRootKey crashes after each of its effects, or the new root key is disabled between two steps.

After a crash a retry completes the step. A disabled key leaves the tenant on the former root key.
"""

from collections.abc import Callable
from functools import partial

import pytest

from core.errors.keys import CustomerKeyError, RootKeyCredentialsRefused, RootKeyDenied, RootKeyDisabled
from core.keys.root_keys import PlatformKeyRef, RootKeyMode
from core.messages.keys import PreflightResult, RootKeyStep
from openkcm.errors import OpenKcmError
from tests.activities.dying import after_effect, crash, crashes_after, full_but
from tests.activities.root_keys.changing import STEPS, Change

# The former (None: the platform's) and the new root key of each direction, by the names of the customer's keys.
DIRECTIONS = {
    "to the customer": (None, "openkcm-root"),
    "to another key": ("openkcm-root", "second"),
    "to the same key again": ("openkcm-root", "openkcm-root"),
    "back to the platform": ("openkcm-root", None),
}


def ask(change: Change, bao, key: str | None) -> RootKeyStep:
    return change.ask(PlatformKeyRef(), None) if key is None else change.ask(bao.place(key), bao.token())


def go(change: Change, bao, key: str | None) -> RootKeyStep:
    step = ask(change, bao, key)
    change.through(step)
    return step


@pytest.mark.parametrize(
    ("direction", "crashing_step"), full_but(("to the customer", "wrap-service-keys"), DIRECTIONS, STEPS)
)
def test_retry_completes_a_step_that_crashed_after_an_effect(change, bao, direction, crashing_step) -> None:
    former, new = DIRECTIONS[direction]
    # All steps in the first direction, and every third in the others, which share its code.
    stride = 1 if direction == "to the customer" else 3
    before, effect, crashed = change.opened(), 1 - stride, True
    while crashed:
        go(change, bao, former)
        step, effect = ask(change, bao, new), effect + stride
        for name in STEPS:
            if name == crashing_step:
                crashed = crashes_after(change.tenant, effect, partial(change.run, name, step))
                assert change.opened() == before
            change.run(name, step)
        change.assert_in_force(
            RootKeyMode.PLATFORM if new is None else RootKeyMode.OPENBAO, None if new is None else step.request_id
        )
        assert change.opened() == before
        assert change.change(step.number).state == "done"
    assert effect > 2, "a step has at least two effects"
    change.tenant.assert_audited_once()
    assert set(change.audited("root_key.changed")) == {
        (f"root-key-{number}", outcome) for number in range(1, change.number + 1) for outcome in ("intended", "success")
    }


def test_abandon_that_crashes_after_its_commit_happens_once(change, bao) -> None:
    before = change.opened()
    step = change.ask(bao.place(), bao.token())
    change.through(step, until="wrap-service-keys")
    abandon = partial(change.abandon, step, "root_key_disabled", "switch-root-key")
    assert crashes_after(change.tenant, 1, abandon)
    abandon()
    change.assert_in_force(RootKeyMode.PLATFORM, None)
    assert change.opened() == before
    assert change.audited("root_key.changed") == [("root-key-1", "intended"), ("root-key-1", "failure")]


def test_preflight_that_crashes_after_its_commit_returns_the_same_result(change, bao) -> None:
    step = change.preflight_alone(bao.place(), bao.token())
    with after_effect(change.tenant, 100, crash) as seen:
        change.run("preflight-root-key", step)
    again = change.preflight_alone(bao.place(), bao.token())
    assert crashes_after(change.tenant, seen[0], partial(change.run, "preflight-root-key", again))
    assert change.run("preflight-root-key", again) == PreflightResult(problems=0)
    assert change.problem_codes(again) == []


TAKEN = {
    "disabled": (lambda bao, _: bao.soft_delete(), RootKeyDisabled.code),
    "revoked": (lambda bao, credentials: bao.revoke(credentials), RootKeyCredentialsRefused.code),
}
FORMER = {"disabled": None, "revoked": "second"}
"""The former root key in each case."""


def change_as_the_workflow_does(change: Change, step: RootKeyStep, between: Callable[[str], None]) -> str:
    """Run the steps with `between` before each, and abandon at the first failure; return its code."""
    for name in STEPS:
        between(name)
        try:
            result = change.run(name, step)
            code = result.code if isinstance(result, PreflightResult) else ""
        except OpenKcmError as failed:
            if failed.retryable:
                raise
            code = failed.code
        if code:
            change.abandon(step, code, name)
            return code
    return ""


@pytest.mark.parametrize(("how", "moment"), full_but(("revoked", "switch-root-key"), TAKEN, STEPS))
def test_new_root_key_unusable_before_a_step_leaves_the_former_one_in_force(change, bao, how, moment) -> None:
    (take, code), former = TAKEN[how], FORMER[how]
    held = go(change, bao, former).request_id if former else None
    before, credentials = change.opened(), bao.token()
    step = change.ask(bao.place(), credentials)
    try:
        ended = change_as_the_workflow_does(
            change, step, lambda name: take(bao, credentials) if name == moment else None
        )
    finally:
        bao.restore()
    assert ended == code
    assert_on_the_former(change, step, held, code)
    assert change.opened() == before


@pytest.mark.parametrize("how", TAKEN)
def test_new_root_key_unusable_after_half_of_the_wraps_leaves_the_former_one_in_force(change, bao, how) -> None:
    (take, code), former = TAKEN[how], FORMER[how]
    held = go(change, bao, former).request_id if former else None
    credentials = bao.token()
    step = change.ask(bao.place(), credentials)
    change.through(step, until="preflight-root-key")
    change.run("wrap-service-keys", step)
    change.add_service("payroll")
    before = change.opened()
    try:
        take(bao, credentials)
        with pytest.raises(CustomerKeyError) as failed:
            change.run("wrap-service-keys", step)
    finally:
        bao.restore()
    assert failed.value.code == code
    change.abandon(step, code, "wrap-service-keys")
    assert_on_the_former(change, step, held, code)
    assert change.opened() == before


def test_new_root_key_without_decrypt_right_is_detected_before_keys_are_wrapped_under_it(change, bao) -> None:
    before, step = change.opened(), change.ask(bao.place(), bao.token())

    def between(name: str) -> None:
        if name == "wrap-service-keys":
            bao.allow(("encrypt", "keys"))

    assert change_as_the_workflow_does(change, step, between) == RootKeyDenied.code
    assert_on_the_former(change, step, None, RootKeyDenied.code)
    assert change.opened() == before


def test_same_root_key_with_new_credentials_succeeds_after_an_abandoned_change(change, bao) -> None:
    before, credentials = change.opened(), bao.token()
    step = change.ask(bao.place(), credentials)
    ended = change_as_the_workflow_does(
        change, step, lambda name: bao.revoke(credentials) if name == "switch-root-key" else None
    )
    assert ended == RootKeyCredentialsRefused.code
    again = go(change, bao, "openkcm-root")
    change.assert_in_force(RootKeyMode.OPENBAO, again.request_id)
    assert change.opened() == before


def assert_on_the_former(change: Change, step: RootKeyStep, held: str | None, code: str) -> None:
    change.assert_in_force(RootKeyMode.OPENBAO if held else RootKeyMode.PLATFORM, held)
    ended = change.change(step.number)
    assert (ended.state, ended.problem) == ("failed", code)
    assert change.audited("root_key.changed")[-2:] == [
        (step.operation_id, "intended"),
        (step.operation_id, "failure"),
    ]
    change.tenant.assert_audited_once()
