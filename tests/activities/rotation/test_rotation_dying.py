"""Each step of RotateKeys crashes after each of its effects, or the rotation is abandoned between two steps.

After a crash a retry completes the step. An abandoned rotation leaves usable keys; the next one completes it.
"""

from functools import partial

import pytest

from core.errors.keys import KeyUnavailable
from core.keys.rotation import KeyState, RotationScope
from core.messages.keys import PlanRotationStep
from tests.activities.dying import crashes_after, full_but
from tests.activities.rotation.rotating import STEPS, Rotating

KINDS = {
    "everything": {},
    "the tenant key alone": {"services": RotationScope.NONE},
    "the services alone": {"tenant_key": False},
    "compromised": {"compromised": True},
}


@pytest.mark.parametrize(("kind", "crashing_step"), full_but(("everything", "activate-service-keys"), KINDS, STEPS))
def test_retry_completes_a_step_that_crashed_after_an_effect(rotating, kind, crashing_step) -> None:
    # All steps of the first kind, and every third of the others, which share its code.
    stride = 1 if kind == "everything" else 3
    effect, crashed = 1 - stride, True
    while crashed:
        effect += stride
        before, copies = rotating.opened(), rotating.copies()
        step = rotating.wants(**KINDS[kind])
        crashed = crashing_step == "plan-rotation" and crashes_after(
            rotating.tenant, effect, partial(rotating.step_of, crashing_step, step)
        )
        plan = rotating.step_of("plan-rotation", step)
        for name in rotating.path(step, plan):
            if name == crashing_step:
                crashed = crashes_after(rotating.tenant, effect, partial(rotating.step_of, name, step))
                rotating.assert_whole()
            rotating.step_of(name, step)
        rotating.assert_whole()
        assert_as_asked(rotating, step, before, copies)
        rotating.retire_all()  # otherwise the number of effects would grow with each round
    rotating.tenant.assert_audited_once()


def assert_as_asked(rotating: Rotating, step: PlanRotationStep, before, copies) -> None:
    now, request = rotating.opened(), step.request
    if request.compromised:
        assert not set(before) & set(now), "no caller can decrypt with a compromised version"
        assert set(rotating.states().values()) == {KeyState.ACTIVE, KeyState.DESTROYED}
    else:
        assert {version: now[version] for version in before} == before
    rotated = request.services is RotationScope.ALL
    assert len(set(now.values())) == len(now), "two versions are never the same key"
    assert len(now) == (3 if request.compromised else len(before) + 3 * rotated)
    assert rotating.rotation(step.number).state == "done"
    if request.tenant_key:
        key = rotating.l2
        assert (key.version, key.oldest) == (step.number + 1, step.number + 1)
        for copy in copies:
            with pytest.raises(KeyUnavailable):
                rotating.open_copy(copy)


@pytest.mark.parametrize(("kind", "last"), full_but(("everything", "rewrap-keys"), KINDS, STEPS[:-1]))
def test_abandoned_rotation_leaves_keys_that_work_and_the_next_one_completes_it(rotating, kind, last) -> None:
    before, step = rotating.opened(), rotating.wants(**KINDS[kind])
    rotating.rotate(step, until=last)
    rotating.give_up(step, "root_key_unreachable", last)
    rotating.assert_whole()
    if not step.request.compromised:
        assert before.items() <= rotating.opened().items()
    assert KeyState.PREPARED not in rotating.states().values()
    ended = rotating.rotation(step.number)
    assert (ended.state, ended.problem) == ("failed", "root_key_unreachable")
    # The request only completes the unfinished rotation.
    rotating.rotate(rotating.wants(services=RotationScope.NONE, tenant_key=False))
    assert rotating.l2.oldest == rotating.l2.version
    assert rotating.tenant_keys.newest(rotating.tenant_id).oldest == rotating.l2.version
    assert KeyState.COMPROMISED not in rotating.states().values()
    rotating.assert_whole()
    rotating.tenant.assert_audited_once()
